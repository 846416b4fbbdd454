"""The reasons of conditions and events. operator/README.md says what to do about each; a test compares the two."""

from enum import StrEnum

from resnext_operator.domain.plan import Event

# The API server takes no longer message.
_LONGEST = 1024


class Reason(StrEnum):
    """One word for why a training is where it is."""

    # What was asked for.
    ACCEPTED = "Accepted"
    INVALID = "Invalid"
    FORBIDDEN_BY_OPERATOR = "ForbiddenByOperator"
    VOLUME_NOT_SHAREABLE = "VolumeNotShareable"
    CLAIM_NOT_OWNED = "ClaimNotOwned"
    SPEC_INVALID = "SpecInvalid"

    # Its pods.
    VOLUME_STILL_ATTACHED = "VolumeStillAttached"
    CLAIM_NOT_FOUND = "ClaimNotFound"
    POD_CREATION_REJECTED = "PodCreationRejected"
    PODS_INVALID = "PodsInvalid"
    WORKER_START_FAILED = "WorkerStartFailed"
    UNSCHEDULABLE = "Unschedulable"
    CONTAINER_NOT_STARTING = "ContainerNotStarting"
    LAUNCHER_PENDING = "LauncherPending"
    SCHEDULED = "Scheduled"
    WORKERS_NOT_READY = "WorkersNotReady"
    WORKERS_READY = "WorkersReady"
    WORKERS_RUNNING = "WorkersRunning"
    LAUNCHER_CREATED = "LauncherCreated"

    # Its steps.
    STEPS_PROGRESSING = "StepsProgressing"
    CHECKPOINT_SAVED = "CheckpointSaved"
    RECIPE_CHANGED = "RecipeChanged"
    RESUMED_EARLIER = "ResumedEarlier"
    STALLED = "Stalled"
    PROGRESS_RESUMED = "ProgressResumed"

    # Why it stops, or goes on.
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    RESIZING = "Resizing"
    POD_TEMPLATE_CHANGED = "PodTemplateChanged"
    SSH_KEYS_RECREATED = "SSHKeysRecreated"

    # How an attempt ended: the causes, in one word each.
    COMPLETED = "Completed"
    STOPPED = "Stopped"
    DISRUPTED = "Disrupted"
    CRASHED = "Crashed"
    OUT_OF_MEMORY = "OutOfMemory"
    WORLD_SIZE_MISMATCH = "WorldSizeMismatch"
    UNREACHABLE = "Unreachable"
    GPU_UNAVAILABLE = "GPUUnavailable"
    HUNG = "Hung"
    INVALID_CONFIGURATION = "InvalidConfiguration"
    INVALID_DATA = "InvalidData"
    NON_FINITE_LOSS = "NonFiniteLoss"
    NO_VALID_CHECKPOINT = "NoValidCheckpoint"
    CHECKPOINT_NOT_SAVED = "CheckpointNotSaved"
    CHECKPOINT_LOCKED = "CheckpointLocked"
    SYSTEM_ERROR = "SystemError"

    # Why it failed for good, whatever the last attempt's cause was.
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    PENDING_DEADLINE_EXCEEDED = "PendingDeadlineExceeded"


SUGGESTED_ACTIONS = {
    Reason.SPEC_INVALID: "Suspend it, correct the fields that can change, and resume; or create it again, corrected.",
    Reason.POD_CREATION_REJECTED: "Follow the advice in the message. The operator tries again.",
    Reason.PODS_INVALID: "Correct the field that the message names.",
    Reason.WORKER_START_FAILED: "Read the log lines in the message; check image, architecture and volumes.",
    Reason.UNSCHEDULABLE: "Add nodes or GPUs, or ask for less.",
    Reason.CONTAINER_NOT_STARTING: "Correct the image or its pull secret.",
    Reason.LAUNCHER_PENDING: "As for workers: nodes, image, pull secret.",
    Reason.RESUMED_EARLIER: "Check the checkpoint volume.",
    Reason.STALLED: "Look at that rank's node, or raise runPolicy.stallTimeoutMultiple.",
    Reason.DISRUPTED: "No action; training resumes.",
    Reason.CRASHED: "Read the attempt's message and the pod's log.",
    Reason.WORLD_SIZE_MISMATCH: "Read the message; look at the image's Open MPI.",
    Reason.UNREACHABLE: "Look at network policies, and at that pod's log.",
    Reason.GPU_UNAVAILABLE: "Check the driver on the node named.",
    Reason.HUNG: "Look at the rank's node and log.",
    Reason.INVALID_CONFIGURATION: "Fix the spec and recreate it.",
    Reason.INVALID_DATA: "Repair the dataset and recreate the training.",
    Reason.NON_FINITE_LOSS: "Lower optimizer.learningRate, or look at the images.",
    Reason.NO_VALID_CHECKPOINT: "Restore one, or empty the folder.",
    Reason.CHECKPOINT_NOT_SAVED: "Check free space and permissions of the checkpoint volume.",
    Reason.CHECKPOINT_LOCKED: "Stop the other training that uses this directory, or set checkpoints.subPath.",
    Reason.SYSTEM_ERROR: "Check limits, memory and storage on the node named in the message.",
    Reason.BACKOFF_LIMIT_EXCEEDED: "Fix the last failure's cause and recreate the training.",
    Reason.DEADLINE_EXCEEDED: "Create it again with more time: it goes on.",
    Reason.PENDING_DEADLINE_EXCEEDED: "Read the message; create it again.",
}
"""What to do, where the message itself does not say it."""

ADVICE = " → "
"""Stands in a message before what to do."""


def warning(reason: Reason, message: str) -> Event:
    """What went wrong, and what to do about it: a long message is shortened, the advice is not."""
    said, _, advice = (
        message.rpartition(ADVICE) if ADVICE in message else (message, "", SUGGESTED_ACTIONS.get(reason, ""))
    )
    end = f"{ADVICE}{advice}" if advice else ""
    room = max(0, _LONGEST - len(end) - 1)
    return Event("Warning", reason, (said if len(said) <= room else f"{said[:room]}…") + end)
