"""Classifies how an attempt ended, whether it counts as a failure, and which pod caused it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from resnext_operator.api.attempts import AttemptStatus
from resnext_operator.api.training import Training
from resnext_operator.domain.attempt_cause import CAUSES, AttemptCause
from resnext_operator.domain.log_excerpt import last_lines
from resnext_operator.domain.observed import ObservedLauncher, ObservedWorker
from resnext_trainer.contract import ExitStatus, TerminationReport

PERMANENT_EXIT_STATUSES = (
    ExitStatus.INVALID_CONFIGURATION,
    ExitStatus.INVALID_DATA,
    ExitStatus.NON_FINITE_LOSS,
    ExitStatus.NO_VALID_CHECKPOINT,
)
"""Exit statuses that another attempt would repeat; the training fails."""

# A launcher often exits before the loss of a node is known: the node controller marks the node as unreachable after
# 50 s (40 s before Kubernetes 1.32), and its pods are evicted 30 s later.
EVIDENCE_GRACE = timedelta(seconds=90)

# If the worker's node is known to be alive, its kubelet reports the end of its pods within a second or two.
EVIDENCE_GRACE_LIVE_NODE = timedelta(seconds=5)

NODE_FAULT_CAUSES = (AttemptCause.CRASHED, AttemptCause.UNREACHABLE, AttemptCause.GPU_UNAVAILABLE, AttemptCause.HUNG)
"""Causes that may be faults of a node. Running out of memory is not: the limit is the same on every node."""

REPLACE_POD_CAUSES = (AttemptCause.UNREACHABLE, AttemptCause.GPU_UNAVAILABLE, AttemptCause.HUNG)
"""Causes after which the pod that caused the failure may still be running and must be replaced."""


@dataclass(frozen=True)
class AttemptOutcome:
    """How an attempt ended, and whether it counts as a failure."""

    cause: AttemptCause
    message: str
    exit_code: int | None = None
    counts_toward_backoff: bool = False
    is_permanent: bool = False
    succeeded: bool = False
    pod: str = ""
    node: str = ""
    rank: int | None = None
    log: tuple[str, ...] = ()

    def record_in(self, attempt: AttemptStatus, now: datetime) -> None:
        """Record the end in the status of the attempt."""
        attempt.end_time = now
        attempt.cause, attempt.message, attempt.exit_code = self.cause.value, self.message, self.exit_code
        attempt.pod, attempt.node, attempt.rank = self.pod or None, self.node or None, self.rank
        attempt.log = list(self.log)


@dataclass(frozen=True)
class AttemptObservation:
    """The current attempt: its launcher, and the newest pod of each of its workers."""

    training: Training
    launcher: ObservedLauncher | None
    workers: Sequence[ObservedWorker | None]
    stopping: bool
    """The operator has requested a stop, or is about to."""

    def classify(self, now: datetime) -> AttemptOutcome | timedelta | None:
        """The outcome; None while the attempt is running; the time to wait if the outcome is not known yet."""
        launcher = self.launcher
        if launcher is None or (launcher.deleted and not launcher.finished):
            if self.stopping:
                return AttemptOutcome(AttemptCause.STOPPED, "launcher deleted as requested")
            return AttemptOutcome(AttemptCause.DISRUPTED, "the launcher pod was deleted")
        if launcher.finished:
            return self._from_exit_code(launcher, now)
        if launcher.disrupted and not self.stopping:
            return _lost_launcher(launcher)
        if launcher.unreachable:
            return AttemptOutcome(
                AttemptCause.STOPPED, f"pod {launcher.name}: stop requested, but node {launcher.node} was lost"
            )
        lost = [index for index in self._lost_workers() if not self._is_saving(self.workers[index])]
        return self._worker_failure(lost[0]) if lost else None

    @staticmethod
    def _is_saving(pod: ObservedWorker | None) -> bool:
        """Whether the worker is being deleted and still saving a checkpoint. Then, the launcher exits, and its exit
        status determines the outcome."""
        return pod is not None and pod.deleting and not pod.unreachable

    def _lost_workers(self) -> list[int]:
        """Indexes of the workers without a live pod, ordered with failures before disruptions."""

        def disrupted(index: int) -> bool:
            pod = self.workers[index]
            return pod is None or pod.deleting or pod.disrupted

        return sorted((index for index, pod in enumerate(self.workers) if pod is None or pod.terminated), key=disrupted)

    def _from_exit_code(self, launcher: ObservedLauncher, now: datetime) -> AttemptOutcome | timedelta:
        code = launcher.exit_code if launcher.exit_code is not None else 1
        status = ExitStatus.of_exit_code(code)
        report = launcher.report or TerminationReport(
            verdict=status.name.lower(), message=f"the launcher exited with code {code}"
        )
        ending = AttemptOutcome(CAUSES[status], report.message, code)
        if status in (ExitStatus.COMPLETED, ExitStatus.STOPPED) or status in PERMANENT_EXIT_STATUSES:
            ending = replace(
                ending, is_permanent=status in PERMANENT_EXIT_STATUSES, succeeded=status is ExitStatus.COMPLETED
            )
            return self._attribute_failure(report, ending) if status in PERMANENT_EXIT_STATUSES else ending
        counted = self._attribute_failure(report, replace(ending, counts_toward_backoff=True))
        if status not in (ExitStatus.CRASHED, ExitStatus.UNREACHABLE):
            return counted
        if self.stopping:
            return replace(ending, cause=AttemptCause.STOPPED)
        if launcher.disrupted:
            return replace(_lost_launcher(launcher), exit_code=code)
        if lost := self._lost_workers():
            loss = self._worker_failure(lost[0])
            return loss if loss.exit_code is not None else replace(loss, exit_code=code)
        left = (launcher.ended or now) + self._evidence_grace(launcher, report) - now
        return left if status is ExitStatus.CRASHED and left > timedelta(0) else counted

    def _evidence_grace(self, launcher: ObservedLauncher, report: TerminationReport) -> timedelta:
        """Time to wait for evidence that explains a crash; shorter if the nodes are known to be alive."""
        # The kubelet reported the end of the launcher, so its node is alive.
        together = bool(launcher.node) and all(pod and pod.node == launcher.node for pod in self.workers)
        return EVIDENCE_GRACE_LIVE_NODE if together or report.rank is not None else EVIDENCE_GRACE

    def _worker_failure(self, index: int) -> AttemptOutcome:
        pod = self.workers[index]
        if pod is None:
            return AttemptOutcome(AttemptCause.DISRUPTED, f"the pod of worker {index} was deleted")
        where = AttemptOutcome(
            AttemptCause.DISRUPTED, f"pod {pod.name} on node {pod.node}", pod=pod.name, node=pod.node
        )
        if pod.disrupted or pod.deleting:
            return replace(where, message=f"{where.message} was evicted or deleted, or its node was lost")
        failed = replace(where, cause=AttemptCause.CRASHED, exit_code=pod.exit_code, counts_toward_backoff=True)
        if pod.out_of_memory:
            return replace(
                failed, cause=AttemptCause.OUT_OF_MEMORY, message=f"{where.message}: {self._out_of_memory()}"
            )
        lines = last_lines(pod.termination_message)
        log = lines if len(lines) > 1 else ()
        return replace(failed, message=f"{where.message}: {lines[-1] if lines else pod.termination_message}", log=log)

    def _out_of_memory(self) -> str:
        if limit := self.training.spec.workers.memory_limit:
            return (
                f"OOMKilled at its memory limit of {limit}: raise spec.workers.resources.limits.memory "
                "or lower spec.training.batchSize"
            )
        return (
            "OOMKilled because the node ran out of memory; no memory limit is set: "
            "set spec.workers.resources.limits.memory"
        )

    def _attribute_failure(self, report: TerminationReport, ending: AttemptOutcome) -> AttemptOutcome:
        """The outcome with the pod that caused it: that of the reported rank, or the only one named in the message."""
        pods = [pod for pod in self.workers if pod]
        if report.rank is not None:
            index = report.rank // self.training.spec.workers.ranks
            causes = [pod for pod in pods if pod.index == index]
        else:
            causes = [pod for pod in pods if re.search(rf"\b{re.escape(pod.name)}\b", report.message)]
        if len(causes) == 1:
            ending = replace(ending, pod=causes[0].name, node=causes[0].node)
        return replace(ending, rank=report.rank, log=report.log)


def _lost_launcher(launcher: ObservedLauncher) -> AttemptOutcome:
    message = f"pod {launcher.name} was evicted, or its node was lost"
    return AttemptOutcome(AttemptCause.DISRUPTED, message, pod=launcher.name, node=launcher.node)
