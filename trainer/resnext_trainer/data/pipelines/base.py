"""What the two ways to decode share: which batches, in which order, and what becomes of an image that is broken."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data.crops import CropWindow
from resnext_trainer.data.input_pipeline import Batch, ReshuffleHistory, Shard
from resnext_trainer.data.sampling import Batches, BatchSchedule
from resnext_trainer.errors import TrainingError


class BasePipeline(ABC):
    """A source whose images a library decodes."""

    name: str
    broken: ClassVar[type[Exception]]
    """What the library raises for an image that it cannot decode."""

    def __init__(self, config: Training, share: Shard) -> None:
        self._batches = Batches(config, share)
        self._batch_size, self._image_size = config.batch_size, config.model.image_size
        self.bad, self.examples = self._batches.bad, self._batches.examples
        self.training_images, self.validation_images = self._batches.training_images, self._batches.validation_images

    def train(self, epoch: int, seen: int = 0, redealt: ReshuffleHistory = ()) -> Iterator[Batch]:
        return self._decoded(self._batches.train(epoch, seen, redealt))

    def validate(self) -> Iterator[Batch]:
        return self._decoded(self._batches.validate())

    def _decoded(self, plan: BatchSchedule) -> Iterator[Batch]:
        done = 0
        while True:
            refusals: list[TrainingError] = []
            try:
                for batch in self._run(plan, done, refusals):
                    yield batch
                    done += 1
                return
            except self.broken as error:
                if refusals:
                    raise refusals[0] from None
                if self._out_of_memory(error):
                    raise _failed(error) from None
                # The batch is known, not the image in it: each is tried, the bad are skipped, and it is made again.
                if not plan.mark_undecodable(done, self._can_decode):
                    raise _failed(error) from None

    @abstractmethod
    def _run(self, plan: BatchSchedule, first: int, refusals: list[TrainingError]) -> Iterator[Batch]:
        """The plan's batches from one on. A refusal of the plan goes to `refusals`: the library makes it its own."""

    @abstractmethod
    def _can_decode(self, jpeg: bytes, cut: CropWindow) -> bool:
        """Whether this image can be decoded; raises TrainingError where memory is the reason."""

    @staticmethod
    @abstractmethod
    def _out_of_memory(error: Exception) -> bool:
        """Whether the library failed for want of memory, and not because of an image."""


def _failed(error: Exception) -> TrainingError:
    """A failure of which no image is the reason: each of them decodes alone, or memory was short."""
    return TrainingError(
        ExitStatus.SYSTEM_ERROR, f"a batch could not be decoded, and no image of it is the reason: {error}"
    )
