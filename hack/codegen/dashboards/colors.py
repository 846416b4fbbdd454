"""Fixed colors of phases and activities, the same in every panel; otherwise, Grafana colors series by position."""

from collections.abc import Mapping

_GRAY = "#808080"

PHASES: Mapping[str, str] = {
    "Pending": "yellow",
    "Starting": "orange",
    "Running": "green",
    "Stopping": "purple",
    "Suspended": _GRAY,
    "Restarting": "dark-orange",
    "Succeeded": "blue",
    "Failed": "red",
}
"""By phase of a training."""

ACTIVITIES: Mapping[str, str] = {
    "steps": "green",
    "lost": "red",
    "compilation": "purple",
    "evaluation": "blue",
    "checkpoint": "light-blue",
    "startup": "orange",
    "queueing": "yellow",
    "other": _GRAY,
}
"""By activity of the wall time of a training."""

STEP_TIME: Mapping[str, str] = {
    "data_wait": "orange",
    "compute": "green",
    "allreduce": "yellow",
    "optimizer": "light-green",
    "checkpoint": ACTIVITIES["checkpoint"],
    "evaluation": ACTIVITIES["evaluation"],
    "compile": ACTIVITIES["compilation"],
    "rollback": "red",
    "other": _GRAY,
}
"""By phase of the main thread of a rank."""
