"""Messages about a run and a configuration that differ. Pure."""

from collections.abc import Sequence

from resnext_trainer.checkpoint.compatibility import Comparison, Difference, shown
from resnext_trainer.checkpoint.provenance import Provenance, version
from resnext_trainer.checkpoint.runs import Run
from resnext_trainer.checkpoint.store import TrainingPosition


def mismatch(run: Run, step: int, differences: Sequence[str]) -> str:
    """Why a run is not resumed whose recipe or dataset differs; `step` is that of its newest checkpoint."""
    return (
        f"{run} (step {step}) is of another recipe or dataset: {'; '.join(differences)}. "
        "Undo the changes, set checkpoints.subPath or checkpoint.path to another directory, or set "
        "checkpoint.onMismatch to continue, warmStart (new run, old weights) or restart (new run)"
    )


def replacement(old: Run, new: Run, differences: Sequence[str], on_mismatch: str) -> str:
    """That a new run replaces one whose recipe or dataset differs."""
    return (
        f"{old} is of another recipe or dataset ({'; '.join(differences)}); {new} begins "
        + ("with its weights" if on_mismatch == "warmStart" else "from scratch")
        + f" (onMismatch: {on_mismatch}). The old run is kept until you delete it"
    )


def too_few_epochs(epochs: int, run: Run, position: TrainingPosition) -> str:
    """Why a run is not resumed that has already trained more than `epochs`."""
    done = f"{position.epoch} epochs" + (f" and {position.images:,} images of the next" if position.images else "")
    least = position.epoch + bool(position.images)
    return (
        f"spec.training.epochs: {epochs}, but {run} has already trained {done} (step {position.step}): set epochs to "
        f"{least} or more, or checkpoint.path to another directory"
    )


def resumed_with(comparison: Comparison, before: Provenance, differences: Sequence[str]) -> list[str]:
    """One line for each way in which the settings of a resumed run differ from the configuration's.

    differences: those of recipe and dataset, which `onMismatch: continue` accepts.
    """
    lines = []
    if differences:
        lines.append(f"resuming in spite of differences (onMismatch: continue): {'; '.join(differences)}")
    if comparison.run:
        lines.append(f"resuming with other settings: {'; '.join(map(str, comparison.run))}")
    if removed := [each for each in comparison.kept if each.field in before.written]:
        lines.append(f"no longer written, but the run keeps its recipe and settings: {_kept(removed)}")
    if unwritten := [each for each in comparison.kept if each.field not in before.written]:
        lines.append(f"the run keeps its own value of what is not written: {_kept(unwritten)}")
    if comparison.unknown:
        lines.append(
            f"written by version {before.version}, whose settings version {version()} does not know: "
            f"{', '.join(comparison.unknown)}"
        )
    return lines


def _kept(differences: Sequence[Difference]) -> str:
    return "; ".join(f"{each.field}: {shown(each.before)}, not {shown(each.now)}" for each in differences)
