"""Goodput: the wall time of a training by activity."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from resnext_operator.api.attempts import AttemptStatus
from resnext_operator.api.status import ActivitySeconds, OperatorState, Phase, ProgressStatus, Status
from resnext_operator.domain.goodput import ACTIVITIES, account, ratio_of, so_far
from resnext_trainer.contract import Progress

START = datetime(2026, 1, 1, tzinfo=UTC)


class Run:
    """A training whose status is accounted at given seconds after its start."""

    def __init__(self) -> None:
        self.status = Status()
        self.at(0, phase=Phase.PENDING)

    def at(
        self,
        second: float,
        *,
        phase: Phase | None = None,
        step: int | None = None,
        attempt: AttemptStatus | None = None,
        reported: dict[str, float] | None = None,
    ) -> "Run":
        """Decide at this second; None leaves a part of the status as it is."""
        now, before = START + timedelta(seconds=second), self.status
        after = before.copy_to_change()
        after.phase = phase or before.phase
        if attempt:
            after.attempts = [*(each for each in after.attempts if each.number != attempt.number), attempt]
        if step is not None:
            after.progress = ProgressStatus(epochs=8, step=step, steps=160, updated_time=now)
        report = Progress(attempt=after.last_attempt_number, epochs=8, steps=160, phase_seconds=reported or {})
        account(after, before, [report] if reported is not None else [], now)
        # As the API server stores it.
        self.status = Status.parse(after.to_json())
        return self

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by activity, without those that are 0."""
        found = self.status.goodput.seconds if self.status.goodput else ActivitySeconds()
        return {name: value for name in ACTIVITIES if (value := getattr(found, name))}


def attempt(number: int, **fields: Any) -> AttemptStatus:
    return AttemptStatus(number=number, start_time=START, **fields)


def ended(number: int, cause: str, **fields: Any) -> AttemptStatus:
    return attempt(number, end_time=START, cause=cause, **fields)


@pytest.fixture
def running() -> Run:
    """20 s in the queue, 30 s of start-up with 10 s of compilation, and 50 s of steps until step 50."""
    run = Run().at(20, phase=Phase.STARTING, attempt=attempt(1))
    run.at(50, phase=Phase.RUNNING, step=1, reported={"compile": 10.0, "compute": 1.0})
    return run.at(100, step=50, reported={"compile": 10.0, "compute": 41.0, "data_wait": 10.0})


class TestActivities:
    def test_goodput_divides_wall_time_until_step(self, running: Run) -> None:
        """Every second of the wall time belongs to one activity."""
        assert running.seconds == {"queueing": 20, "startup": 19, "compilation": 10, "steps": 51}
        assert running.status.goodput is not None
        assert running.status.goodput.ratio == 0.51

    @pytest.mark.parametrize(
        ("phase", "activity"),
        [
            *(("allreduce", "steps"), ("optimizer", "steps"), ("evaluation", "evaluation")),
            *(("checkpoint", "checkpoint"), ("rollback", "lost"), ("other", "other"), ("unheard_of", "other")),
        ],
    )
    def test_goodput_phase_counts_as_activity(self, running: Run, phase: str, activity: str) -> None:
        """A phase that only a later trainer reports counts as `other`."""
        before = running.seconds
        running.at(110, step=51, reported={"compile": 10.0, "compute": 41.0, "data_wait": 10.0, phase: 10.0})
        assert running.seconds == before | {activity: before.get(activity, 0) + 10}

    def test_goodput_other_time_before_first_step_is_startup(self) -> None:
        """The ranks import TensorFlow and read the checkpoint outside all phases."""
        run = Run().at(20, phase=Phase.STARTING, attempt=attempt(1))
        run.at(50, phase=Phase.RUNNING, step=1, reported={"other": 8.0, "compile": 10.0, "compute": 1.0})
        assert run.seconds == {"queueing": 20, "startup": 19, "compilation": 10, "steps": 1}
        run.at(60, step=2, reported={"other": 9.0, "compile": 10.0, "compute": 10.0})
        assert run.seconds == {"queueing": 20, "startup": 19, "compilation": 10, "steps": 10, "other": 1}

    def test_goodput_unreported_time_is_other(self, running: Run) -> None:
        """The ranks measured 6 of 10 s."""
        running.at(110, step=60, reported={"compile": 10.0, "compute": 47.0, "data_wait": 10.0})
        assert running.seconds["steps"] == 57
        assert running.seconds["other"] == 4

    def test_goodput_trainer_without_phases_counts_as_steps(self) -> None:
        """An earlier image reports no phases."""
        run = Run().at(20, phase=Phase.STARTING, attempt=attempt(1)).at(50, phase=Phase.RUNNING, step=1, reported={})
        assert run.at(100, step=50, reported={}).seconds == {"queueing": 20, "startup": 30, "steps": 50}

    def test_goodput_suspended_time_does_not_count(self, running: Run) -> None:
        """Between the suspension and the resumption, only the waiting for new pods counts."""
        running.at(110, phase=Phase.SUSPENDED, attempt=ended(1, "stopped"))
        before = running.seconds
        running.at(5000, phase=Phase.PENDING)
        assert running.seconds == before
        running.at(5010, phase=Phase.STARTING, attempt=attempt(2))
        assert running.seconds == before | {"queueing": before["queueing"] + 10}

    def test_goodput_does_not_change_without_progress(self, running: Run) -> None:
        """The status of a training that completes no steps is not written again."""
        before = running.status
        assert running.at(200, reported={"compute": 99.0}).status == before


class TestLosses:
    def test_goodput_failure_until_noticed_is_lost(self, running: Run) -> None:
        """15 s after the last report, the launcher ended without another one."""
        running.at(115, phase=Phase.RESTARTING, attempt=ended(1, "crashed"))
        assert running.seconds["lost"] == 15

    def test_goodput_graceful_end_loses_nothing(self, running: Run) -> None:
        """The last report of the launcher accounts for the time until the end."""
        last = {"compilation": 10.0, "compute": 46.0, "data_wait": 12.0, "checkpoint": 2.0}
        running.at(115, phase=Phase.SUCCEEDED, step=56, attempt=ended(1, "completed"), reported=last)
        assert running.seconds["steps"] == 58
        assert running.seconds["checkpoint"] == 2
        assert "lost" not in running.seconds

    def test_goodput_repeated_steps_move_to_lost(self, running: Run) -> None:
        """The second attempt resumes from step 40: a fifth of the time of 50 steps is lost."""
        running.at(100, phase=Phase.RESTARTING, attempt=ended(1, "disrupted"))
        running.at(100, phase=Phase.STARTING, attempt=attempt(2))
        running.at(130, phase=Phase.RUNNING, step=41, attempt=attempt(2, resumed_step=40), reported={"compute": 1.0})
        assert running.seconds["lost"] == pytest.approx(51 / 5)
        assert running.seconds["steps"] == pytest.approx(51 * 4 / 5 + 1)

    def test_goodput_rollback_moves_steps_to_lost(self, running: Run) -> None:
        """Within an attempt, the step falls from 50 to 25."""
        running.at(110, step=25, reported={"compile": 10.0, "compute": 41.0, "data_wait": 10.0, "rollback": 10.0})
        assert running.seconds["lost"] == pytest.approx(51 / 2 + 10)

    def test_goodput_second_attempt_counts_its_own_phases(self, running: Run) -> None:
        """The seconds of a rank start at 0 in each attempt."""
        running.at(100, phase=Phase.RESTARTING, attempt=ended(1, "disrupted"))
        running.at(100, phase=Phase.STARTING, attempt=attempt(2))
        running.at(130, phase=Phase.RUNNING, step=51, attempt=attempt(2, resumed_step=50), reported={"compile": 9.0})
        assert running.seconds["compilation"] == 19

    def test_goodput_parts_add_up_to_wall_time(self, running: Run) -> None:
        """The parts add up to the wall time even after a failure and a second attempt."""
        running.at(115, phase=Phase.RESTARTING, attempt=ended(1, "crashed"))
        running.at(140, phase=Phase.STARTING, attempt=attempt(2))
        running.at(170, phase=Phase.RUNNING, step=41, attempt=attempt(2, resumed_step=40), reported={"compute": 7.0})
        running.at(200, phase=Phase.SUCCEEDED, step=160, attempt=ended(2, "completed"), reported={"compute": 36.0})
        assert sum(running.seconds.values()) == pytest.approx(200)


class TestSoFar:
    def test_goodput_waiting_time_grows_until_now(self) -> None:
        """A training that waits for an hour has a queueing time of an hour before its phase changes."""
        run = Run()
        assert so_far(run.status, START + timedelta(hours=1)) == ActivitySeconds(queueing=3600)

    def test_goodput_ended_training_does_not_grow(self, running: Run) -> None:
        """The series keep their values until the training is deleted."""
        running.at(115, phase=Phase.FAILED, attempt=ended(1, "crashed"))
        assert running.status.goodput is not None
        assert so_far(running.status, START + timedelta(days=1)) == running.status.goodput.seconds

    def test_goodput_of_no_time_is_zero(self) -> None:
        """The ratio is 0 at the first decision and for a status of an earlier operator."""
        assert ratio_of(so_far(Status(), START)) == 0
        assert ratio_of(so_far(Status(phase=Phase.RUNNING, operator_state=OperatorState()), START)) == 0
