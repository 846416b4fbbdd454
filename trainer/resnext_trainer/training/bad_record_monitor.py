"""Bad records of a training: counted as they are skipped, and limited over all ranks together."""

from resnext_trainer.data.input_pipeline import InputPipeline
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.metrics import Metrics


class BadRecordMonitor:
    """Watches the bad records of one rank's dataset."""

    def __init__(self, source: InputPipeline, ranks: Communicator, metrics: Metrics, *, limited: bool) -> None:
        """limited: whether `maxBadRecordFraction` allows any; each rank alone keeps to that share already."""
        self._source, self._ranks, self._metrics, self._limited = source, ranks, metrics, limited
        self._counted = 0

    def count(self) -> None:
        """Adds those that were found since the last call to the metric."""
        if self._source.bad and (found := len(self._source.bad)) > self._counted:
            self._metrics.bad_records(found - self._counted)
            self._counted = found

    def check_together(self) -> None:
        """Raises TrainingError if all ranks together have more than the share; to be called on all of them."""
        if self._source.bad and self._limited:
            self._source.bad.check_together(self._ranks.gather(self._source.bad.marks))
