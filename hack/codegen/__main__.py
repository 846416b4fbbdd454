"""Write the generated files: the CRD, the manifests, the chart's values schema, the dashboards and the reference.

With --check, write nothing and fail if a generated file is stale.
"""

import argparse
import sys

from hack.codegen.files import ROOT, generated_files


def main() -> int:
    """Write the files, or check that they are current; returns the exit code."""
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
        print("generated files are stale: run `make generate`", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
