"""Models loaded from checkpoints, for the commands that do not train."""

import json
from dataclasses import dataclass
from pathlib import Path

from resnext_trainer.checkpoint import compatibility, runs, select, store
from resnext_trainer.checkpoint.provenance import Provenance
from resnext_trainer.checkpoint.select import BEST, NEWEST
from resnext_trainer.checkpoint.store import Arrays, Checkpoint, TrainingPosition
from resnext_trainer.config.models import Precision, Training
from resnext_trainer.config.validation import InvalidConfig
from resnext_trainer.contract import ExitStatus, SavedCheckpoint
from resnext_trainer.data import class_names
from resnext_trainer.data.class_names import Names
from resnext_trainer.errors import TrainingError
from resnext_trainer.model.resnext import ResNeXt, build_for_device


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint with its settings and class names."""

    config: Training
    position: TrainingPosition
    saved: SavedCheckpoint
    provenance: Provenance | None
    """None for a checkpoint of format 1; the settings then come from the command line only."""
    _arrays: Arrays

    def load_model(self, device: str) -> ResNeXt:
        """Builds the model and loads its weights; raises TrainingError if they do not fit.

        device: the pinned device, gpu or cpu.
        """
        network = build_for_device(self.config, device)
        variables = {**network.weights, **network.statistics}
        arrays = select.weights(self._arrays, variables)
        for name, variable in variables.items():
            array = arrays.get(name)
            if array is None or array.shape != tuple(variable.shape):
                raise _other_network(self.saved, f"{name} differs from that of {_described(self.config)}")
            variable.assign(array)
        return network

    def fp32(self) -> "TrainedModel":
        """The same model in float32 and without XLA: for a few images, compiling takes longer than computing."""
        config = self.config.model_copy(update={"precision": Precision(mode="fp32"), "xla": False})
        return TrainedModel(config, self.position, self.saved, self.provenance, self._arrays)

    def class_names(self, labels: Path | None) -> Names:
        """Class names from a file, else from the checkpoint; None for a class without a name.

        For a checkpoint of format 1, which has no names, they come from the dataset (labels.txt or class folders).
        Raises TrainingError if the file is invalid.
        """
        if labels is not None:
            return class_names.from_file(labels, self.config.model.classes)
        return self.provenance.class_names if self.provenance else class_names.names(self.config)


def read(config: Training, checkpoint: str | None) -> TrainedModel:
    """Reads a checkpoint: `best`, `newest`, a directory, or, if None, the best or else the newest.

    Settings that the user wrote override those of the checkpoint. Raises TrainingError if there is no checkpoint, if it
    is damaged, or if the user configured a different model.
    """
    position, arrays, saved = _read(Path(config.checkpoint.path), checkpoint)
    provenance = store.provenance(Path(saved.path))
    return TrainedModel(_settings(config, provenance, saved), position, saved, provenance, arrays)


def _settings(config: Training, provenance: Provenance | None, saved: SavedCheckpoint) -> Training:
    if provenance is None:
        return config
    comparison = compatibility.compare(config, provenance.config, everywhere=True)
    if others := [str(each) for each in comparison.recipe if each.field.startswith("model.")]:
        raise _other_network(saved, f"{'; '.join(others)}")
    try:
        return comparison.config()
    except InvalidConfig as error:
        raise TrainingError(ExitStatus.INVALID_CONFIGURATION, f"{saved.path}: {error}") from None


def _other_network(saved: SavedCheckpoint, why: str) -> TrainingError:
    return TrainingError(
        ExitStatus.INVALID_CONFIGURATION,
        f"the checkpoint {saved.path} was saved from a different model ({why}): remove the model fields from --config "
        "and --set, or pass the configuration of the checkpoint",
    )


def _described(config: Training) -> str:
    return f"{config.model.architecture} with {json.dumps(config.model.classes)} classes"


def _read(folder: Path, checkpoint: str | None) -> Checkpoint:
    directory = None if checkpoint in (None, BEST, NEWEST) else Path(str(checkpoint))
    try:
        found = select.select(folder, checkpoint) if directory is None else select.select(directory)
        if found is None and directory is not None:
            found = select.read(directory)  # raises an error that describes what is missing
    except select.DamagedCheckpointError as error:
        raise _no_checkpoint_error(
            f"{error.path} is not a complete checkpoint ({error}): choose another one with --checkpoint"
        ) from None
    if found is None:
        raise _no_checkpoint_error(
            f"{runs.located(folder)} contains no checkpoint: set checkpoint.path, or pass --checkpoint"
        )
    return found


def _no_checkpoint_error(message: str) -> TrainingError:
    return TrainingError(ExitStatus.NO_VALID_CHECKPOINT, message)
