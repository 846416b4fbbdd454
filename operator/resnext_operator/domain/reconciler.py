"""What is done about a training, in order: children, workers, a launcher, and again until it has ended."""

from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta

from resnext_operator.api.groupversion import KIND, MANAGER
from resnext_operator.api.objects import Manifest
from resnext_operator.api.status import Phase
from resnext_operator.api.training import Training
from resnext_operator.domain import admission, rejections, startup
from resnext_operator.domain.attempt_outcome import FAULTS_OF_NODES, FAULTS_OF_PODS, Attempt, Ending
from resnext_operator.domain.conditions import Conditions
from resnext_operator.domain.observed import LauncherSeen, Observed, WorkerSeen
from resnext_operator.domain.plan import Event, Plan, Reference
from resnext_operator.domain.progress import drop_rates, printed, step_seconds, take_progress
from resnext_operator.domain.reasons import Reason, warning
from resnext_operator.domain.timestamps import precisely, stamp
from resnext_operator.rendering.claims import checkpoint_claim_name
from resnext_operator.rendering.hashing import pod_revision, spec_hash
from resnext_operator.rendering.pods import launcher_pod, worker_pod
from resnext_operator.rendering.shared_objects import shared_objects
from resnext_trainer.contract import Progress

# Polls are seconds apart, and a minute without a step is nobody's trouble.
LEAST_STALL = timedelta(minutes=1)

# A container whose image is there starts within seconds; after that, the Secret that it mounts may be gone.
STUCK = timedelta(seconds=30)

# The ranks of an attempt that has lost one wait for it in vain, and without it they cannot save.
STALE_GRACE = 5

# A claim that was made along with the pods is bound within a second or two; until then they are unschedulable as well.
PLACING = timedelta(seconds=5)

KEPT_ATTEMPTS = 10

UNPLACED = (
    Reason.UNSCHEDULABLE,
    Reason.NOT_STARTING,
    Reason.CLAIM_MISSING,
    Reason.PODS_REFUSED,
    Reason.DETACHING,
    Reason.LAUNCHER_PENDING,
)
"""Why pods do not start; no longer the reason of a status when they have."""

UPDATED = ("NetworkPolicy",)
"""Children that are brought up to date; a ConfigMap and a claim stay as they were created."""


def decide(training: Training, seen: Observed, now: datetime) -> Plan:
    """What to create, delete, record and tell; an empty plan when another manager or the garbage collector is at it."""
    if training.deleting or training.spec.managed_by not in (None, MANAGER):
        return Plan(status=dict(training.status))
    story = _Story(training, seen, now)
    story.tell()
    return story.plan()


class _Story:
    """One decision in the making."""

    def __init__(self, training: Training, seen: Observed, now: datetime) -> None:
        self.training, self.seen, self.now = training, seen, now
        before = training.status
        self.status: Manifest = {**before, "observedGeneration": training.generation}
        self.attempts: list[Manifest] = [dict(each) for each in before.get("attempts") or ()]
        self.conditions = Conditions(before.get("conditions"), training.generation, now)
        self.phase = Phase(before.get("phase", Phase.PENDING))
        self.revision = pod_revision(training)
        self.create: list[Manifest] = []
        self.update: list[Manifest] = []
        self.delete: dict[str, Reference] = {}
        self.ungate: list[Reference] = []
        self.events: list[Event] = []
        self.needs_keys = self.needs_admission = self.needs_launcher_admission = False
        self.wait: timedelta | None = None
        # What the last status did not know must be written before its evidence goes.
        self.recorded = True
        self.replicas = self._known_replicas() if training.invalid else training.spec.workers.replicas

    # -- the story -----------------------------------------------------------------------------------------------

    def tell(self) -> None:
        if self.phase.ended:
            self._clean_up()
            return
        refusal = self._accept()
        self._start_clock()
        self._adopt()
        self._take_progress()
        if self.attempt is not None:
            self._end_attempt()
        if self.phase.ended:
            return
        if refusal and self.attempt is None and not self.training.spec.suspend:
            self._end(Phase.FAILED, *refusal)
        elif self.training.spec.suspend:
            self._suspend()
        elif self._too_late():
            self._give_up()
        elif self.attempt is None and self.training.invalid:
            self._keep_pods()
        elif self.attempt is None:
            self._start()
        elif why := self._why_stop():
            self._stop(*why)
        else:
            self._run()

    @property
    def attempt(self) -> Manifest | None:
        """The attempt that is under way."""
        return self.attempts[-1] if self.attempts and "endTime" not in self.attempts[-1] else None

    @property
    def launcher(self) -> LauncherSeen | None:
        number = self.attempts[-1]["number"] if self.attempts else None
        return next((each for each in self.seen.launchers if each.attempt == number), None)

    def _accept(self) -> admission.Refusal | None:
        """Why no attempt may begin; one that is under way keeps its pods, and as many as it has."""
        if self.training.invalid:
            self._note_invalid_spec()
            return None
        if self.conditions.holds("SpecInvalid"):
            self.conditions.set("SpecInvalid", False, Reason.ACCEPTED)
        unshared = admission.unshared(self.training, self.seen, self.replicas)
        taken = admission.foreign_claim(self.training, self.seen)
        refusal = admission.forbidden(self.training) or taken or unshared
        if refusal is None:
            if not self.conditions.holds("Accepted"):
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
        return last[-1].get("workers") or len(self._living()) or self.training.spec.workers.replicas

    def _keep_pods(self) -> None:
        """Between two attempts with a spec that cannot be used: its pods are kept, and without pods it has failed."""
        living = self._living()
        if not living and all(each.gone or each.finished for each in self.seen.launchers):
            self._end(Phase.FAILED, Reason.SPEC_INVALID, self.training.invalid)
            return
        self._ready_workers(sum(1 for pod in living.values() if pod.ready))
        self._pending_too_long(self._pending_since())

    def _start_clock(self) -> None:
        """The start time, from which the deadline counts: none before the first resume, and anew at each."""
        if self.training.spec.suspend:
            return
        if self.conditions.holds("Suspended"):
            self.conditions.set("Suspended", False, Reason.RESUMED)
            self.status["startTime"] = stamp(self.now)
            # What failed to start may have been corrected meanwhile: no pause from before counts.
            self.status.pop(startup.FAILED_STARTS, None)
        self.status.setdefault("startTime", stamp(self.now))

    def _adopt(self) -> None:
        """A launcher that was made and not recorded, since the operator ended between the two, is an attempt too."""
        last = self.attempts[-1]["number"] if self.attempts else 0
        newest = max(self.seen.launchers, key=lambda each: each.attempt, default=None)
        if self.attempt is None and newest and newest.attempt > last:
            # It was made because all workers had a node and were ready.
            self._placed_all()
            self._ready_workers(self.replicas)
            self._begin(newest.attempt, newest.workers or self.replicas)

    def _begin(self, number: int, workers: int) -> None:
        """Record an attempt, and what it starts from."""
        saved = self.status.get("checkpoint")
        before = {"checkpointStepBefore": saved["step"]} if saved else {}
        self.attempts.append({"number": number, "startTime": stamp(self.now), "workers": workers, **before})
        for key in ("stepSeconds", "rejection", startup.FAILED_STARTS):
            self.status.pop(key, None)
        message = f"attempt {number}: {workers} workers are ready, mpirun starts"
        self._become(Phase.STARTING, Reason.LAUNCHED, message)

    # -- how an attempt ends -------------------------------------------------------------------------------------

    def _why_stop(self) -> tuple[Reason, str] | None:
        """Why the attempt under way must end: judged by what is asked for and seen, so that nothing is forgotten."""
        policy, launcher, attempt = self.training.spec.run_policy, self.launcher, self.attempts[-1]
        if self.training.spec.suspend:
            return Reason.SUSPENDING, "saving a checkpoint before the pods go"
        if self._too_late():
            return Reason.DEADLINE_EXCEEDED, (
                f"ran for {policy.active_deadline_seconds} s (runPolicy.activeDeadlineSeconds): saving a checkpoint"
            )
        if self.training.invalid:
            return self._why_hung()
        if (launched := attempt.get("workers", self.replicas)) != self.replicas:
            return Reason.RESIZING, f"from {launched} to {self.replicas} workers: saving a checkpoint to go on from"
        if why := self._why_hung():
            return why
        living = [pod for pod in self.seen.workers if not pod.lost]
        if not all(self._is_current(pod) for pod in living):
            return Reason.PODS_CHANGED, "the pods were asked for with other settings: saving a checkpoint to go on from"
        if launcher and launcher.phase == "Pending" and not all(self._has_keys(pod) for pod in living):
            return Reason.KEYS_REMADE, "the Secret with the keys had gone and was made anew: all pods are replaced"
        return None

    def _why_hung(self) -> tuple[Reason, str] | None:
        if not self._hung():
            return None
        seconds = self.training.spec.run_policy.stall_deadline_seconds
        message = self.conditions.get("Stalled")["message"]
        return Reason.HUNG, f"stalled for {seconds} s (runPolicy.stallDeadlineSeconds): {message}"

    def _stop(self, reason: Reason, message: str) -> None:
        """The launcher first, whose SIGTERM makes the ranks save."""
        self._become(Phase.STOPPING, reason, message)
        self._ready_workers(self._ready())
        launcher = self.launcher
        if launcher and not launcher.finished:
            self._drop(launcher)

    def _end_attempt(self) -> None:
        stopping = self.phase is Phase.STOPPING or self._why_stop() is not None
        newest = {pod.index: pod for pod in self.seen.workers}
        launched = self.attempts[-1].get("workers", self.replicas)
        workers = [self._living().get(index) or newest.get(index) for index in range(launched)]
        ending = Attempt(self.training, self.launcher, workers, stopping).ending(self.now)
        if isinstance(ending, timedelta):
            self._again_in(ending)
        elif ending is not None:
            if ending.cause == "stopped" and self._hung():
                ending = Ending("hung", self.conditions.get("Stalled")["message"], ending.exit_code, counted=True)
            self._conclude(ending)

    def _conclude(self, ending: Ending) -> None:
        if (launcher := self.launcher) and launcher.report and launcher.report.progress:
            self._record(launcher.report.progress)
        self.attempts[-1] |= {"endTime": stamp(self.now), **ending.as_status()}
        if saved := self.status.get("checkpoint"):
            self.attempts[-1]["checkpointStep"] = saved["step"]
        startup.account(self.status, self.seen.workers)
        self.recorded = False
        reason = Reason.of_cause(ending.cause)
        if self.conditions.holds("Stalled"):
            self.conditions.set("Stalled", False, reason)
        if ending.finished:
            self._end(Phase.SUCCEEDED, reason, ending.message)
            return
        if ending.final:
            self._end(Phase.FAILED, reason, ending.message)
            return
        if ending.counted:
            if self._exhausted(ending.message):
                return
        elif ending.cause == "disruption":
            self.status["disruptions"] = self.status.get("disruptions", 0) + 1
        self.conditions.set("Running", False, reason, ending.message)
        if not self.training.spec.suspend and not self._too_late():
            self._become(Phase.RESTARTING, reason, ending.message, bad=ending.cause != "stopped")

    # -- what is asked for ---------------------------------------------------------------------------------------

    def _suspend(self) -> None:
        """The launcher first, the workers when it has ended."""
        self.status.pop("rejection", None)
        if self.attempt is not None and (why := self._why_stop()):
            self._stop(*why)
            return
        if self.seen.workers or any(not each.gone for each in self.seen.launchers):
            if self.phase is not Phase.SUSPENDED:
                self._become(Phase.STOPPING, Reason.SUSPENDING, "the pods go")
            self._ready_workers(self._ready())
            if self.recorded:
                self._drop(*self.seen.workers, *(each for each in self.seen.launchers if not each.gone))
            return
        if self.phase is not Phase.SUSPENDED:
            message = "no pods; with spec.suspend false it goes on from the last checkpoint"
            self._become(Phase.SUSPENDED, Reason.SUSPENDED, message)
            self.conditions.set("Suspended", True, Reason.SUSPENDED, "no pods; the checkpoint is kept")
            self.conditions.set("Running", False, Reason.SUSPENDED)
            self.conditions.set("Scheduled", False, Reason.SUSPENDED, "no pods")
            self._ready_workers(0, Reason.SUSPENDED)

    def _too_late(self) -> bool:
        deadline = self.training.spec.run_policy.active_deadline_seconds
        if deadline is None or self.training.spec.suspend:
            return False
        left = datetime.fromisoformat(self.status["startTime"]) + timedelta(seconds=deadline) - self.now
        if left > timedelta(0):
            self._again_in(left)
        return left <= timedelta(0)

    def _give_up(self) -> None:
        """The deadline has passed: an attempt under way saves first."""
        if self.attempt is not None and (why := self._why_stop()):
            self._stop(*why)
            return
        seconds = self.training.spec.run_policy.active_deadline_seconds
        message = f"not finished within {seconds} s (runPolicy.activeDeadlineSeconds); the checkpoint is kept"
        self._end(Phase.FAILED, Reason.DEADLINE_EXCEEDED, message)

    def _start(self) -> None:
        """Children, then workers, then, when all are ready, a launcher."""
        if self.phase not in (Phase.STARTING, Phase.RESTARTING, Phase.PENDING):
            self._become(Phase.PENDING, Reason.RESUMED, "the pods are made again")
        if self._waits_for_another_spec():
            return
        self._prepare()
        self._count_failed_start()
        if self.phase.ended:
            return
        current = self._workers()
        ready = sum(1 for pod in current if pod and pod.ready)
        self._ready_workers(ready)
        self._admitted(current)
        if (ready < len(current) or self.rejection) and self._pending_too_long(self._pending_since()):
            return
        if self.rejection:
            if self._released(current):
                return
            self._unplaced(Reason.PODS_REFUSED, str(self.rejection.get("message")))
        else:
            self._placed(current)
        if self.recorded:
            stale = [each for each in self.seen.launchers if not each.gone and not each.finished]
            self._drop(*stale, grace=STALE_GRACE)
            self._drop_workers_but({pod.uid for pod in current if pod}, self._evidence())
        # That a worker is missing may be all that tells of an attempt's end, until that is recorded.
        if self.recorded and not self._missing_claims() and self._start_rested() and self._may_create():
            self._make_workers([index for index, pod in enumerate(current) if pod is None])
        if self.phase is Phase.PENDING and all(pod and pod.phase == "Running" for pod in current):
            self._become(Phase.STARTING, Reason.STARTING, "all workers are placed")
        # What a lost node still runs, if anything, cannot reach these pods' checkpoints: they name their attempt.
        old_launcher = any(not (each.gone or each.finished or each.unreachable) for each in self.seen.launchers)
        if ready == len(current) and not old_launcher and self.recorded and self._rested() and self._may_create():
            self._launch([pod for pod in current if pod])
        self._look_for_keys([pod for pod in current if pod])

    def _make_workers(self, indexes: list[int]) -> None:
        if not indexes:
            return
        self.needs_admission, self.needs_keys = self.seen.quota is None, self.seen.keys is None
        if self.seen.quota is None or self.seen.keys is None:
            return
        # A quota is charged for pods with a gate as well, but they hold no GPU while others of the set are rejected.
        gated = self.seen.quota or self.rejection is not None
        for index in indexes:
            incarnations = [each.incarnation for each in self.seen.workers if each.index == index]
            number = max(incarnations, default=-1) + 1
            avoided = self._avoided_nodes()
            self.create.append(worker_pod(self.training, index, number, self.seen.keys, avoided, gated))

    # -- starts that fail ----------------------------------------------------------------------------------------

    def _count_failed_start(self) -> None:
        """A worker that ends before an attempt has begun: the start of all of them counts as one failure."""
        current = [pod for pod in self.seen.workers if pod.index < self.replicas]
        current = [pod for pod in current if self._is_current(pod)]
        failed = startup.failed_workers(current, self.status.get(startup.ACCOUNTED))
        if not failed:
            return
        startup.account(self.status, self.seen.workers)
        message = startup.record(self.status, failed[0], self.now)
        self.recorded = False
        if not self._exhausted(message):
            self.phase, self.status["reason"] = Phase.RESTARTING, Reason.WORKER_START_FAILED.value
            self.events.append(warning(Reason.WORKER_START_FAILED, f"failure {self.status['failures']}: {message}"))

    def _exhausted(self, message: str) -> bool:
        """Count a failure; more than backoffLimit of them fail the training."""
        self.status["failures"] = failures = self.status.get("failures", 0) + 1
        if failures <= self.training.spec.run_policy.backoff_limit:
            return False
        limit = f"failed {failures} times (runPolicy.backoffLimit): {message}"
        self._end(Phase.FAILED, Reason.BACKOFF_LIMIT_EXCEEDED, limit)
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
            self._again_in(left)
        return left <= timedelta(0)

    def _admitted(self, workers: list[WorkerSeen | None]) -> None:
        """Give the workers to the scheduler when all exist and the API server would admit the launcher, too."""
        pods = [pod for pod in workers if pod]
        if len(pods) < len(workers):
            return
        if gated := [pod for pod in pods if pod.gated]:
            if not self.seen.launcher_admitted:
                self.needs_launcher_admission = self._may_create()
                return
            self.ungate += [Reference("Pod", pod.name, pod.uid) for pod in gated]
        elif self.rejection and self.rejection.get("role") == "launcher":
            return
        if self.status.pop("rejection", None) is not None:
            self.conditions.set("Scheduled", False, Reason.WAITING, "the pods are admitted, and wait for their nodes")
            self._leave_reason(Reason.WAITING)

    def _released(self, workers: list[WorkerSeen | None]) -> bool:
        """Delete the pods of a set that stays incomplete because others are rejected; they may hold a quota's rest."""
        rejection, policy = dict(self.rejection or {}), self.training.spec.run_policy
        if not any(workers):
            rejection.pop("heldSince", None)
            self.status["rejection"] = rejection
            return False
        since = datetime.fromisoformat(rejection.setdefault("heldSince", precisely(self.now)))
        self.status["rejection"] = rejection
        left = since + timedelta(seconds=policy.admission_timeout_seconds) - self.now
        if left > timedelta(0) or not self.recorded:
            self._again_in(max(left, timedelta(0)))
            return False
        self.status["rejection"], wait = rejections.released(self.training, rejection, self.now)
        self._drop(*self.seen.workers, *(each for each in self.seen.launchers if not each.finished))
        message = (
            f"not all pods were admitted within {policy.admission_timeout_seconds} s "
            f"(runPolicy.admissionTimeoutSeconds): the others are deleted; next try in {wait.total_seconds():.0f} s"
        )
        self.events.append(warning(Reason.PODS_REFUSED, f"{message}: {rejection.get('message')}"))
        self._unplaced(Reason.PODS_REFUSED, str(rejection.get("message")))
        self._again_in(wait)
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
        if self.recorded:
            self._drop(*self.seen.workers, *(each for each in self.seen.launchers if not each.finished))
        self._ready_workers(0)
        self._pending_too_long(self._pending_since())
        return True

    def _launch(self, workers: list[WorkerSeen]) -> None:
        # The first launcher comes right after its workers; before a later one the Secret may have gone.
        if self.seen.keys is None and (self.attempts or len({pod.keys for pod in workers if pod.keys}) > 1):
            self.needs_keys = True
            return
        known = [each["number"] for each in self.attempts] + [each.attempt for each in self.seen.launchers]
        number = max(known, default=0) + 1
        self._begin(number, len(workers))
        hosts = [(pod.name, pod.address) for pod in workers]
        self.create.append(launcher_pod(self.training, number, hosts))
        # The pods of failed starts as well: another worker of an attempt must not be taken for one of them.
        self._drop_workers_but({pod.uid for pod in workers})

    def _run(self) -> None:
        """An attempt is under way."""
        self._prepare()
        if not self.create:
            self.status.pop("rejection", None)
        self._ready_workers(sum(1 for pod in self._workers() if pod and pod.ready))
        progress, number, launcher = self.seen.progress, self.attempts[-1]["number"], self.launcher
        answered = progress is not None and progress.attempt == number and progress.step > 0
        if answered and self.phase not in (Phase.RUNNING, Phase.STOPPING):
            self._become(Phase.RUNNING, Reason.TRAINING, f"attempt {number} trains")
            self.conditions.set("Running", True, Reason.TRAINING, f"attempt {number}")
        if answered:
            self._watch_pace()
        if launcher and launcher.phase == "Pending":
            if launcher.trouble:
                self._unplaced(Reason.LAUNCHER_PENDING, f"pod {launcher.name} does not start: {launcher.trouble}")
            if not self._pending_too_long(datetime.fromisoformat(self.attempts[-1]["startTime"])):
                self._look_for_keys([launcher])

    # -- its parts -----------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if self.training.invalid or not self._may_create():
            return
        for child in shared_objects(self.training):
            kind, name = child["kind"], child["metadata"]["name"]
            known = self.seen.present.get((kind, name))
            if known is None:
                self.create.append(child)
            # Without a hash it was not made by us or was stripped of it, and would be updated for ever.
            elif kind in UPDATED and known and known != spec_hash(child):
                self.update.append(child)

    def _living(self) -> dict[int, WorkerSeen]:
        return {each.index: each for each in self.seen.workers if not each.lost}

    def _workers(self) -> list[WorkerSeen | None]:
        """The pod of each worker, by index, that lives and is as it should be."""
        blamed = self._blamed()
        fitting = {
            index: pod
            for index, pod in self._living().items()
            if self._is_current(pod) and self._has_keys(pod) and pod.name not in blamed
        }
        return [fitting.get(index) for index in range(self.replicas)]

    def _is_current(self, pod: WorkerSeen) -> bool:
        """Whether it was created from the settings of the spec, as far as both are known."""
        return pod.revision in ("", self.revision) or bool(self.training.invalid)

    def _blamed(self) -> set[str]:
        """The pods that an attempt was lost by and that another shall be made for, elsewhere if it may be the node."""
        avoided = self._avoided_nodes()
        return {
            each["pod"]
            for each in self.attempts
            if "pod" in each and (each["cause"] in FAULTS_OF_PODS or each.get("node") in avoided)
        }

    def _has_keys(self, pod: WorkerSeen) -> bool:
        """Whether it mounts the Secret that is there, as far as that is known."""
        return not pod.keys or self.seen.keys in (None, pod.keys)

    def _look_for_keys(self, pods: list[WorkerSeen] | list[LauncherSeen]) -> None:
        """A pod that has its node and does not start may wait for a Secret that has gone."""
        waiting = [pod.scheduled for pod in pods if pod.phase == "Pending" and pod.scheduled and not pod.trouble]
        if not waiting or self.seen.keys is not None or self.training.invalid:
            return
        if (left := min(waiting) + STUCK - self.now) > timedelta(0):
            self._again_in(left)
        else:
            self.needs_keys = True

    def _avoided_nodes(self) -> list[str]:
        limit = self.training.spec.run_policy.avoid_nodes_after
        faults: Counter[str] = Counter()
        for each in self.attempts:
            if each.get("cause") in FAULTS_OF_NODES and "node" in each:
                # A driver that does not work needs no second proof.
                faults[each["node"]] += limit if each["cause"] == "no_gpu" else 1
        return sorted(node for node, count in faults.items() if limit and count >= limit)

    def _placed(self, workers: list[WorkerSeen | None]) -> None:
        pods = [pod for pod in workers if pod]
        troubled = next((pod for pod in pods if pod.trouble and not self._may_still_be_placed(pod)), None)
        if missing := self._missing_claims():
            self._unplaced(Reason.CLAIM_MISSING, missing)
        elif troubled:
            reason = Reason.UNSCHEDULABLE if troubled.unschedulable else Reason.NOT_STARTING
            kind = "is unschedulable" if troubled.unschedulable else "does not start"
            self._unplaced(reason, f"pod {troubled.name} {kind}: {troubled.trouble}")
        elif len(pods) == len(workers) and all(pod.node for pod in pods):
            self._placed_all()
            if detaching := self._detaching(pods[0]):
                self._unplaced(Reason.DETACHING, detaching, "WorkersReady")
            else:
                self._leave_reason(Reason.SCHEDULED)
        elif self.conditions.get("Scheduled").get("reason") in UNPLACED:
            with_node = sum(1 for pod in pods if pod.node)
            self.conditions.set(
                "Scheduled", False, Reason.WAITING, f"{with_node} of {len(workers)} workers have a node"
            )
            self._leave_reason(Reason.WAITING)

    def _leave_reason(self, reason: Reason) -> None:
        """What kept the pods from starting is over."""
        if self.status.get("reason") in UNPLACED:
            self.status["reason"] = reason.value

    def _may_still_be_placed(self, pod: WorkerSeen) -> bool:
        if pod.unschedulable_since is None:
            return False
        if (left := pod.unschedulable_since + PLACING - self.now) > timedelta(0):
            self._again_in(left)
        return left > timedelta(0)

    def _placed_all(self) -> None:
        self.conditions.set("Scheduled", True, Reason.SCHEDULED, "every worker has a node")

    def _detaching(self, first: WorkerSeen) -> str:
        """Why worker 0, on another node than before, may have to wait for the checkpoints' claim."""
        if first.phase != "Pending":
            return ""
        held = [pod for pod in self.seen.workers if pod.index == 0 and pod.unreachable and pod.node != first.node]
        modes = self.seen.access_modes.get(checkpoint_claim_name(self.training), ())
        if not held or not all(mode.startswith("ReadWriteOnce") for mode in modes):
            return ""
        pod = held[-1]
        return (
            f"pod {first.name} waits for the checkpoints' claim, which node {pod.node} still holds for pod {pod.name}: "
            "it comes when that node answers again or is removed; if it is off for good, taint it "
            "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
        )

    def _unplaced(self, reason: Reason, message: str, condition: str = "Scheduled") -> None:
        self.conditions.set(condition, False, reason, message)
        if self.status.get("reason") != reason:
            self.status["reason"] = reason.value
            self.events.append(warning(reason, message))

    def _missing_claims(self) -> str:
        spec = self.training.spec
        wanted = dict.fromkeys([*spec.shared_claims.values(), spec.checkpoints.claim_name])
        missing = [name for name in wanted if name and ("PersistentVolumeClaim", name) not in self.seen.present]
        if not missing:
            return ""
        return f"there is no claim {' and no claim '.join(missing)} in namespace {self.training.namespace}: create it"

    def _ready(self) -> int:
        """Workers that are ready, whatever settings they were made from."""
        return sum(1 for index, pod in self._living().items() if pod.ready and index < self.replicas)

    def _ready_workers(self, ready: int, reason: Reason = Reason.WAITING) -> None:
        everyone = ready == self.replicas
        self.status["workers"] = {"replicas": self.replicas, "ready": ready}
        message = f"{ready} of {self.replicas} workers are ready"
        if not everyone and reason is Reason.WAITING and (starts := startup.failed_starts(self.status)):
            reason, message = Reason.WORKER_START_FAILED, f"{message}; {starts[-1].get('message')}"
        self.conditions.set("WorkersReady", everyone, Reason.READY if everyone else reason, message)

    def _pending_since(self) -> datetime:
        last = self.attempts[-1]["endTime"] if self.attempts else self.status["startTime"]
        started = max(last, self.status["startTime"])  # stamps sort as the times do
        changed = self.conditions.since("WorkersReady")
        # Pods that are deleted because others are rejected start no time of their own.
        rejected = datetime.fromisoformat(self.rejection["since"]) if self.rejection else changed
        return max(datetime.fromisoformat(started), min(changed, rejected))

    def _pending_too_long(self, since: datetime) -> bool:
        """Whether the pods took too long; the training has failed then."""
        seconds = self.training.spec.run_policy.pending_deadline_seconds
        if seconds is None:
            return False
        if (left := since + timedelta(seconds=seconds) - self.now) > timedelta(0):
            self._again_in(left)
            return False
        scheduled = self.conditions.get("Scheduled")
        why = scheduled.get("message") if scheduled.get("status") == "False" else ""
        if starts := startup.failed_starts(self.status):
            why = starts[-1].get("message")
        message = f"pods did not start within {seconds} s (runPolicy.pendingDeadlineSeconds)"
        if self.attempt is not None:
            self.attempts[-1] |= {"endTime": stamp(self.now), "cause": "stopped", "message": message}
        self._end(Phase.FAILED, Reason.PENDING_DEADLINE_EXCEEDED, f"{message}: {why}" if why else message)
        return True

    def _rested(self) -> bool:
        """Whether the pause after the last failure is over."""
        last = self.attempts[-1] if self.attempts else {}
        if last.get("cause") in (None, "disruption", "stopped"):
            return True
        return self._paused_since(last["endTime"])

    def _paused_since(self, failed: str) -> bool:
        """Whether the pause that the number of failures asks for is over."""
        left = datetime.fromisoformat(failed) + startup.pause(self.status.get("failures", 1)) - self.now
        if left > timedelta(0):
            self._again_in(left)
        return left <= timedelta(0)

    # -- how far it is -------------------------------------------------------------------------------------------

    def _take_progress(self) -> None:
        progress = self.seen.progress
        if progress and self.attempt is not None and progress.attempt == self.attempts[-1]["number"]:
            self._record(progress)

    def _record(self, progress: Progress) -> None:
        take_progress(self.status, self.attempt, progress, self.now)
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

    def _watch_pace(self) -> None:
        """Stalled is judged only by an answer of this operator's own time: one that was away has missed the steps."""
        usual, progress = step_seconds(self.status), self.status["progress"]
        if usual is None:
            return
        multiple = self.training.spec.run_policy.stall_multiple
        quiet = self.now - datetime.fromisoformat(progress["updatedTime"])
        left = max(LEAST_STALL, timedelta(seconds=usual * multiple)) - quiet
        stalled = self.conditions.holds("Stalled")
        if left > timedelta(0):
            self._again_in(left)
            if stalled:
                self.conditions.set("Stalled", False, Reason.MOVING, f"step {progress['step']}")
                self.events.append(Event("Normal", Reason.MOVING, f"steps are made again, from {progress['step']} on"))
        elif not stalled:
            message = (
                f"no step for {quiet.total_seconds():.0f} s, and a step usually takes {usual:.2g} s; last steps: "
                f"{self._last_steps()}"
            )
            self.conditions.set("Stalled", True, Reason.STALLED, message)
            self.events.append(warning(Reason.STALLED, message))

    def _last_steps(self) -> str:
        steps = {0: self.status["progress"]["step"], **self.seen.last_steps}
        said = [
            f"rank {rank} does not answer" if step is None else f"rank {rank} at {step}"
            for rank, step in sorted(steps.items(), key=lambda each: (each[1] is not None, each[0]))
        ]
        return ", ".join(said[:16]) + (f", and {len(said) - 16} more" if len(said) > 16 else "")

    def _hung(self) -> bool:
        """Whether it has been Stalled for too long."""
        if not self.conditions.holds("Stalled"):
            return False
        seconds = self.training.spec.run_policy.stall_deadline_seconds
        left = self.conditions.since("Stalled") + timedelta(seconds=seconds) - self.now
        if left > timedelta(0):
            self._again_in(left)
        return left <= timedelta(0)

    # -- the end -------------------------------------------------------------------------------------------------

    def _end(self, phase: Phase, reason: Reason, message: str) -> None:
        self.create.clear()
        self.status.pop("rejection", None)
        self.status["completionTime"] = stamp(self.now)
        self._become(phase, reason, message, bad=phase is Phase.FAILED)
        self.conditions.set("Running", False, reason, message)
        self.conditions.set(phase.value, True, reason, message)
        self._count_kept(reason)

    def _count_kept(self, reason: Reason) -> None:
        """The workers that stay after the end; those that are deleted are not counted any more."""
        stay = self.training.spec.run_policy.clean_pod_policy == "None"
        kept = self._ready() if stay else 0
        self._ready_workers(kept, reason)
        if not kept and self.conditions.holds("Scheduled"):
            self.conditions.set("Scheduled", False, reason, "no pods")

    def _clean_up(self) -> None:
        """Nothing is made any more, whatever is missing; in the end the training goes as well."""
        policy, training = self.training.spec.run_policy, self.training
        ended = self.conditions.get(self.phase.value).get("reason")
        self._count_kept(Reason(ended) if ended in set(Reason) else Reason.WAITING)
        ttl = policy.ttl_seconds_after_finished
        if ttl is not None and (ended := self.status.get("completionTime")):
            left = datetime.fromisoformat(ended) + timedelta(seconds=ttl) - self.now
            if left <= timedelta(0):
                self.delete[training.uid] = Reference(KIND, training.name, training.uid)
                return
            self._again_in(left)
        clean = policy.clean_pod_policy
        pods: list[WorkerSeen | LauncherSeen] = [*self.seen.workers, *self.seen.launchers] if clean != "None" else []
        self._drop(*(pod for pod in pods if clean == "All" or pod.phase not in ("Failed", "Succeeded")))

    def _drop_workers_but(self, uids: Collection[str], named: Collection[str] = ()) -> None:
        self._drop(*(pod for pod in self.seen.workers if pod.uid not in uids and pod.name not in named))

    def _drop(self, *pods: WorkerSeen | LauncherSeen, grace: int | None = None) -> None:
        for pod in pods:
            if not pod.deleting and not getattr(pod, "gone", False):
                self.delete[pod.uid] = Reference("Pod", pod.name, pod.uid, grace)

    def _become(self, phase: Phase, reason: Reason, message: str, *, bad: bool = False) -> None:
        if (phase, reason) == (self.phase, self.status.get("reason")):
            return
        self.phase = phase
        self.status["reason"] = reason.value
        self.events.append(warning(reason, message) if bad else Event("Normal", reason, message))

    def _again_in(self, wait: timedelta) -> None:
        self.wait = min(wait, self.wait) if self.wait else wait

    def plan(self) -> Plan:
        self.status["phase"] = self.phase.value
        self.status["conditions"] = self.conditions.all()
        if self.attempts:
            self.status["attempts"] = self.attempts[-KEPT_ATTEMPTS:]
        if self.attempt is None or self.conditions.holds("Stalled"):
            drop_rates(self.status)
        self.status["printed"] = printed(self.status)
        return Plan(
            create=tuple(self.create),
            update=tuple(self.update),
            delete=tuple(self.delete.values()),
            ungate=tuple(self.ungate),
            status=self.status,
            # What is refused and ends by it says so once.
            events=tuple(dict.fromkeys(self.events)),
            needs_keys=self.needs_keys,
            needs_admission=self.needs_admission,
            needs_launcher_admission=self.needs_launcher_admission,
            requeue_after=self.wait,
        )
