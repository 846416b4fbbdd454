"""Counts the bad records of a training, and limits them across all ranks."""

from resnext_trainer.data.input_pipeline import InputPipeline
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.metrics import Metrics


class BadRecordMonitor:
    """Monitors the bad records of one rank."""

    def __init__(self, source: InputPipeline, communicator: Communicator, metrics: Metrics, *, limited: bool) -> None:
        """limited: whether `maxBadRecordFraction` is above 0. Each rank enforces the limit for its own records."""
        self._source, self._communicator, self._metrics, self._limited = source, communicator, metrics, limited
        self._counted = 0

    def count(self) -> None:
        """Adds the bad records found since the last call to the metric."""
        if self._source.bad and (found := len(self._source.bad)) > self._counted:
            self._metrics.bad_records(found - self._counted)
            self._counted = found

    def check_together(self) -> None:
        """Raises TrainingError on every rank if all ranks combined exceed the limit; collective call."""
        if self._source.bad and self._limited:
            self._source.bad.check_together(self._communicator.gather(self._source.bad.marks))
