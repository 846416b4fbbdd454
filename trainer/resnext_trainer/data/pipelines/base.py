"""Base of the decoding pipelines: batches, their order, and the handling of undecodable images."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data.crops import CropWindow
from resnext_trainer.data.decoding import Decoding
from resnext_trainer.data.input_pipeline import Batch, ReshuffleHistory, Shard
from resnext_trainer.data.sampling import Batches, BatchSchedule, EncodedBatch
from resnext_trainer.errors import TrainingError


class BasePipeline(ABC):
    """A pipeline whose images are decoded by a library."""

    name: str
    broken: ClassVar[type[Exception]]
    """Raised by the library for an image that it cannot decode."""
    queued: ClassVar[int] = 0
    """Number of batches that the library decodes ahead: `broken` may concern the next batch or one of this many after
    it."""

    def __init__(self, config: Training, share: Shard) -> None:
        self._batches = Batches(config, share)
        self._batch_size, self._decoding = config.batch_size, Decoding.of(config)
        self.bad, self.examples = self._batches.bad, self._batches.examples
        self.training_images, self.validation_images = self._batches.training_images, self._batches.validation_images

    def train(self, epoch: int, seen: int = 0, redealt: ReshuffleHistory = ()) -> Iterator[Batch]:
        return self._decoded(self._batches.train(epoch, seen, redealt))

    def validate(self) -> Iterator[Batch]:
        return self._decoded(self._batches.validate())

    def _decoded(self, plan: BatchSchedule) -> Iterator[Batch]:
        done = 0
        while True:
            errors: list[TrainingError] = []
            try:
                for batch in self._run(plan, done, errors):
                    yield batch
                    done += 1
                return
            except self.broken as error:
                if errors:
                    raise errors[0] from None
                if self._out_of_memory(error):
                    raise _failed(error) from None
                # The library does not say which image failed: try each, mark the bad ones, and load the batch again.
                suspects = range(done, min(done + self.queued + 1, plan.count))
                if not any(plan.mark_undecodable(number, self._can_decode) for number in suspects):
                    raise _failed(error) from None

    @staticmethod
    def _encoded(plan: BatchSchedule, first: int, errors: list[TrainingError]) -> Iterator[EncodedBatch]:
        """The batches that `_run` decodes; keeps a TrainingError of the schedule in `errors`."""
        try:
            yield from plan.prefetch(first)
        except TrainingError as error:
            errors.append(error)
            raise

    @abstractmethod
    def _run(self, plan: BatchSchedule, first: int, errors: list[TrainingError]) -> Iterator[Batch]:
        """Batches of the schedule, starting with number `first`.

        A TrainingError of the schedule is appended to `errors`, because the library wraps it in its own exception.
        """

    @abstractmethod
    def _can_decode(self, jpeg: bytes, cut: CropWindow) -> bool:
        """Whether this image can be decoded; raises MemoryError if memory is exhausted."""

    @staticmethod
    @abstractmethod
    def _out_of_memory(error: Exception) -> bool:
        """Whether the library ran out of memory."""


def _failed(error: Exception) -> TrainingError:
    """A failure that no single image causes: each image decodes alone, or memory was exhausted."""
    return TrainingError(
        ExitStatus.SYSTEM_ERROR, f"decoding a batch failed, although no single image is at fault: {error}"
    )
