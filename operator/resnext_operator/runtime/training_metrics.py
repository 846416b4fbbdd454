"""Metrics of each training, read from the cache at every scrape.

Results such as accuracy, steps and goodput are exported until the training is deleted; values of a training that runs,
such as the throughput, until it ends.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resnext_operator.api.groupversion import CONTROLLER_NAME
from resnext_operator.api.objects import TrainingKey
from resnext_operator.api.status import ConditionType, Phase, Status
from resnext_operator.domain.goodput import ACTIVITIES, ratio_of, so_far
from resnext_operator.domain.reasons import Reason
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.cached_objects import CachedObject
from resnext_operator.runtime.guard import Guard
from resnext_operator.runtime.unstructured import key_of, managed_by

_REASONS = frozenset(reason.value for reason in Reason)


class _Gauge(NamedTuple):
    """One series for each training."""

    name: str
    help: str
    read: Callable[[Status], float | None]
    """The value; None if it is unknown, which omits the series."""
    while_running: bool = False
    """Whether the series ends with the training."""


class _Sample(NamedTuple):
    """Name of a metric without its prefix, labels after namespace and training, and value."""

    metric: str
    labels: tuple[str, ...]
    value: float


def _progress_of(status: Status, field: str) -> Any:
    return getattr(status.progress, field, None)


def _progress(field: str) -> Callable[[Status], float | None]:
    return lambda status: _progress_of(status, field)


def _time(time: datetime | None) -> float | None:
    return time.timestamp() if time else None


def _stalled(status: Status) -> float | None:
    if status.last_attempt is None or status.last_attempt.ended:
        return None
    condition = status.condition(ConditionType.STALLED)
    return float(condition is not None and condition.status == "True")


def _checkpoint_time(status: Status) -> float | None:
    if status.checkpoint is None:
        return None
    time = datetime.fromisoformat(status.checkpoint.time)
    return _time(time if time.tzinfo else time.replace(tzinfo=UTC))


_GAUGES = (
    _Gauge("loss", "Training loss, averaged over the last few seconds of training.", _progress("loss")),
    _Gauge("best_accuracy_ratio", "Best top-1 accuracy of all evaluations.", _progress("best_top1")),
    _Gauge("steps_completed", "Completed steps.", _progress("step")),
    _Gauge("steps", "Total number of steps.", _progress("steps")),
    _Gauge("attempts", "Attempts so far, including the current one.", lambda status: status.last_attempt_number),
    _Gauge("failures", "Failures that count toward runPolicy.backoffLimit.", lambda status: status.failures),
    _Gauge("disruptions", "Attempts that ended with a disruption.", lambda status: status.disruptions),
    _Gauge(
        "completion_timestamp_seconds",
        "Unix time at which the training succeeded or failed.",
        lambda status: _time(status.completion_time),
    ),
    _Gauge(
        "images_per_second",
        "Images per second over all ranks of a training. Absent while no steps complete.",
        _progress("images_per_second"),
        while_running=True,
    ),
    _Gauge(
        "epochs_completed",
        "Completed epochs, including the fraction of the current one.",
        _progress("epoch"),
        while_running=True,
    ),
    _Gauge("epochs", "Total number of epochs.", _progress("epochs"), while_running=True),
    _Gauge(
        "progress_timestamp_seconds",
        "Unix time at which the progress last changed.",
        lambda status: _time(_progress_of(status, "updated_time")),
        while_running=True,
    ),
    _Gauge(
        "estimated_completion_timestamp_seconds",
        "Estimated Unix time of completion. Absent while no steps complete.",
        lambda status: _time(_progress_of(status, "estimated_completion_time")),
        while_running=True,
    ),
    _Gauge(
        "start_timestamp_seconds",
        "Unix time at which the operator started or resumed the training.",
        lambda status: _time(status.start_time),
        while_running=True,
    ),
    _Gauge(
        "attempt_start_timestamp_seconds",
        "Unix time of the start of the last attempt.",
        lambda status: _time(status.last_attempt.start_time if status.last_attempt else None),
        while_running=True,
    ),
    _Gauge("checkpoint_timestamp_seconds", "Unix time of the newest checkpoint.", _checkpoint_time, while_running=True),
    _Gauge(
        "stalled",
        "1 if the current attempt completes no steps. Absent without an attempt.",
        _stalled,
        while_running=True,
    ),
)

_LABELED = (
    ("status_phase", "1 for the current phase of a training and its reason.", ("phase", "reason")),
    ("accuracy_ratio", "Accuracy of a training's last evaluation.", ("k",)),
    ("wall_seconds", "Wall time of a training by activity, without suspended time.", ("activity",)),
    ("goodput_ratio", "Fraction of the wall time that went into steps that were kept.", ()),
)


def samples(status: Status, now: datetime) -> Iterator[_Sample]:
    """The samples of one training."""
    phase = status.phase or Phase.PENDING
    # Only reasons that the operator writes: a user with access to the status cannot create series.
    yield _Sample("status_phase", (phase.value, status.reason if status.reason in _REASONS else ""), 1)
    for k in ("1", "5"):
        if (accuracy := _progress_of(status, f"top{k}")) is not None:
            yield _Sample("accuracy_ratio", (k,), accuracy)
    seconds = so_far(status, now)
    for activity in ACTIVITIES:
        if (spent := getattr(seconds, activity)) or not phase.ended:
            yield _Sample("wall_seconds", (activity,), spent)
    yield _Sample("goodput_ratio", (), ratio_of(seconds))
    for gauge in _GAUGES:
        if not (gauge.while_running and phase.ended) and (value := gauge.read(status)) is not None:
            yield _Sample(gauge.name, (), value)


class TrainingCollector(Collector):
    """Collects the series of trainings. Only the leader reports them, so that none is counted twice."""

    def __init__(self, cache: Cache, leading: Callable[[], bool], guard: Guard) -> None:
        self._cache, self._leading, self._guard = cache, leading, guard
        self._ended: dict[TrainingKey, tuple[CachedObject, Phase, Sequence[_Sample]]] = {}
        """Ended trainings with their samples, which do not change."""

    def collect(self) -> Iterator[Metric]:
        """All series of this scrape; none on a standby replica."""
        families = {
            name: GaugeMetricFamily(f"resnext_training_{name}", text, labels=["namespace", "training", *labels])
            for name, text, labels in (*_LABELED, *((gauge.name, gauge.help, ()) for gauge in _GAUGES))
        }
        counts = GaugeMetricFamily("resnext_operator_trainings", "Trainings by phase.", labels=["phase"])
        if self._leading():
            now, ended, tally = datetime.now(UTC), self._ended, Tally[Phase]()
            self._ended = {}
            for training in self._cache.trainings():
                key = key_of(training)
                if managed_by(training) != CONTROLLER_NAME:
                    continue
                with self._guard.each("metrics", key):
                    phase, found = self._samples(training, ended.get(key), now)
                    tally[phase] += 1
                    for sample in found:
                        families[sample.metric].add_metric([*key, *sample.labels], sample.value)
            for phase in Phase:
                counts.add_metric([phase.value], tally[phase])
        yield from (counts, *families.values())

    def _samples(
        self, training: CachedObject, known: tuple[CachedObject, Phase, Sequence[_Sample]] | None, now: datetime
    ) -> tuple[Phase, Sequence[_Sample]]:
        """Phase and samples of a training, kept while it has ended and the cache holds the same object."""
        if known is None or known[0] is not training:
            status = Status.parse(training.get("status"))
            known = (training, status.phase or Phase.PENDING, tuple(samples(status, now)))
        if known[1].ended:
            self._ended[key_of(training)] = known
        return known[1:]
