"""Batches of images and labels. Order and crops do not depend on the decoder; see `sampling`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from resnext_trainer.config.data import Pipeline
from resnext_trainer.config.models import Training
from resnext_trainer.data.image_dataset import ImageDataset

if TYPE_CHECKING:
    from resnext_trainer.data.bad_records import BadRecords
    from resnext_trainer.runtime.distributed import Communicator

Batch = tuple[Any, Any]
"""Images, uint8 [batch, size, size, 3], and labels, int32 [batch]; label -1 marks padding, which is not counted."""

ReshuffleHistory = tuple[tuple[int, int], ...]
"""(images consumed, rollback number) for each rollback of an epoch; each reshuffles the rest of the epoch."""


@dataclass(frozen=True)
class Shard:
    """This rank's part of every global batch."""

    rank: int
    size: int


class InputPipeline(Protocol):
    """Source of the batches of a training."""

    name: str
    """dali, native, tfdata or synthetic."""
    training_images: int
    validation_images: int

    @property
    def examples(self) -> "Mapping[str, ImageDataset]":
        """Datasets by split; empty for synthetic data."""

    @property
    def bad(self) -> "BadRecords | None":
        """Records that this rank skipped; None for synthetic data."""

    def train(self, epoch: int, seen: int = 0, redealt: ReshuffleHistory = ()) -> Iterator[Batch]:
        """This rank's batches of an epoch, deterministically; a step takes `gradientAccumulation` of them.

        seen: images of this epoch that all ranks combined have consumed already.
        """

    def validate(self) -> Iterator[Batch]:
        """This rank's share of the validation images. Each image counts once; all ranks get the same number of
        batches.
        """


def open_dataset(config: Training, split: str) -> ImageDataset:
    """Opens a split in the configured format; raises TrainingError if files are missing or invalid."""
    from resnext_trainer.data.datasets import folder, index_cache, tfrecord

    data = config.data
    if data.format == "folder":
        return folder.open_split(data.path, split, config.model.classes, data.first_label)
    return tfrecord.open_split(
        data.path,
        split,
        data.index_path,
        incomplete=data.incomplete_shards == "allow",
        features=tfrecord.Features(data.image_feature, data.label_feature),
        cache=index_cache.directory(data),
    )


def open_input_pipeline(config: Training, share: Shard) -> InputPipeline:
    """Opens the configured pipeline; raises TrainingError if the data or the pipeline is unusable."""
    # Each pipeline is imported only when used: DALI may be missing, and importing it takes a second.
    if config.data.format == "synthetic":
        from resnext_trainer.data.pipelines.synthetic import Synthetic

        return Synthetic(config, share)
    match config.data.pipeline if config.data.pipeline != "auto" else _fastest(config.device):
        case "dali":
            from resnext_trainer.data.pipelines import dali

            return dali.open_pipeline(config, share)
        case "native":
            from resnext_trainer.data.pipelines.native import Native

            return Native(config, share)
        case _:
            from resnext_trainer.data.pipelines.tfdata import TfData

            return TfData(config, share)


def _fastest(device: str) -> Pipeline:
    """The fastest pipeline that is installed. device: the pinned device, gpu or cpu."""
    from resnext_trainer.data import native_decoder
    from resnext_trainer.data.pipelines import dali

    if device == "cpu" and native_decoder.available():
        return "native"
    if dali.loads():
        return "dali"
    return "native" if native_decoder.available() else "tfdata"


def open_for_ranks(communicator: "Communicator", config: Training) -> InputPipeline:
    """Opens the pipeline on every rank; if it fails on one, all raise the same TrainingError. Collective call."""
    from resnext_trainer.runtime.distributed import run_collectively  # imports TensorFlow, which this module does not

    return run_collectively(
        communicator, lambda: open_input_pipeline(config, Shard(communicator.rank, communicator.size))
    )
