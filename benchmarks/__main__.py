"""`make bench`: speed and memory of the trainer on this machine's CPU, compared with goals. gpu.py measures GPUs.

A benchmark fails only if it cannot run; it reports missed goals.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import feed, input_pipeline, overhead, results, scaling, training_step

NAMES = ("step", "feed", "input", "ranks", "overhead")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)} (default: all)")
    parser.add_argument(
        "--torch",
        default="/usr/bin/python3",
        metavar="PYTHON",
        help="Python interpreter with torch and torchvision (default: Debian's)",
    )
    parser.add_argument("--folder", type=Path, required=True, help="directory for results and generated images")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; use {', '.join(NAMES)}")
    run: dict[str, Callable[[], results.Result]] = {
        "step": lambda: training_step.run(options.torch),
        "feed": lambda: feed.run(options.folder / "feed"),
        "input": lambda: input_pipeline.run(options.torch, options.folder / "pictures"),
        "ranks": scaling.run,
        "overhead": lambda: overhead.run(options.folder),
    }
    found = []
    for name in options.names or NAMES:
        print(f"{name}:", file=sys.stderr, flush=True)
        found.append(run[name]())
        print(f"  {results.write(found[-1], options.folder)}", file=sys.stderr, flush=True)
    show(found)
    return 0


def show(found: list[results.Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("ratio", "value", "goal", "result")
    for result in found:
        for ratio in result.ratios:
            table.add_row(*results.row(ratio))
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main())
