"""Messages about a run and a configuration that differ. Pure."""

from collections.abc import Sequence

from resnext_trainer.checkpoint.compatibility import Comparison, Difference, shown
from resnext_trainer.checkpoint.provenance import Provenance, version
from resnext_trainer.checkpoint.runs import Run
from resnext_trainer.checkpoint.store import TrainingPosition


def mismatch(run: Run, step: int, differences: Sequence[str]) -> str:
    """A run is not resumed because the recipe or the dataset differs. step: that of its newest checkpoint."""
    return (
        f"{run} (step {step}) has a different recipe or dataset: {'; '.join(differences)}. "
        "Revert the changes, set checkpoints.subPath or checkpoint.path to another directory, or set "
        "checkpoint.onMismatch to continue, warmStart (new run, old weights) or restart (new run)"
    )


def replacement(old: Run, new: Run, differences: Sequence[str], on_mismatch: str) -> str:
    """A new run replaces one whose recipe or dataset differs."""
    return (
        f"{old} has a different recipe or dataset ({'; '.join(differences)}); {new} starts "
        + ("with its weights" if on_mismatch == "warmStart" else "from scratch")
        + f" (onMismatch: {on_mismatch}). The old run is kept until you delete it"
    )


def too_few_epochs(epochs: int, run: Run, position: TrainingPosition) -> str:
    """A run is not resumed because it has already trained more than `epochs`."""
    done = f"{position.epoch} epochs" + (f" and {position.images:,} images of the next" if position.images else "")
    least = position.epoch + bool(position.images)
    return (
        f"spec.training.epochs: {epochs}, but {run} has already trained {done} (step {position.step}): set epochs to "
        f"{least} or more, or checkpoint.path to another directory"
    )


def resumed_with(comparison: Comparison, before: Provenance, differences: Sequence[str]) -> list[str]:
    """Messages about differences between the settings of a resumed run and the configuration.

    differences: those of recipe and dataset, which `onMismatch: continue` accepts.
    """
    lines = []
    if differences:
        lines.append(f"resuming despite differences (onMismatch: continue): {'; '.join(differences)}")
    if comparison.run:
        lines.append(f"resuming with changed settings: {'; '.join(map(str, comparison.run))}")
    if removed := [each for each in comparison.kept if each.field in before.written]:
        lines.append(f"the run keeps the values of fields that are no longer set: {_kept(removed)}")
    if unwritten := [each for each in comparison.kept if each.field not in before.written]:
        lines.append(f"the run keeps its values of unset fields: {_kept(unwritten)}")
    if comparison.unknown:
        lines.append(
            f"ignoring settings that version {before.version} stored and version {version()} does not support: "
            f"{', '.join(comparison.unknown)}"
        )
    return lines


def _kept(differences: Sequence[Difference]) -> str:
    return "; ".join(f"{each.field}: {shown(each.before)}, not {shown(each.now)}" for each in differences)
