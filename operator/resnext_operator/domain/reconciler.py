"""What is done about a training, in order: children, workers, a launcher, and again until it has ended."""

from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta

from resnext_operator.api.groupversion import CONTROLLER_NAME, KIND
from resnext_operator.api.objects import Manifest
from resnext_operator.api.status import Phase
from resnext_operator.api.training import Training
from resnext_operator.domain import admission, rejections, startup
from resnext_operator.domain.attempt_cause import REASONS, AttemptCause
from resnext_operator.domain.attempt_outcome import (
    NODE_FAULT_CAUSES,
    REPLACE_POD_CAUSES,
    AttemptObservation,
    AttemptOutcome,
)
from resnext_operator.domain.conditions import Conditions
from resnext_operator.domain.observed import ClusterState, ObservedLauncher, ObservedWorker
from resnext_operator.domain.plan import Event, ObjectRef, Plan
from resnext_operator.domain.progress import drop_rates, printer_columns, step_seconds, update_progress
from resnext_operator.domain.reasons import Reason, warning
from resnext_operator.domain.timestamps import to_rfc3339, to_rfc3339_millis
from resnext_operator.rendering.claims import checkpoint_claim_name
from resnext_operator.rendering.hashing import pod_revision, spec_hash
from resnext_operator.rendering.pods import launcher_pod, worker_pod
from resnext_operator.rendering.shared_objects import shared_objects
from resnext_trainer.contract import Progress

# Polls are seconds apart, and a minute without a step is nobody's trouble.
MIN_STALL = timedelta(minutes=1)

# A container whose image is there starts within seconds; after that, the Secret that it mounts may be gone.
SECRET_MOUNT_GRACE = timedelta(seconds=30)

# The ranks of an attempt that has lost one wait for it in vain, and without it they cannot save.
STALE_LAUNCHER_GRACE_SECONDS = 5

# A claim that was made along with the pods is bound within a second or two; until then they are unschedulable as well.
SCHEDULING_GRACE = timedelta(seconds=5)

MAX_RECORDED_ATTEMPTS = 10

NOT_STARTED_REASONS = (
    Reason.UNSCHEDULABLE,
    Reason.NOT_STARTING,
    Reason.CLAIM_MISSING,
    Reason.PODS_REFUSED,
    Reason.DETACHING,
    Reason.LAUNCHER_PENDING,
)
"""Why pods do not start; no longer the reason of a status when they have."""

MUTABLE_KINDS = ("NetworkPolicy",)
"""Children that are brought up to date; a ConfigMap and a claim stay as they were created."""


def decide(training: Training, seen: ClusterState, now: datetime) -> Plan:
    """What to create, delete, record and tell; an empty plan when another manager or the garbage collector is at it."""
    if training.deleting or training.spec.managed_by not in (None, CONTROLLER_NAME):
        return Plan(status=dict(training.status))
    draft = Draft(training, seen, now)
    draft.decide()
    return draft.plan()


class Draft:
    """One decision in the making."""

    def __init__(self, training: Training, seen: ClusterState, now: datetime) -> None:
        self.training, self.state, self.now = training, seen, now
        before = training.status
        self.status: Manifest = {**before, "observedGeneration": training.generation}
        self.attempts: list[Manifest] = [dict(each) for each in before.get("attempts") or ()]
        self.conditions = Conditions(before.get("conditions"), training.generation, now)
        self.phase = Phase(before.get("phase", Phase.PENDING))
        self.revision = pod_revision(training)
        self.create: list[Manifest] = []
        self.update: list[Manifest] = []
        self.delete: dict[str, ObjectRef] = {}
        self.ungate: list[ObjectRef] = []
        self.events: list[Event] = []
        self.needs_ssh_secret = self.needs_admission = self.needs_launcher_admission = False
        self.requeue_after: timedelta | None = None
        # What the last status did not know must be written before its evidence goes.
        self.evidence_is_recorded = True
        self.replicas = self._known_replicas() if training.invalid else training.spec.workers.replicas

    # -- the decision --------------------------------------------------------------------------------------------

    def decide(self) -> None:
        if self.phase.ended:
            self._cleanup()
            return
        refusal = self._check_admission()
        self._set_start_time()
        self._adopt_orphaned_launcher()
        self._update_progress()
        if self.attempt is not None:
            self._finish_attempt_if_over()
        if self.phase.ended:
            return
        if refusal and self.attempt is None and not self.training.spec.suspend:
            self._finish(Phase.FAILED, *refusal)
        elif self.training.spec.suspend:
            self._suspend()
        elif self._deadline_exceeded():
            self._fail_on_deadline()
        elif self.attempt is None and self.training.invalid:
            self._keep_pods()
        elif self.attempt is None:
            self._reconcile_startup()
        elif why := self._stop_reason():
            self._stop_launcher(*why)
        else:
            self._reconcile_running()

    @property
    def attempt(self) -> Manifest | None:
        """The attempt that is under way."""
        return self.attempts[-1] if self.attempts and "endTime" not in self.attempts[-1] else None

    @property
    def launcher(self) -> ObservedLauncher | None:
        number = self.attempts[-1]["number"] if self.attempts else None
        return next((each for each in self.state.launchers if each.attempt == number), None)

    def _check_admission(self) -> admission.Refusal | None:
        """Why no attempt may begin; one that is under way keeps its pods, and as many as it has."""
        if self.training.invalid:
            self._note_invalid_spec()
            return None
        if self.conditions.is_true("SpecInvalid"):
            self.conditions.set("SpecInvalid", False, Reason.ACCEPTED)
        unshared = admission.check_claim_access(self.training, self.state, self.replicas)
        taken = admission.check_claim_owner(self.training, self.state)
        refusal = admission.check_operator_policy(self.training) or taken or unshared
        if refusal is None:
            if not self.conditions.is_true("Accepted"):
                self.conditions.set("Accepted", True, Reason.ACCEPTED, "nothing stands against it")
                world = self.replicas * self.training.spec.workers.ranks
                message = f"{world} ranks in {self.replicas} workers, which a launcher starts by mpirun"
                self.events.append(Event("Normal", Reason.ACCEPTED, message))
            return None
        before = self.conditions.get("Accepted")
        self.conditions.set("Accepted", False, *refusal)
        if before.get("message") != refusal[1]:
            self.events.append(warning(*refusal))
        if self.attempts and refusal == unshared:
            # With as many workers as it had before it may go on, also after a failure.
            self.replicas = self.attempts[-1].get("workers", self.replicas)
            return None
        return refusal

    def _note_invalid_spec(self) -> None:
        """An earlier version accepted the spec: what runs goes on, and nothing new can be created."""
        if self.conditions.get("SpecInvalid").get("message") != self.training.invalid:
            self.events.append(warning(Reason.SPEC_INVALID, self.training.invalid))
        self.conditions.set("SpecInvalid", True, Reason.SPEC_INVALID, self.training.invalid)

    def _known_replicas(self) -> int:
        """How many workers there are, where the spec does not tell."""
        last = self.training.status.get("attempts") or [{}]
        return last[-1].get("workers") or len(self._live_workers()) or self.training.spec.workers.replicas

    def _keep_pods(self) -> None:
        """Between two attempts with a spec that cannot be used: its pods are kept, and without pods it has failed."""
        living = self._live_workers()
        if not living and all(each.gone or each.finished for each in self.state.launchers):
            self._finish(Phase.FAILED, Reason.SPEC_INVALID, self.training.invalid)
            return
        self._set_workers_ready(sum(1 for pod in living.values() if pod.ready))
        self._pending_deadline_exceeded(self._pending_since())

    def _set_start_time(self) -> None:
        """The start time, from which the deadline counts: none before the first resume, and anew at each."""
        if self.training.spec.suspend:
            return
        if self.conditions.is_true("Suspended"):
            self.conditions.set("Suspended", False, Reason.RESUMED)
            self.status["startTime"] = to_rfc3339(self.now)
            # What failed to start may have been corrected meanwhile: no pause from before counts.
            self.status.pop(startup.FAILED_STARTS, None)
        self.status.setdefault("startTime", to_rfc3339(self.now))

    def _adopt_orphaned_launcher(self) -> None:
        """A launcher that was made and not recorded, since the operator ended between the two, is an attempt too."""
        last = self.attempts[-1]["number"] if self.attempts else 0
        newest = max(self.state.launchers, key=lambda each: each.attempt, default=None)
        if self.attempt is None and newest and newest.attempt > last:
            # It was made because all workers had a node and were ready.
            self._set_scheduled_true()
            self._set_workers_ready(self.replicas)
            self._record_attempt_start(newest.attempt, newest.workers or self.replicas)

    def _record_attempt_start(self, number: int, workers: int) -> None:
        """Record an attempt, and what it starts from."""
        saved = self.status.get("checkpoint")
        before = {"checkpointStepBefore": saved["step"]} if saved else {}
        self.attempts.append({"number": number, "startTime": to_rfc3339(self.now), "workers": workers, **before})
        for key in ("stepSeconds", "rejection", startup.FAILED_STARTS):
            self.status.pop(key, None)
        message = f"attempt {number}: {workers} workers are ready, mpirun starts"
        self._transition_to(Phase.STARTING, Reason.LAUNCHED, message)

    # -- how an attempt ends -------------------------------------------------------------------------------------

    def _stop_reason(self) -> tuple[Reason, str] | None:
        """Why the attempt under way must end: judged by what is asked for and seen, so that nothing is forgotten."""
        policy, launcher, attempt = self.training.spec.run_policy, self.launcher, self.attempts[-1]
        if self.training.spec.suspend:
            return Reason.SUSPENDING, "saving a checkpoint before the pods go"
        if self._deadline_exceeded():
            return Reason.DEADLINE_EXCEEDED, (
                f"ran for {policy.active_deadline_seconds} s (runPolicy.activeDeadlineSeconds): saving a checkpoint"
            )
        if self.training.invalid:
            return self._stall_stop_reason()
        if (launched := attempt.get("workers", self.replicas)) != self.replicas:
            return Reason.RESIZING, f"from {launched} to {self.replicas} workers: saving a checkpoint to go on from"
        if why := self._stall_stop_reason():
            return why
        living = [pod for pod in self.state.workers if not pod.terminated]
        if not all(self._is_current(pod) for pod in living):
            return Reason.PODS_CHANGED, "the pods were asked for with other settings: saving a checkpoint to go on from"
        if launcher and launcher.phase == "Pending" and not all(self._mounts_current_secret(pod) for pod in living):
            return Reason.KEYS_REMADE, "the Secret with the keys had gone and was made anew: all pods are replaced"
        return None

    def _stall_stop_reason(self) -> tuple[Reason, str] | None:
        if not self._stall_deadline_exceeded():
            return None
        seconds = self.training.spec.run_policy.stall_deadline_seconds
        message = self.conditions.get("Stalled")["message"]
        return Reason.HUNG, f"stalled for {seconds} s (runPolicy.stallDeadlineSeconds): {message}"

    def _stop_launcher(self, reason: Reason, message: str) -> None:
        """The launcher first, whose SIGTERM makes the ranks save."""
        self._transition_to(Phase.STOPPING, reason, message)
        self._set_workers_ready(self._ready())
        launcher = self.launcher
        if launcher and not launcher.finished:
            self._delete_pods(launcher)

    def _finish_attempt_if_over(self) -> None:
        stopping = self.phase is Phase.STOPPING or self._stop_reason() is not None
        newest = {pod.index: pod for pod in self.state.workers}
        launched = self.attempts[-1].get("workers", self.replicas)
        workers = [self._live_workers().get(index) or newest.get(index) for index in range(launched)]
        ending = AttemptObservation(self.training, self.launcher, workers, stopping).classify(self.now)
        if isinstance(ending, timedelta):
            self._requeue_after(ending)
        elif ending is not None:
            if ending.cause is AttemptCause.STOPPED and self._stall_deadline_exceeded():
                stalled = self.conditions.get("Stalled")["message"]
                ending = AttemptOutcome(AttemptCause.HUNG, stalled, ending.exit_code, counts_toward_backoff=True)
            self._record_attempt_end(ending)

    def _record_attempt_end(self, ending: AttemptOutcome) -> None:
        if (launcher := self.launcher) and launcher.report and launcher.report.progress:
            self._record(launcher.report.progress)
        self.attempts[-1] |= {"endTime": to_rfc3339(self.now), **ending.as_status()}
        if saved := self.status.get("checkpoint"):
            self.attempts[-1]["checkpointStep"] = saved["step"]
        startup.account(self.status, self.state.workers)
        self.evidence_is_recorded = False
        reason = REASONS[ending.cause]
        if self.conditions.is_true("Stalled"):
            self.conditions.set("Stalled", False, reason)
        if ending.finished:
            self._finish(Phase.SUCCEEDED, reason, ending.message)
            return
        if ending.is_permanent:
            self._finish(Phase.FAILED, reason, ending.message)
            return
        if ending.counts_toward_backoff:
            if self._exhausted(ending.message):
                return
        elif ending.cause is AttemptCause.DISRUPTION:
            self.status["disruptions"] = self.status.get("disruptions", 0) + 1
        self.conditions.set("Running", False, reason, ending.message)
        if not self.training.spec.suspend and not self._deadline_exceeded():
            self._transition_to(Phase.RESTARTING, reason, ending.message, bad=ending.cause is not AttemptCause.STOPPED)

    # -- what is asked for ---------------------------------------------------------------------------------------

    def _suspend(self) -> None:
        """The launcher first, the workers when it has ended."""
        self.status.pop("rejection", None)
        if self.attempt is not None and (why := self._stop_reason()):
            self._stop_launcher(*why)
            return
        if self.state.workers or any(not each.gone for each in self.state.launchers):
            if self.phase is not Phase.SUSPENDED:
                self._transition_to(Phase.STOPPING, Reason.SUSPENDING, "the pods go")
            self._set_workers_ready(self._ready())
            if self.evidence_is_recorded:
                self._delete_pods(*self.state.workers, *(each for each in self.state.launchers if not each.gone))
            return
        if self.phase is not Phase.SUSPENDED:
            message = "no pods; with spec.suspend false it goes on from the last checkpoint"
            self._transition_to(Phase.SUSPENDED, Reason.SUSPENDED, message)
            self.conditions.set("Suspended", True, Reason.SUSPENDED, "no pods; the checkpoint is kept")
            self.conditions.set("Running", False, Reason.SUSPENDED)
            self.conditions.set("Scheduled", False, Reason.SUSPENDED, "no pods")
            self._set_workers_ready(0, Reason.SUSPENDED)

    def _deadline_exceeded(self) -> bool:
        deadline = self.training.spec.run_policy.active_deadline_seconds
        if deadline is None or self.training.spec.suspend:
            return False
        left = datetime.fromisoformat(self.status["startTime"]) + timedelta(seconds=deadline) - self.now
        if left > timedelta(0):
            self._requeue_after(left)
        return left <= timedelta(0)

    def _fail_on_deadline(self) -> None:
        """The deadline has passed: an attempt under way saves first."""
        if self.attempt is not None and (why := self._stop_reason()):
            self._stop_launcher(*why)
            return
        seconds = self.training.spec.run_policy.active_deadline_seconds
        message = f"not finished within {seconds} s (runPolicy.activeDeadlineSeconds); the checkpoint is kept"
        self._finish(Phase.FAILED, Reason.DEADLINE_EXCEEDED, message)

    def _reconcile_startup(self) -> None:
        """Children, then workers, then, when all are ready, a launcher."""
        if self.phase not in (Phase.STARTING, Phase.RESTARTING, Phase.PENDING):
            self._transition_to(Phase.PENDING, Reason.RESUMED, "the pods are made again")
        if self._waits_for_another_spec():
            return
        self._ensure_shared_objects()
        self._count_failed_start()
        if self.phase.ended:
            return
        current = self._up_to_date_workers()
        ready = sum(1 for pod in current if pod and pod.ready)
        self._set_workers_ready(ready)
        self._admitted(current)
        if (ready < len(current) or self.rejection) and self._pending_deadline_exceeded(self._pending_since()):
            return
        if self.rejection:
            if self._released(current):
                return
            self._set_scheduled_false(Reason.PODS_REFUSED, str(self.rejection.get("message")))
        else:
            self._set_scheduled_condition(current)
        if self.evidence_is_recorded:
            stale = [each for each in self.state.launchers if not each.gone and not each.finished]
            self._delete_pods(*stale, grace=STALE_LAUNCHER_GRACE_SECONDS)
            self._drop_workers_but({pod.uid for pod in current if pod}, self._evidence())
        # That a worker is missing may be all that tells of an attempt's end, until that is recorded.
        if self.evidence_is_recorded and not self._missing_claims() and self._start_rested() and self._may_create():
            self._create_missing_workers([index for index, pod in enumerate(current) if pod is None])
        if self.phase is Phase.PENDING and all(pod and pod.phase == "Running" for pod in current):
            self._transition_to(Phase.STARTING, Reason.STARTING, "all workers are placed")
        # What a lost node still runs, if anything, cannot reach these pods' checkpoints: they name their attempt.
        old_launcher = any(not (each.gone or each.finished or each.unreachable) for each in self.state.launchers)
        if (
            ready == len(current)
            and not old_launcher
            and self.evidence_is_recorded
            and self._backoff_elapsed()
            and self._may_create()
        ):
            self._create_launcher([pod for pod in current if pod])
        self._check_secret([pod for pod in current if pod])

    def _create_missing_workers(self, indexes: list[int]) -> None:
        if not indexes:
            return
        self.needs_admission, self.needs_ssh_secret = self.state.quota is None, self.state.keys is None
        if self.state.quota is None or self.state.keys is None:
            return
        # A quota is charged for pods with a gate as well, but they hold no GPU while others of the set are rejected.
        gated = self.state.quota or self.rejection is not None
        for index in indexes:
            incarnations = [each.incarnation for each in self.state.workers if each.index == index]
            number = max(incarnations, default=-1) + 1
            avoided = self._nodes_to_avoid()
            self.create.append(worker_pod(self.training, index, number, self.state.keys, avoided, gated))

    # -- starts that fail ----------------------------------------------------------------------------------------

    def _count_failed_start(self) -> None:
        """A worker that ends before an attempt has begun: the start of all of them counts as one failure."""
        current = [pod for pod in self.state.workers if pod.index < self.replicas]
        current = [pod for pod in current if self._is_current(pod)]
        failed = startup.failed_workers(current, self.status.get(startup.ACCOUNTED))
        if not failed:
            return
        startup.account(self.status, self.state.workers)
        message = startup.record(self.status, failed[0], self.now)
        self.evidence_is_recorded = False
        if not self._exhausted(message):
            self.phase, self.status["reason"] = Phase.RESTARTING, Reason.WORKER_START_FAILED.value
            self.events.append(warning(Reason.WORKER_START_FAILED, f"failure {self.status['failures']}: {message}"))

    def _exhausted(self, message: str) -> bool:
        """Count a failure; more than backoffLimit of them fail the training."""
        self.status["failures"] = failures = self.status.get("failures", 0) + 1
        if failures <= self.training.spec.run_policy.backoff_limit:
            return False
        limit = f"failed {failures} times (runPolicy.backoffLimit): {message}"
        self._finish(Phase.FAILED, Reason.BACKOFF_LIMIT_EXCEEDED, limit)
        return True

    def _evidence(self) -> set[str]:
        """The failed pods that stay, for their logs, until an attempt begins."""
        if self.training.spec.run_policy.clean_pod_policy == "All":
            return set()
        return {each["pod"] for each in startup.failed_starts(self.status) if "pod" in each}

    def _start_rested(self) -> bool:
        """Whether the pause after the last failed start is over."""
        starts = startup.failed_starts(self.status)
        return not starts or self._paused_since(starts[-1]["time"])

    # -- pods that the API server rejects ------------------------------------------------------------------------

    @property
    def rejection(self) -> Manifest | None:
        """What was rejected at the last try, until all pods exist."""
        found: Manifest | None = self.status.get("rejection")
        return found

    def _may_create(self) -> bool:
        """Whether the pause after the last rejection is over."""
        if self.rejection is None:
            return True
        left = datetime.fromisoformat(self.rejection["retryTime"]) - self.now
        if left > timedelta(0):
            self._requeue_after(left)
        return left <= timedelta(0)

    def _admitted(self, workers: list[ObservedWorker | None]) -> None:
        """Give the workers to the scheduler when all exist and the API server would admit the launcher, too."""
        pods = [pod for pod in workers if pod]
        if len(pods) < len(workers):
            return
        if gated := [pod for pod in pods if pod.gated]:
            if not self.state.launcher_admitted:
                self.needs_launcher_admission = self._may_create()
                return
            self.ungate += [ObjectRef("Pod", pod.name, pod.uid) for pod in gated]
        elif self.rejection and self.rejection.get("role") == "launcher":
            return
        if self.status.pop("rejection", None) is not None:
            self.conditions.set("Scheduled", False, Reason.WAITING, "the pods are admitted, and wait for their nodes")
            self._leave_reason(Reason.WAITING)

    def _released(self, workers: list[ObservedWorker | None]) -> bool:
        """Delete the pods of a set that stays incomplete because others are rejected; they may hold a quota's rest."""
        rejection, policy = dict(self.rejection or {}), self.training.spec.run_policy
        if not any(workers):
            rejection.pop("heldSince", None)
            self.status["rejection"] = rejection
            return False
        since = datetime.fromisoformat(rejection.setdefault("heldSince", to_rfc3339_millis(self.now)))
        self.status["rejection"] = rejection
        left = since + timedelta(seconds=policy.admission_timeout_seconds) - self.now
        if left > timedelta(0) or not self.evidence_is_recorded:
            self._requeue_after(max(left, timedelta(0)))
            return False
        self.status["rejection"], wait = rejections.released(self.training, rejection, self.now)
        self._delete_pods(*self.state.workers, *(each for each in self.state.launchers if not each.finished))
        message = (
            f"not all pods were admitted within {policy.admission_timeout_seconds} s "
            f"(runPolicy.admissionTimeoutSeconds): the others are deleted; next try in {wait.total_seconds():.0f} s"
        )
        self.events.append(warning(Reason.PODS_REFUSED, f"{message}: {rejection.get('message')}"))
        self._set_scheduled_false(Reason.PODS_REFUSED, str(rejection.get("message")))
        self._requeue_after(wait)
        return True

    def _waits_for_another_spec(self) -> bool:
        """The API server calls the pods invalid: another try with the same spec would only repeat it."""
        rejection = self.rejection
        if rejection is None or rejection.get("cause") != rejections.Cause.INVALID:
            return False
        if rejection.get("generation") != self.training.generation:
            del self.status["rejection"]
            self.conditions.set(
                "PodsInvalid", False, Reason.RESUMED, "the spec has changed: the pods are created again"
            )
            return False
        if self.evidence_is_recorded:
            self._delete_pods(*self.state.workers, *(each for each in self.state.launchers if not each.finished))
        self._set_workers_ready(0)
        self._pending_deadline_exceeded(self._pending_since())
        return True

    def _create_launcher(self, workers: list[ObservedWorker]) -> None:
        # The first launcher comes right after its workers; before a later one the Secret may have gone.
        if self.state.keys is None and (self.attempts or len({pod.keys for pod in workers if pod.keys}) > 1):
            self.needs_ssh_secret = True
            return
        known = [each["number"] for each in self.attempts] + [each.attempt for each in self.state.launchers]
        number = max(known, default=0) + 1
        self._record_attempt_start(number, len(workers))
        hosts = [(pod.name, pod.address) for pod in workers]
        self.create.append(launcher_pod(self.training, number, hosts))
        # The pods of failed starts as well: another worker of an attempt must not be taken for one of them.
        self._drop_workers_but({pod.uid for pod in workers})

    def _reconcile_running(self) -> None:
        """An attempt is under way."""
        self._ensure_shared_objects()
        if not self.create:
            self.status.pop("rejection", None)
        self._set_workers_ready(sum(1 for pod in self._up_to_date_workers() if pod and pod.ready))
        progress, number, launcher = self.state.progress, self.attempts[-1]["number"], self.launcher
        answered = progress is not None and progress.attempt == number and progress.step > 0
        if answered and self.phase not in (Phase.RUNNING, Phase.STOPPING):
            self._transition_to(Phase.RUNNING, Reason.TRAINING, f"attempt {number} trains")
            self.conditions.set("Running", True, Reason.TRAINING, f"attempt {number}")
        if answered:
            self._detect_stall()
        if launcher and launcher.phase == "Pending":
            if launcher.waiting_reason:
                self._set_scheduled_false(
                    Reason.LAUNCHER_PENDING, f"pod {launcher.name} does not start: {launcher.waiting_reason}"
                )
            if not self._pending_deadline_exceeded(datetime.fromisoformat(self.attempts[-1]["startTime"])):
                self._check_secret([launcher])

    # -- its parts -----------------------------------------------------------------------------------------------

    def _ensure_shared_objects(self) -> None:
        if self.training.invalid or not self._may_create():
            return
        for child in shared_objects(self.training):
            kind, name = child["kind"], child["metadata"]["name"]
            known = self.state.present.get((kind, name))
            if known is None:
                self.create.append(child)
            # Without a hash it was not made by us or was stripped of it, and would be updated for ever.
            elif kind in MUTABLE_KINDS and known and known != spec_hash(child):
                self.update.append(child)

    def _live_workers(self) -> dict[int, ObservedWorker]:
        return {each.index: each for each in self.state.workers if not each.terminated}

    def _up_to_date_workers(self) -> list[ObservedWorker | None]:
        """The pod of each worker, by index, that lives and is as it should be."""
        blamed = self._workers_to_replace()
        fitting = {
            index: pod
            for index, pod in self._live_workers().items()
            if self._is_current(pod) and self._mounts_current_secret(pod) and pod.name not in blamed
        }
        return [fitting.get(index) for index in range(self.replicas)]

    def _is_current(self, pod: ObservedWorker) -> bool:
        """Whether it was created from the settings of the spec, as far as both are known."""
        return pod.revision in ("", self.revision) or bool(self.training.invalid)

    def _workers_to_replace(self) -> set[str]:
        """The pods that an attempt was lost by and that another shall be made for, elsewhere if it may be the node."""
        avoided = self._nodes_to_avoid()
        return {
            each["pod"]
            for each in self.attempts
            if "pod" in each and (each["cause"] in REPLACE_POD_CAUSES or each.get("node") in avoided)
        }

    def _mounts_current_secret(self, pod: ObservedWorker) -> bool:
        """Whether it mounts the Secret that is there, as far as that is known."""
        return not pod.keys or self.state.keys in (None, pod.keys)

    def _check_secret(self, pods: list[ObservedWorker] | list[ObservedLauncher]) -> None:
        """A pod that has its node and does not start may wait for a Secret that has gone."""
        waiting = [pod.scheduled for pod in pods if pod.phase == "Pending" and pod.scheduled and not pod.waiting_reason]
        if not waiting or self.state.keys is not None or self.training.invalid:
            return
        if (left := min(waiting) + SECRET_MOUNT_GRACE - self.now) > timedelta(0):
            self._requeue_after(left)
        else:
            self.needs_ssh_secret = True

    def _nodes_to_avoid(self) -> list[str]:
        limit = self.training.spec.run_policy.avoid_nodes_after
        faults: Counter[str] = Counter()
        for each in self.attempts:
            if each.get("cause") in NODE_FAULT_CAUSES and "node" in each:
                # A driver that does not work needs no second proof.
                faults[each["node"]] += limit if each["cause"] == AttemptCause.NO_GPU else 1
        return sorted(node for node, count in faults.items() if limit and count >= limit)

    def _set_scheduled_condition(self, workers: list[ObservedWorker | None]) -> None:
        pods = [pod for pod in workers if pod]
        troubled = next((pod for pod in pods if pod.waiting_reason and not self._within_scheduling_grace(pod)), None)
        if missing := self._missing_claims():
            self._set_scheduled_false(Reason.CLAIM_MISSING, missing)
        elif troubled:
            reason = Reason.UNSCHEDULABLE if troubled.unschedulable else Reason.NOT_STARTING
            kind = "is unschedulable" if troubled.unschedulable else "does not start"
            self._set_scheduled_false(reason, f"pod {troubled.name} {kind}: {troubled.waiting_reason}")
        elif len(pods) == len(workers) and all(pod.node for pod in pods):
            self._set_scheduled_true()
            if detaching := self._volume_detach_message(pods[0]):
                self._set_scheduled_false(Reason.DETACHING, detaching, "WorkersReady")
            else:
                self._leave_reason(Reason.SCHEDULED)
        elif self.conditions.get("Scheduled").get("reason") in NOT_STARTED_REASONS:
            with_node = sum(1 for pod in pods if pod.node)
            self.conditions.set(
                "Scheduled", False, Reason.WAITING, f"{with_node} of {len(workers)} workers have a node"
            )
            self._leave_reason(Reason.WAITING)

    def _leave_reason(self, reason: Reason) -> None:
        """What kept the pods from starting is over."""
        if self.status.get("reason") in NOT_STARTED_REASONS:
            self.status["reason"] = reason.value

    def _within_scheduling_grace(self, pod: ObservedWorker) -> bool:
        if pod.unschedulable_since is None:
            return False
        if (left := pod.unschedulable_since + SCHEDULING_GRACE - self.now) > timedelta(0):
            self._requeue_after(left)
        return left > timedelta(0)

    def _set_scheduled_true(self) -> None:
        self.conditions.set("Scheduled", True, Reason.SCHEDULED, "every worker has a node")

    def _volume_detach_message(self, first: ObservedWorker) -> str:
        """Why worker 0, on another node than before, may have to wait for the checkpoints' claim."""
        if first.phase != "Pending":
            return ""
        held = [pod for pod in self.state.workers if pod.index == 0 and pod.unreachable and pod.node != first.node]
        modes = self.state.access_modes.get(checkpoint_claim_name(self.training), ())
        if not held or not all(mode.startswith("ReadWriteOnce") for mode in modes):
            return ""
        pod = held[-1]
        return (
            f"pod {first.name} waits for the checkpoints' claim, which node {pod.node} still holds for pod {pod.name}: "
            "it comes when that node answers again or is removed; if it is off for good, taint it "
            "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
        )

    def _set_scheduled_false(self, reason: Reason, message: str, condition: str = "Scheduled") -> None:
        self.conditions.set(condition, False, reason, message)
        if self.status.get("reason") != reason:
            self.status["reason"] = reason.value
            self.events.append(warning(reason, message))

    def _missing_claims(self) -> str:
        spec = self.training.spec
        wanted = dict.fromkeys([*spec.shared_claims.values(), spec.checkpoints.claim_name])
        missing = [name for name in wanted if name and ("PersistentVolumeClaim", name) not in self.state.present]
        if not missing:
            return ""
        return f"there is no claim {' and no claim '.join(missing)} in namespace {self.training.namespace}: create it"

    def _ready(self) -> int:
        """Workers that are ready, whatever settings they were made from."""
        return sum(1 for index, pod in self._live_workers().items() if pod.ready and index < self.replicas)

    def _set_workers_ready(self, ready: int, reason: Reason = Reason.WAITING) -> None:
        everyone = ready == self.replicas
        self.status["workers"] = {"replicas": self.replicas, "ready": ready}
        message = f"{ready} of {self.replicas} workers are ready"
        if not everyone and reason is Reason.WAITING and (starts := startup.failed_starts(self.status)):
            reason, message = Reason.WORKER_START_FAILED, f"{message}; {starts[-1].get('message')}"
        self.conditions.set("WorkersReady", everyone, Reason.READY if everyone else reason, message)

    def _pending_since(self) -> datetime:
        last = self.attempts[-1]["endTime"] if self.attempts else self.status["startTime"]
        started = max(last, self.status["startTime"])  # stamps sort as the times do
        changed = self.conditions.last_transition_time("WorkersReady")
        # Pods that are deleted because others are rejected start no time of their own.
        rejected = datetime.fromisoformat(self.rejection["since"]) if self.rejection else changed
        return max(datetime.fromisoformat(started), min(changed, rejected))

    def _pending_deadline_exceeded(self, since: datetime) -> bool:
        """Whether the pods took too long; the training has failed then."""
        seconds = self.training.spec.run_policy.pending_deadline_seconds
        if seconds is None:
            return False
        if (left := since + timedelta(seconds=seconds) - self.now) > timedelta(0):
            self._requeue_after(left)
            return False
        scheduled = self.conditions.get("Scheduled")
        why = scheduled.get("message") if scheduled.get("status") == "False" else ""
        if starts := startup.failed_starts(self.status):
            why = starts[-1].get("message")
        message = f"pods did not start within {seconds} s (runPolicy.pendingDeadlineSeconds)"
        if self.attempt is not None:
            self.attempts[-1] |= {
                "endTime": to_rfc3339(self.now),
                "cause": AttemptCause.STOPPED.value,
                "message": message,
            }
        self._finish(Phase.FAILED, Reason.PENDING_DEADLINE_EXCEEDED, f"{message}: {why}" if why else message)
        return True

    def _backoff_elapsed(self) -> bool:
        """Whether the pause after the last failure is over."""
        last = self.attempts[-1] if self.attempts else {}
        if last.get("cause") in (None, AttemptCause.DISRUPTION, AttemptCause.STOPPED):
            return True
        return self._paused_since(last["endTime"])

    def _paused_since(self, failed: str) -> bool:
        """Whether the pause that the number of failures asks for is over."""
        left = datetime.fromisoformat(failed) + startup.pause(self.status.get("failures", 1)) - self.now
        if left > timedelta(0):
            self._requeue_after(left)
        return left <= timedelta(0)

    # -- how far it is -------------------------------------------------------------------------------------------

    def _update_progress(self) -> None:
        progress = self.state.progress
        if progress and self.attempt is not None and progress.attempt == self.attempts[-1]["number"]:
            self._record(progress)

    def _record(self, progress: Progress) -> None:
        update_progress(self.status, self.attempt, progress, self.now)
        if progress.checkpoint:
            saved, before = progress.checkpoint.model_dump(mode="json", by_alias=True), self.status.get("checkpoint")
            known = before.get("differences", []) if isinstance(before, dict) else []
            if saved["differences"] and saved["differences"] != known:
                message = f"the run continues with another recipe or dataset: {'; '.join(saved['differences'])}"
                self.events.append(Event("Normal", Reason.RECIPE_CHANGED, message))
            if not saved["differences"]:
                del saved["differences"]
            if saved != before:
                self.status["checkpoint"] = saved
                message = "the training can go on from a checkpoint"
                self.conditions.set("Checkpointed", True, Reason.SAVED, message)
        self._compare_start(progress)

    def _compare_start(self, progress: Progress) -> None:
        """An attempt that started before the step that was saved does work again: once per attempt, that is said."""
        attempt, start = self.attempts[-1], progress.resumed_step
        if start is None or "resumedStep" in attempt:
            return
        attempt["resumedStep"] = start
        saved = attempt.get("checkpointStepBefore")
        if isinstance(saved, int) and start < saved:
            how = f"resumed from step {start}" if start else "started from the beginning"
            message = (
                f"attempt {attempt['number']} {how} although step {saved} was saved: that checkpoint is missing or "
                "damaged, the launcher's log says which; the steps between are trained again"
            )
            attempt["startMessage"] = message
            self.conditions.set("Checkpointed", start > 0, Reason.RESUMED_EARLIER, message)
            self.events.append(warning(Reason.RESUMED_EARLIER, message))

    def _detect_stall(self) -> None:
        """Stalled is judged only by an answer of this operator's own time: one that was away has missed the steps."""
        usual, progress = step_seconds(self.status), self.status["progress"]
        if usual is None:
            return
        multiple = self.training.spec.run_policy.stall_multiple
        quiet = self.now - datetime.fromisoformat(progress["updatedTime"])
        left = max(MIN_STALL, timedelta(seconds=usual * multiple)) - quiet
        stalled = self.conditions.is_true("Stalled")
        if left > timedelta(0):
            self._requeue_after(left)
            if stalled:
                self.conditions.set("Stalled", False, Reason.MOVING, f"step {progress['step']}")
                self.events.append(Event("Normal", Reason.MOVING, f"steps are made again, from {progress['step']} on"))
        elif not stalled:
            message = (
                f"no step for {quiet.total_seconds():.0f} s, and a step usually takes {usual:.2g} s; last steps: "
                f"{self._format_last_steps()}"
            )
            self.conditions.set("Stalled", True, Reason.STALLED, message)
            self.events.append(warning(Reason.STALLED, message))

    def _format_last_steps(self) -> str:
        steps = {0: self.status["progress"]["step"], **self.state.last_steps}
        said = [
            f"rank {rank} does not answer" if step is None else f"rank {rank} at {step}"
            for rank, step in sorted(steps.items(), key=lambda each: (each[1] is not None, each[0]))
        ]
        return ", ".join(said[:16]) + (f", and {len(said) - 16} more" if len(said) > 16 else "")

    def _stall_deadline_exceeded(self) -> bool:
        """Whether it has been Stalled for too long."""
        if not self.conditions.is_true("Stalled"):
            return False
        seconds = self.training.spec.run_policy.stall_deadline_seconds
        left = self.conditions.last_transition_time("Stalled") + timedelta(seconds=seconds) - self.now
        if left > timedelta(0):
            self._requeue_after(left)
        return left <= timedelta(0)

    # -- the end -------------------------------------------------------------------------------------------------

    def _finish(self, phase: Phase, reason: Reason, message: str) -> None:
        self.create.clear()
        self.status.pop("rejection", None)
        self.status["completionTime"] = to_rfc3339(self.now)
        self._transition_to(phase, reason, message, bad=phase is Phase.FAILED)
        self.conditions.set("Running", False, reason, message)
        self.conditions.set(phase.value, True, reason, message)
        self._count_kept(reason)

    def _count_kept(self, reason: Reason) -> None:
        """The workers that stay after the end; those that are deleted are not counted any more."""
        stay = self.training.spec.run_policy.clean_pod_policy == "None"
        kept = self._ready() if stay else 0
        self._set_workers_ready(kept, reason)
        if not kept and self.conditions.is_true("Scheduled"):
            self.conditions.set("Scheduled", False, reason, "no pods")

    def _cleanup(self) -> None:
        """Nothing is made any more, whatever is missing; in the end the training goes as well."""
        policy, training = self.training.spec.run_policy, self.training
        ended = self.conditions.get(self.phase.value).get("reason")
        self._count_kept(Reason(ended) if ended in set(Reason) else Reason.WAITING)
        ttl = policy.ttl_seconds_after_finished
        if ttl is not None and (ended := self.status.get("completionTime")):
            left = datetime.fromisoformat(ended) + timedelta(seconds=ttl) - self.now
            if left <= timedelta(0):
                self.delete[training.uid] = ObjectRef(KIND, training.name, training.uid)
                return
            self._requeue_after(left)
        clean = policy.clean_pod_policy
        pods: list[ObservedWorker | ObservedLauncher] = (
            [*self.state.workers, *self.state.launchers] if clean != "None" else []
        )
        self._delete_pods(*(pod for pod in pods if clean == "All" or pod.phase not in ("Failed", "Succeeded")))

    def _drop_workers_but(self, uids: Collection[str], named: Collection[str] = ()) -> None:
        self._delete_pods(*(pod for pod in self.state.workers if pod.uid not in uids and pod.name not in named))

    def _delete_pods(self, *pods: ObservedWorker | ObservedLauncher, grace: int | None = None) -> None:
        for pod in pods:
            if not pod.deleting and not getattr(pod, "gone", False):
                self.delete[pod.uid] = ObjectRef("Pod", pod.name, pod.uid, grace)

    def _transition_to(self, phase: Phase, reason: Reason, message: str, *, bad: bool = False) -> None:
        if (phase, reason) == (self.phase, self.status.get("reason")):
            return
        self.phase = phase
        self.status["reason"] = reason.value
        self.events.append(warning(reason, message) if bad else Event("Normal", reason, message))

    def _requeue_after(self, wait: timedelta) -> None:
        self.requeue_after = min(wait, self.requeue_after) if self.requeue_after else wait

    def plan(self) -> Plan:
        self.status["phase"] = self.phase.value
        self.status["conditions"] = self.conditions.all()
        if self.attempts:
            self.status["attempts"] = self.attempts[-MAX_RECORDED_ATTEMPTS:]
        if self.attempt is None or self.conditions.is_true("Stalled"):
            drop_rates(self.status)
        self.status["printed"] = printer_columns(self.status)
        return Plan(
            create=tuple(self.create),
            update=tuple(self.update),
            delete=tuple(self.delete.values()),
            ungate=tuple(self.ungate),
            status=self.status,
            # What is refused and ends by it says so once.
            events=tuple(dict.fromkeys(self.events)),
            needs_ssh_secret=self.needs_ssh_secret,
            needs_admission=self.needs_admission,
            needs_launcher_admission=self.needs_launcher_admission,
            requeue_after=self.requeue_after,
        )
