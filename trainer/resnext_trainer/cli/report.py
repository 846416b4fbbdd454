"""`resnext-train report`."""

import argparse
import sys
from pathlib import Path

from resnext_trainer.cli.options import Commands, at_a_terminal, command


def add(commands: Commands) -> None:
    """Adds the command."""
    report = command(
        commands,
        "report",
        "render a run's log.jsonl as a self-contained HTML report, even while training is running",
        _run,
        "A training writes log.jsonl next to its checkpoints.",
    )
    report.add_argument("folder", type=Path, metavar="RUN", help="checkpoint.path, a run in it, or a log.jsonl file")
    report.add_argument("--output", type=Path, default=Path("report.html"), metavar="FILE", help="file to write")
    report.add_argument(
        "--title", default=argparse.SUPPRESS, help="heading of the report (default: name of the directory)"
    )


@at_a_terminal
def _run(options: argparse.Namespace) -> int:
    from resnext_trainer.training import html_report

    log = html_report.read(options.folder)
    folder = options.folder.resolve() if options.folder.is_dir() else options.folder.resolve().parent
    options.output.write_text(html_report.render(log, getattr(options, "title", folder.name)), encoding="utf-8")
    print(f"{options.output}: {len(log.entries):,} entries up to step {log.entries[-1].step:,}")
    if log.unreadable:
        print(f"skipped {log.unreadable:,} unparsable lines", file=sys.stderr)
    return 0
