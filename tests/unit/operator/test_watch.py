"""Output of `resnext-operator watch` on a terminal and in a pipe."""

import contextlib
import io
import re
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from resnext_operator import watch
from resnext_operator.api.status import Phase, Status

AT = "2026-01-01T00:00:00Z"


def status(phase, **progress):
    known = {"progress": {"updatedTime": AT, **progress}} if progress else {}
    return {"phase": phase, **known, "conditions": []}


def condition(kind, reason, message):
    return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": AT}


@pytest.fixture
def statuses(monkeypatch):
    """Statuses of a training with the widest numbers, without the pauses between them."""
    monkeypatch.setattr(watch, "PERIOD", 0.0)
    monkeypatch.setattr(watch, "LINES_EVERY", 0.0)
    soon = (datetime.now(UTC) + timedelta(hours=23)).strftime("%Y-%m-%dT%H:%M:%SZ")
    numbers = {"epochs": 250, "steps": 312_500, "loss": 6.908, "top1": 0.0012, "estimatedCompletionTime": soon}
    middle = [
        status("Running", epoch=step / 1250, step=step, imagesPerSecond=18_432.1, **numbers) for step in (1, 2, 2)
    ]
    ended = status("Succeeded", **{**numbers, "step": 312_500})
    # Both conditions changed within one second.
    ended |= {
        "reason": "Completed",
        "conditions": [
            condition("Checkpointed", "CheckpointSaved", "checkpoint saved at step 176"),
            condition("WorkersReady", "Completed", "0 of 2 workers are ready"),
            condition("Succeeded", "Completed", "250 epochs"),
        ],
    }
    return map(Status.parse, [None, status("Starting"), *middle, ended])


def test_watch_in_pipe_prints_line_per_phase_and_change(statuses):
    """A pipe gets one line for each phase and each change in the progress."""
    out = io.StringIO()
    last = watch.watch(lambda: next(statuses), Console(file=out, width=200))
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in out.getvalue().splitlines()]
    assert last.phase is Phase.SUCCEEDED
    assert lines[:2] == ["Starting", "Running"]
    assert [line.split(" · ")[:2] for line in lines if "18,432" in line] == [
        ["  0% epoch 0.0/250", "18,432 images/s"]
    ] * 2
    assert lines[-2:] == ["100% epoch 0.0/250 · loss 6.908 · top-1 0.0012", "Succeeded: 250 epochs"]


def shown(statuses):
    """Output on a terminal with 80 columns until the training ends or the user presses Ctrl-C."""

    def get():
        try:
            return next(statuses)
        except StopIteration:
            raise KeyboardInterrupt from None

    out = io.StringIO()
    with contextlib.suppress(KeyboardInterrupt):
        watch.watch(get, Console(file=out, width=80, force_terminal=True, color_system=None))
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())


def test_watch_in_80_columns_shows_every_number(statuses):
    """The widest numbers fit into a terminal of 80 columns."""
    *running, _ = statuses
    text = shown(iter(running))
    assert "…" not in text
    assert re.search(r"0% epoch 0.0/250 · 18,432 images/s · loss 6.908 · top-1 0.0012 · 2[23]:\d\d:\d\d left", text)


def test_watch_of_ended_training_shows_no_remaining_time(statuses):
    """The last line has results and no remaining time."""
    assert re.search(r"100% epoch 0.0/250 · loss 6.908 · top-1 0.0012 *\n", shown(statuses))
