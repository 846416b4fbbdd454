"""The reasons of conditions and events. operator/README.md says what to do about each; a test compares the two."""

from enum import StrEnum


class Reason(StrEnum):
    """One word for why a training is where it is."""

    # What was asked for.
    ACCEPTED = "Accepted"
    INVALID = "Invalid"
    NOT_ALLOWED = "NotAllowed"
    CLAIM_NOT_SHARED = "ClaimNotShared"

    # Its pods.
    DETACHING = "Detaching"
    CLAIM_MISSING = "ClaimMissing"
    PODS_REFUSED = "PodsRefused"
    UNSCHEDULABLE = "Unschedulable"
    NOT_STARTING = "NotStarting"
    LAUNCHER_PENDING = "LauncherPending"
    SCHEDULED = "Scheduled"
    WAITING = "Waiting"
    READY = "Ready"
    STARTING = "Starting"
    LAUNCHED = "Launched"

    # Its steps.
    TRAINING = "Training"
    SAVED = "Saved"
    STALLED = "Stalled"
    MOVING = "Moving"

    # Why it stops, or goes on.
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    RESIZING = "Resizing"
    PODS_CHANGED = "PodsChanged"
    KEYS_REMADE = "KeysRemade"

    # How an attempt ended: the causes, in one word each.
    FINISHED = "Finished"
    STOPPED = "Stopped"
    DISRUPTION = "Disruption"
    CRASHED = "Crashed"
    OUT_OF_MEMORY = "OutOfMemory"
    WRONG_WORLD = "WrongWorld"
    UNREACHABLE = "Unreachable"
    NO_GPU = "NoGpu"
    HUNG = "Hung"
    CONFIGURATION_REFUSED = "ConfigurationRefused"
    DATA_REFUSED = "DataRefused"
    NOT_FINITE = "NotFinite"
    NO_GOOD_CHECKPOINT = "NoGoodCheckpoint"

    # Why it failed for good, whatever the last attempt's cause was.
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    PENDING_DEADLINE_EXCEEDED = "PendingDeadlineExceeded"

    @classmethod
    def of_cause(cls, cause: str) -> "Reason":
        """From an attempt's cause, such as no_gpu."""
        return cls("".join(word.capitalize() for word in cause.split("_")))
