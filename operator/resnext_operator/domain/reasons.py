"""The reasons of conditions and events; docs/reference/reasons.md is generated from this module."""

from enum import StrEnum

from resnext_operator.domain.plan import Event

# Maximum length of the message of an event.
_MAX_MESSAGE_LENGTH = 1024


class Reason(StrEnum):
    """Reasons of conditions and events; the string below each member is its documentation."""

    # Admission.
    ACCEPTED = "Accepted"
    """The operator accepts the spec and starts the training."""
    INVALID = "Invalid"
    """An object of another owner already has the name of an object that the operator must create; the message names
    it.
    """
    FORBIDDEN_BY_OPERATOR = "ForbiddenByOperator"
    """The operator's settings do not allow a hostPath or hostNetwork; the message names the field."""
    VOLUME_NOT_SHAREABLE = "VolumeNotShareable"
    """The dataset's claim or another volume cannot be mounted by several workers."""
    CLAIM_NOT_OWNED = "ClaimNotOwned"
    """The operator did not create the existing claim `NAME-checkpoints`."""
    SPEC_INVALID = "SpecInvalid"
    """This version of the operator rejects the stored spec, which an earlier version, or a CRD without the validation
    rules, accepted. Running pods are kept; a training without pods fails.
    """

    # Pods.
    VOLUME_STILL_ATTACHED = "VolumeStillAttached"
    """Worker 0 was rescheduled to another node, but the checkpoint volume is still attached to the old one. The volume
    is detached when the old node recovers or is deleted.
    """
    CLAIM_NOT_FOUND = "ClaimNotFound"
    """A claim named in the spec does not exist; no pods are created."""
    POD_CREATION_REJECTED = "PodCreationRejected"
    """The API server rejects an object because of a quota, a LimitRange, Pod Security, a webhook or a policy."""
    PODS_INVALID = "PodsInvalid"
    """The API server rejects a pod as invalid. Before the first attempt, the training fails. Later, its pods are
    deleted, and the operator waits for a change to the spec.
    """
    WORKER_START_FAILED = "WorkerStartFailed"
    """A worker exited before the training started. Failed workers of one start count as one failure."""
    UNSCHEDULABLE = "Unschedulable"
    """No node fits a worker; the message quotes the scheduler."""
    CONTAINER_NOT_STARTING = "ContainerNotStarting"
    """A worker's image cannot be pulled, or its container does not start; the message quotes the kubelet."""
    LAUNCHER_PENDING = "LauncherPending"
    """The launcher pod does not start; the message quotes the scheduler or the kubelet."""
    SCHEDULED = "Scheduled"
    """Every worker is assigned to a node."""
    WORKERS_NOT_READY = "WorkersNotReady"
    """Not all workers are ready. The condition Scheduled gives the reason."""
    WORKERS_READY = "WorkersReady"
    """Every worker is ready."""
    WORKERS_RUNNING = "WorkersRunning"
    """All workers are running."""
    LAUNCHER_CREATED = "LauncherCreated"
    """An attempt started: the operator created its launcher, which runs mpirun."""

    # Progress.
    STEPS_PROGRESSING = "StepsProgressing"
    """The ranks report training steps."""
    CHECKPOINT_SAVED = "CheckpointSaved"
    """A checkpoint was saved."""
    RECIPE_CHANGED = "RecipeChanged"
    """The run resumes with a different recipe or dataset (`checkpoint.onMismatch: continue`); the message and
    `status.checkpoint.differences` list the differences.
    """
    RESUMED_EARLIER = "ResumedEarlier"
    """An attempt resumed from an earlier step than that of the last saved checkpoint, because that checkpoint is
    missing or damaged; the message names both steps.
    """
    STALLED = "Stalled"
    """No rank has completed a step for `runPolicy.stallTimeoutMultiple` times the median step time, and for at
    least 60 s; the message lists the last step of each rank.
    """
    PROGRESS_RESUMED = "ProgressResumed"
    """Training makes progress again after a stall."""

    # Stops and resumes.
    SUSPENDING = "Suspending"
    """The training saves a checkpoint; then the operator deletes its pods."""
    SUSPENDED = "Suspended"
    """The training is suspended and has no pods."""
    RESUMED = "Resumed"
    """The training is no longer suspended; the operator recreates its pods."""
    RESIZING = "Resizing"
    """`workers.replicas` changed: the training saves a checkpoint and resumes with the new number of workers."""
    POD_TEMPLATE_CHANGED = "PodTemplateChanged"
    """The pod settings of a suspended training changed before it had stopped, or the CRD in the cluster lacks the CEL
    rules; with them, the API server rejects such a change unless `spec.suspend` is true. The training saves a
    checkpoint and resumes in pods with the new settings.
    """
    SSH_KEYS_RECREATED = "SSHKeysRecreated"
    """The Secret with the SSH keys was deleted. The operator recreated it and replaces all pods."""

    # How an attempt ended; one for each AttemptCause.
    COMPLETED = "Completed"
    """The training is complete, and its last checkpoint is saved."""
    STOPPED = "Stopped"
    """The attempt stopped as requested, with a checkpoint."""
    DISRUPTED = "Disrupted"
    """A pod was evicted, preempted or deleted, or its node was lost. Disruptions do not count toward
    `runPolicy.backoffLimit`.
    """
    CRASHED = "Crashed"
    """A rank or the launcher exited unexpectedly."""
    OUT_OF_MEMORY = "OutOfMemory"
    """A worker's container was OOMKilled; the message names the limit."""
    WORLD_SIZE_MISMATCH = "WorldSizeMismatch"
    """The number of ranks that started differs from the spec, or a rank is on the wrong worker."""
    UNREACHABLE = "Unreachable"
    """The launcher cannot reach a worker's sshd."""
    GPU_UNAVAILABLE = "GPUUnavailable"
    """The spec requests GPUs, but a rank cannot use them."""
    HUNG = "Hung"
    """No step completed in time. The attempt was stopped and counts as a failure."""
    INVALID_CONFIGURATION = "InvalidConfiguration"
    """The trainer rejects the configuration; the message names the field."""
    INVALID_DATA = "InvalidData"
    """Images are missing or corrupt; the message names the file."""
    NON_FINITE_LOSS = "NonFiniteLoss"
    """The loss is NaN or infinite, even after `maxRollbacks` rollbacks."""
    NO_VALID_CHECKPOINT = "NoValidCheckpoint"
    """All checkpoints in the directory are damaged, or its file `current-run` is missing or invalid."""
    CHECKPOINT_NOT_SAVED = "CheckpointNotSaved"
    """The last checkpoint could not be written. The attempt counts as a failure and is retried."""
    CHECKPOINT_LOCKED = "CheckpointLocked"
    """Another training holds the lock of the checkpoint directory. The attempt counts as a failure and is retried."""
    SYSTEM_ERROR = "SystemError"
    """An operating-system error occurred: too many open files, out of memory, an I/O error or a stale network mount.
    The attempt counts as a failure and is retried.
    """

    # Why a training fails, independent of the cause of the last attempt.
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    """The number of failures exceeds `runPolicy.backoffLimit`."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """The training ran for `runPolicy.activeDeadlineSeconds`; its checkpoint is kept."""
    PENDING_DEADLINE_EXCEEDED = "PendingDeadlineExceeded"
    """The pods did not start within `runPolicy.pendingDeadlineSeconds`."""


SUGGESTED_ACTIONS = {
    Reason.SPEC_INVALID: "suspend the training, correct its mutable fields and resume it, or recreate it",
    Reason.POD_CREATION_REJECTED: "follow the advice in the message; the operator retries",
    Reason.PODS_INVALID: "suspend the training, correct the field that the message names and resume it, or recreate it",
    Reason.WORKER_START_FAILED: "check the log lines in the message, the image, its CPU architecture and the volumes",
    Reason.UNSCHEDULABLE: "follow the advice in the message, which depends on the cause that the scheduler reports",
    Reason.CONTAINER_NOT_STARTING: "check the image reference and the pull Secret",
    Reason.LAUNCHER_PENDING: "follow the advice in the message, or check the image reference and the pull Secret",
    Reason.RESUMED_EARLIER: "check the checkpoint volume",
    Reason.STALLED: "check the nodes of the ranks without progress, or raise spec.runPolicy.stallTimeoutMultiple",
    Reason.DISRUPTED: "no action needed; training resumes automatically",
    Reason.CRASHED: "check the message of the attempt and the log of the pod",
    Reason.WORLD_SIZE_MISMATCH: "check the message and the Open MPI version in the image",
    Reason.UNREACHABLE: "check the network policies and the log of the worker",
    Reason.GPU_UNAVAILABLE: "check the GPU driver on the node in status.attempts",
    Reason.HUNG: "check the node and the log of the rank",
    Reason.INVALID_CONFIGURATION: "correct the spec and recreate the training",
    Reason.INVALID_DATA: "repair the dataset and recreate the training",
    Reason.NON_FINITE_LOSS: "lower spec.training.optimizer.learningRate, or check the dataset",
    Reason.NO_VALID_CHECKPOINT: "restore a checkpoint, or empty the directory to start over",
    Reason.CHECKPOINT_NOT_SAVED: "check the free space and the permissions of the checkpoint volume",
    Reason.CHECKPOINT_LOCKED: "stop the other training that uses the directory, or set spec.checkpoints.subPath",
    Reason.SYSTEM_ERROR: "check the limits, memory and storage of the node in status.attempts",
    Reason.BACKOFF_LIMIT_EXCEEDED: "resolve the cause of the last failure and recreate the training",
    Reason.DEADLINE_EXCEEDED: "recreate the training with a longer deadline; it resumes from its last checkpoint",
    Reason.PENDING_DEADLINE_EXCEEDED: "resolve the cause in the message and recreate the training",
}
"""Suggested action of a warning event whose message does not include one."""

ADVICE = " → "
"""Separates the message from the suggested action."""


def warning(reason: Reason, message: str) -> Event:
    """Warning event with a suggested action. A long message is truncated; the suggested action is not."""
    text, _, advice = (
        message.rpartition(ADVICE) if ADVICE in message else (message, "", SUGGESTED_ACTIONS.get(reason, ""))
    )
    end = f"{ADVICE}{advice}" if advice else ""
    room = max(0, _MAX_MESSAGE_LENGTH - len(end) - 1)
    return Event("Warning", reason, (text if len(text) <= room else f"{text[:room]}…") + end)
