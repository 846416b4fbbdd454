"""Reports of the ranks: progress, checkpoints, and the step from which an attempt resumed."""

from resnext_operator.api.status import CheckpointStatus, ConditionType
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.plan import Event
from resnext_operator.domain.progress import update_progress
from resnext_operator.domain.reasons import Reason, warning
from resnext_trainer.contract import Progress, SavedCheckpoint


def record_reported_progress(draft: Draft) -> None:
    """Record the latest report of worker 0, if it belongs to the current attempt."""
    progress, attempt = draft.state.progress, draft.attempt
    if progress and attempt and progress.attempt == attempt.number:
        record_progress(draft, progress)


def record_progress(draft: Draft, progress: Progress) -> None:
    """Record progress, checkpoint and first step of the current attempt in the status."""
    update_progress(draft.status, draft.attempt, progress, draft.now)
    if progress.checkpoint:
        _record_checkpoint(draft, progress.checkpoint)
    _compare_start(draft, progress)


def _record_checkpoint(draft: Draft, reported: SavedCheckpoint) -> None:
    saved = CheckpointStatus.model_validate(reported.model_dump(mode="json", by_alias=True))
    before = draft.status.checkpoint
    if saved.differences and (before is None or saved.differences != before.differences):
        message = f"the run resumes with a different recipe or dataset: {'; '.join(saved.differences)}"
        draft.events.append(Event("Normal", Reason.RECIPE_CHANGED, message))
    if saved != before:
        draft.status.checkpoint = saved
        message = f"checkpoint saved at step {saved.step}"
        draft.conditions.set(ConditionType.CHECKPOINTED, True, Reason.CHECKPOINT_SAVED, message)


def _compare_start(draft: Draft, progress: Progress) -> None:
    """Report, once per attempt, that it resumed from an earlier step than that of the newest checkpoint."""
    attempt, start = draft.attempts[-1], progress.resumed_step
    if start is None or attempt.resumed_step is not None:
        return
    attempt.resumed_step = start
    saved = attempt.checkpoint_step_before
    if saved is not None and start < saved:
        how = f"resumed from step {start}" if start else "started from the beginning"
        message = (
            f"attempt {attempt.number} {how} although step {saved} was saved: that checkpoint is missing or "
            "damaged (see the log of the launcher); the steps in between are repeated"
        )
        attempt.start_message = message
        draft.conditions.set(ConditionType.CHECKPOINTED, start > 0, Reason.RESUMED_EARLIER, message)
        draft.events.append(warning(Reason.RESUMED_EARLIER, message))
