"""Restores the newest checkpoint of a run, or else initial weights. Used on rank 0 only."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from resnext_trainer.checkpoint import store, warm_start
from resnext_trainer.checkpoint.resumption import Resumption
from resnext_trainer.checkpoint.runs import Run
from resnext_trainer.checkpoint.select import NEWEST, select
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus, SavedCheckpoint
from resnext_trainer.errors import TrainingError
from resnext_trainer.model.ema import PREFIX
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.runtime.console import Console


class Restored(NamedTuple):
    """Where a training starts."""

    position: TrainingPosition = TrainingPosition()
    saved: SavedCheckpoint | None = None
    """The checkpoint at this position; None at the start of the training."""
    best_top1: float | None = None
    """Top-1 accuracy of the best checkpoint on the disk, from 0 to 1; None if there is none."""


def restore(run: Resumption, config: Training, state: TrainState, console: Console) -> Restored:
    """Assigns the newest checkpoint of the run to the train state; without one, its initial weights.

    run: after `select` and `settle`. Raises TrainingError if all checkpoints of the run are damaged, if the newest was
    saved from a different model, and in the cases of `assign_initial_weights`.
    """
    best = store.best(run.folder)
    best_top1 = best.position.top1 if best else None
    newest = select(Run(run.folder), NEWEST)
    if newest is None:
        assign_initial_weights(run, config, state, console)
        return Restored(best_top1=best_top1)
    position, arrays, saved = newest
    variables = state.variables()
    if _shapes(variables) != {name: array.shape for name, array in arrays.items()}:
        raise TrainingError(ExitStatus.INVALID_CONFIGURATION, _different_model(saved, config))
    for name, variable in variables.items():
        variable.assign(arrays[name])
    saved = saved.model_copy(update={"differences": run.provenance.differences})
    known = [top1 for top1 in (position.best_top1, best_top1) if top1 is not None]
    return Restored(replace(position, best_top1=max(known, default=None)), saved, best_top1)


def assign_initial_weights(run: Resumption, config: Training, state: TrainState, console: Console) -> None:
    """Assigns the weights of the previous run (onMismatch: warmStart) or of `initialCheckpoint`, if any.

    Variables that the source does not have keep their values; they are logged. Raises TrainingError if the
    source has no valid checkpoint, or was saved from a different model.
    """
    source: Path | Run
    if (old := run.warm_start_folder()) is not None:
        source, path = Run(old), str(old)
        field = "spec.training.checkpoint.onMismatch: warmStart from"
    elif config.initial_checkpoint is not None:
        path, field = config.initial_checkpoint, warm_start.FIELD
        source = Path(path)
    else:
        return
    model = state.model
    variables = {**model.weights, **model.statistics}
    arrays = warm_start.match_weights(_shapes(variables), warm_start.read_weights(source, path, field), path, field)
    all_variables = state.variables()
    for name, array in arrays.items():
        for variable in (all_variables[name], all_variables.get(PREFIX + name)):
            if variable is not None:
                variable.assign(array)
    new = [name for name in variables if name not in arrays]
    console.note(
        f"{len(arrays)} variables initialized from {path}; "
        + (f"initialized randomly: {', '.join(new)}" if new else "no variable keeps its random initial value")
    )


def _shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(variable.shape) for name, variable in variables.items()}


def _different_model(saved: SavedCheckpoint, config: Training) -> str:
    return (
        f"the checkpoint {saved.path} was saved from a different model than "
        f"{config.model.architecture} with {config.model.classes} classes (emaDecay "
        f"{config.ema_decay:g}): set checkpoint.path to another directory"
        + (", or checkpoint.onMismatch to warmStart or restart" if config.checkpoint.on_mismatch == "continue" else "")
    )
