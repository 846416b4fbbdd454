"""Images and labels in batches. The order and the crops do not depend on the decoder; see `sampling`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from resnext_trainer.config.models import Training
from resnext_trainer.data.image_dataset import ImageDataset

if TYPE_CHECKING:
    from resnext_trainer.data.bad_records import BadRecords
    from resnext_trainer.runtime.distributed import Communicator

Batch = tuple[Any, Any]
"""Images [batch, size, size, 3] in uint8 and labels [batch] in int32; -1 marks padding, which counts for nothing."""

ReshuffleHistory = tuple[tuple[int, int], ...]
"""(images seen, number of the rollback) at each rollback of an epoch: from there on it has another order."""


@dataclass(frozen=True)
class Shard:
    """Which part of every global batch is this rank's."""

    rank: int
    size: int


class InputPipeline(Protocol):
    """Where a training gets its batches from."""

    name: str
    """What decodes: tfdata, dali, or synthetic."""
    training_images: int
    validation_images: int

    @property
    def examples(self) -> "Mapping[str, ImageDataset]":
        """The pictures by split; none where there are no files."""

    @property
    def bad(self) -> "BadRecords | None":
        """The records that this rank had to skip; None where there are no records."""

    def train(self, epoch: int, seen: int = 0, redealt: ReshuffleHistory = ()) -> Iterator[Batch]:
        """This rank's batches of an epoch after the images that all ranks have seen; always the same.

        A step takes `gradientAccumulation` batches.
        """

    def validate(self) -> Iterator[Batch]:
        """This rank's share of the validation images; each counts once, and every rank has as many batches."""


def open_dataset(config: Training, split: str) -> ImageDataset:
    """The pictures of a split, in the configured format; raises TrainingError where they are not as they should be."""
    from resnext_trainer.data.datasets import folder, tfrecord

    data = config.data
    if data.format == "folder":
        return folder.open_split(data.path, split, config.model.classes, data.first_label)
    return tfrecord.open_split(
        data.path,
        split,
        data.index_path,
        incomplete=data.incomplete_shards == "allow",
        features=tfrecord.Features(data.image_feature, data.label_feature),
    )


def open_input_pipeline(config: Training, share: Shard) -> InputPipeline:
    """The source that a configuration asks for; raises TrainingError where it is not as it should be."""
    # Each is imported only when used: DALI may be absent, and loading it takes a second.
    if config.data.format == "synthetic":
        from resnext_trainer.data.pipelines.synthetic import Synthetic

        return Synthetic(config, share)
    from resnext_trainer.data.pipelines import dali

    if config.data.pipeline == "dali" or (config.data.pipeline == "auto" and dali.loads()):
        return dali.Dali(config, share)
    from resnext_trainer.data.pipelines.tfdata import TfData

    return TfData(config, share)


def open_for_ranks(ranks: "Communicator", config: Training) -> InputPipeline:
    """Each rank's source; if one rank refuses, all of them raise the same TrainingError. To be called on all ranks."""
    from resnext_trainer.runtime.distributed import run_collectively  # imports TensorFlow, which this module does not

    return run_collectively(ranks, lambda: open_input_pipeline(config, Shard(ranks.rank, ranks.size)))
