"""Termination reports in the output of trainings."""

import json
from typing import Any

from resnext_trainer.contract import REPORT_PREFIX


def report_in(output: str, errors: str = "") -> dict[str, Any]:
    """The only report in the standard output of a training; a failure shows both streams."""
    reports = [line.removeprefix(REPORT_PREFIX) for line in output.splitlines() if line.startswith(REPORT_PREFIX)]
    assert len(reports) == 1, output + errors
    report: dict[str, Any] = json.loads(reports[0])
    return report
