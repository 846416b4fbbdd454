"""Write everything that is made from something else: the CRD, the dashboard, install.yaml, the reference.

With --check nothing is written, and a file that is not what it would be made today is an error.
"""

import argparse
import sys

from hack.codegen.files import ROOT, generated_files


def main() -> int:
    """Write the files, or check that they are fresh; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hack.codegen", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is stale")
    check = parser.parse_args().check
    stale = {path: text for path, text in generated_files().items() if not path.is_file() or path.read_text() != text}
    for path, text in stale.items():
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        print(f"{'stale' if check else 'wrote'} {path.relative_to(ROOT)}")
    if check and stale:
        print("run `make generate`", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
