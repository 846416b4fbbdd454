"""The state of one decision: the observed state of a training, and the plan that is being built."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from resnext_operator.api.attempts import MAX_RECORDED_ATTEMPTS, AttemptStatus
from resnext_operator.api.objects.pod import Pod
from resnext_operator.api.objects.shared import SharedObject
from resnext_operator.api.status import ConditionType, Phase, RejectionStatus
from resnext_operator.api.training import Training
from resnext_operator.domain.conditions import Conditions
from resnext_operator.domain.goodput import account
from resnext_operator.domain.observed import ClusterState, ObservedLauncher, ObservedPod
from resnext_operator.domain.plan import Event, ObjectRef, Plan
from resnext_operator.domain.progress import drop_rates, summarize
from resnext_operator.domain.reasons import Reason, warning
from resnext_operator.rendering.hashing import pod_revision


class Draft:
    """Input and intermediate result of `decide`. Rules read it; actions change it."""

    def __init__(self, training: Training, state: ClusterState, now: datetime) -> None:
        self.training, self.state, self.now = training, state, now
        self.second = now.replace(microsecond=0)
        """The time as the status stores it."""
        self.status = training.status.copy_to_change()
        self.status.observed_generation = training.generation
        self.conditions = Conditions(training.status.conditions, training.generation, now)
        self.revision = pod_revision(training)
        self.create: list[Pod | SharedObject] = []
        self.update: list[SharedObject] = []
        self.delete: dict[str, ObjectRef] = {}
        self.ungate: list[ObjectRef] = []
        self.events: list[Event] = []
        self.needs_ssh_secret = self.needs_admission = self.needs_launcher_admission = False
        self.requeue_after: timedelta | None = None
        self.evidence_is_recorded = True
        """False if the status has new outcomes, which must be written before the pods that show them are deleted."""
        self.replicas = self._known_replicas() if training.invalid else training.spec.workers.replicas
        """Number of workers in this decision."""

    def _known_replicas(self) -> int:
        """Number of workers if the spec is invalid: that of the last attempt, or the number of live workers."""
        last, living = self.status.last_attempt, [pod for pod in self.state.workers if not pod.terminated]
        return (last and last.workers) or len({pod.index for pod in living}) or self.training.spec.workers.replicas

    # -- state ---------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        return self.status.phase or Phase.PENDING

    @property
    def attempts(self) -> list[AttemptStatus]:
        return self.status.attempts

    @property
    def attempt(self) -> AttemptStatus | None:
        """The current attempt, if it has not ended."""
        last = self.status.last_attempt
        return last if last and not last.ended else None

    @property
    def launcher(self) -> ObservedLauncher | None:
        """The launcher of the last attempt."""
        last = self.status.last_attempt
        return next((each for each in self.state.launchers if last and each.attempt == last.number), None)

    @property
    def rejection(self) -> RejectionStatus | None:
        """The latest rejection, until all pods exist."""
        return self.status.rejection

    # -- decision ------------------------------------------------------------------------------------------------

    def transition_to(self, phase: Phase, reason: Reason, message: str, *, bad: bool = False) -> None:
        """Change phase and reason, and emit an event if either is new."""
        if (phase, reason) == (self.phase, self.status.reason):
            return
        self.status.phase, self.status.reason = phase, reason.value
        self.events.append(warning(reason, message) if bad else Event("Normal", reason, message))

    def delete_pods(self, pods: Iterable[ObservedPod], grace: int | None = None) -> None:
        for pod in pods:
            if not pod.deleting and not (isinstance(pod, ObservedLauncher) and pod.deleted):
                self.delete[pod.uid] = ObjectRef("Pod", pod.name, pod.uid, grace)

    def requeue_at(self, time: datetime) -> None:
        """Request another decision at this time at the latest."""
        wait = time - self.now
        self.requeue_after = min(wait, self.requeue_after) if self.requeue_after else wait

    def plan(self) -> Plan:
        status = self.status
        status.phase = self.phase
        status.conditions = self.conditions.all()
        status.attempts = status.attempts[-MAX_RECORDED_ATTEMPTS:]
        if self.attempt is None or self.conditions.is_true(ConditionType.STALLED):
            drop_rates(status)
        status.summary = summarize(status)
        final = self.launcher.report.progress if self.launcher and self.launcher.report else None
        account(status, self.training.status, [each for each in (self.state.progress, final) if each], self.now)
        return Plan(
            create=tuple(self.create),
            update=tuple(self.update),
            delete=tuple(self.delete.values()),
            ungate=tuple(self.ungate),
            status=status,
            # A rejection that fails the training is reported once.
            events=tuple(dict.fromkeys(self.events)),
            needs_ssh_secret=self.needs_ssh_secret,
            needs_admission=self.needs_admission,
            needs_launcher_admission=self.needs_launcher_admission,
            requeue_after=self.requeue_after,
        )
