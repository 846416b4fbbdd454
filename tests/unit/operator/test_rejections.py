"""Pods that the API server rejects: cause, advice, retries, deadlines and scheduling gates."""

import pytest

from resnext_operator.api.status import Phase
from resnext_operator.domain import rejections
from resnext_operator.domain.observed import Rejection
from resnext_operator.domain.plan import Plan
from resnext_operator.domain.rejections import Cause
from resnext_operator.rendering import names
from resnext_trainer.contract import ExitStatus
from tests.support.fake_cluster import Cluster, condition, is_pod

POD = 'pods "it-worker-1-0" is forbidden: '
EXCEEDED = (
    POD + "exceeded quota: team, requested: limits.cpu=2,pods=1,requests.nvidia.com/gpu=4, "
    "used: limits.cpu=4,pods=2,requests.nvidia.com/gpu=8, limited: limits.cpu=5,pods=2,requests.nvidia.com/gpu=8"
)
UNSPECIFIED = POD + "failed quota: team: must specify limits.cpu for: worker; requests.memory for: worker"
RANGE = POD + "[maximum cpu usage per Container is 1, but limit is 2, minimum memory usage per Container is 1Gi, "
RANGE += "but request is 512Mi]"
INVALID = 'Pod "it-worker-1-0" is invalid: spec.containers[0].resources.requests: Invalid value: "2": must be less'
W, L = "spec.workers.resources", "spec.launcher.resources"


def rejection(code=403, message=EXCEEDED, role="worker", kind="Pod"):
    return Rejection(kind, "it-worker-1-0", role, code, message)


def reject(cluster, *which, code=403, message=EXCEEDED, launcher=False):
    """Apply the plan except for some workers, by index, or the launcher, which the API server rejects."""
    plan = cluster.decide()

    def falls(each):
        labels = each["metadata"]["labels"]
        return each["kind"] == "Pod" and (launcher or labels.get(names.WORKER) in map(str, which))

    fallen = [each for each in plan.create if falls(each)]
    assert fallen, "nothing to reject"
    made = tuple(each for each in plan.create if not falls(each))
    cluster.apply_plan(Plan(create=made, delete=plan.delete, ungate=plan.ungate, status=cluster.training.status))
    role = "launcher" if launcher else "worker"
    after = cluster.rejected(plan, rejection(code, message, role))
    cluster.apply_plan(Plan(status=after.status, events=after.events))
    return after


def gated(cluster):
    return [pod for pod in cluster.pods("worker") if pod["spec"].get("schedulingGates")]


# -- causes and advice -------------------------------------------------------------------------------------------------

ADVICE = [
    (403, EXCEEDED, "worker", Cause.QUOTA, [f"{W}.limits.cpu", f"{W}.limits.nvidia.com/gpu", "spec.workers.replicas"]),
    (403, EXCEEDED, "launcher", Cause.QUOTA, [f"{L}.limits.cpu"]),
    (403, UNSPECIFIED, "worker", Cause.QUOTA, [f"set {W}.limits.cpu and {W}.requests.memory"]),
    (403, UNSPECIFIED, "launcher", Cause.QUOTA, [f"set {L}.limits.cpu"]),
    (403, POD + "failed quota: q: must specify cpu,memory", "worker", Cause.QUOTA, [f"{W}.requests.cpu"]),
    (403, RANGE, "worker", Cause.LIMIT_RANGE, [f"{W}.limits.cpu and {W}.requests.memory", "LimitRange"]),
    # A default limit below the spec's request: the API server reports an invalid pod, although the spec is valid.
    (
        422,
        f"{INVALID} than or equal to cpu limit of 1m",
        "worker",
        Cause.LIMIT_RANGE,
        [f"{W}.limits.cpu", "LimitRange"],
    ),
    (
        403,
        POD + "minimum cpu usage per Container is 1.  No request is specified",
        "worker",
        Cause.LIMIT_RANGE,
        [f"{W}.requests.cpu"],
    ),
    (
        403,
        POD + "cpu max limit to request ratio per Container is 2, but provided ratio is 8.000000",
        "worker",
        Cause.LIMIT_RANGE,
        [f"{W}.limits.cpu"],
    ),
    (403, POD + 'violates PodSecurity "baseline:latest": hostPath volumes', "worker", Cause.POD_SECURITY, ["hostPath"]),
    (403, 'admission webhook "gpu.team" denied the request: no', "worker", Cause.WEBHOOK, ["owner of the webhook"]),
    (400, 'admission webhook "gpu.team" denied the request: no', "worker", Cause.WEBHOOK, ["owner of the webhook"]),
    (
        422,
        POD + "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
        "worker",
        Cause.POLICY,
        ["owner of the policy"],
    ),
    (
        403,
        'pods is forbidden: User "system:serviceaccount:a:b" cannot create resource "pods" in API group ""',
        "worker",
        Cause.PERMISSION,
        ["service account"],
    ),
    (403, POD + "no PriorityClass with name high was found", "worker", Cause.OTHER, ["spec.workers.priorityClassName"]),
    (403, POD + 'RuntimeClass "nvidia" not found', "launcher", Cause.OTHER, ["spec.launcher.runtimeClassName"]),
    (
        403,
        POD + "unable to create new content in namespace a because it is being terminated",
        "",
        Cause.OTHER,
        ["names"],
    ),
    (403, POD + 'error looking up service account a/default: serviceaccount "default" not found', "", Cause.OTHER, []),
    (422, INVALID, "worker", Cause.INVALID, ["correct the field"]),
    (400, "Pod in version v1 cannot be handled as a Pod: quantities must match", "", Cause.INVALID, []),
]


@pytest.mark.parametrize(("code", "message", "role", "cause", "words"), ADVICE)
def test_rejection_advice_fits_cause_and_names_field(code, message, role, cause, words):
    """Messages are those of the API server."""
    found = rejection(code, message, role)
    assert rejections.cause_of(found) is cause
    advice = rejections.advice(found)
    assert all(word in advice for word in words), advice
    assert ("quota" in advice.lower()) <= (cause is Cause.QUOTA), "raising a quota is advised only for a quota"


def test_claim_rejection_advice_names_template():
    """A LimitRange may also limit storage."""
    message = (
        'persistentvolumeclaims "it-checkpoints" is forbidden: maximum storage usage per PersistentVolumeClaim is 5Gi'
    )
    found = rejection(message=message, role="", kind="PersistentVolumeClaim")
    assert "spec.checkpoints.template.size" in rejections.advice(found)


# -- retries and deadlines ---------------------------------------------------------------------------------------------


def test_rejection_backoff_doubles_with_jitter():
    """The backoff is at most 90 s; two trainings do not retry at the same time."""
    waits: dict[str, list[float]] = {}
    for uid in ("a", "b"):
        cluster = Cluster()
        cluster.body["metadata"]["uid"] = uid
        waits[uid] = []
        for _ in range(9):
            wait = reject(cluster, 0, 1).requeue_after
            assert not cluster.decide().create, "nothing is created before the backoff has elapsed"
            waits[uid].append(wait.total_seconds())
            cluster.wait(seconds=wait.total_seconds())
    assert all(0.5 * 2**n <= wait <= 1.5 * 2**n for n, wait in enumerate(waits["a"][:6]))
    assert max(waits["a"]) <= 90
    assert waits["a"] != waits["b"]


@pytest.mark.parametrize("field", ["pendingDeadlineSeconds", "activeDeadlineSeconds"])
@pytest.mark.parametrize("what", ["workers", "launcher", "dry run"])
def test_deadline_holds_while_pods_are_rejected(field, what):
    """A long backoff before the next retry does not extend a deadline of 45 s."""
    cluster = Cluster(runPolicy={field: 45, "admissionTimeoutSeconds": 3600})
    start = cluster.now
    if what == "launcher":
        cluster.settle()
        cluster.ready()
    while cluster.status.get("phase") != Phase.FAILED:
        assert (cluster.now - start).total_seconds() <= 45
        plan = cluster.decide()
        if any(each["kind"] == "Pod" for each in plan.create):
            if what == "dry run":
                cluster.apply_plan(cluster.rejected(plan, rejection()))
            else:
                reject(cluster, 1, launcher=what == "launcher")
            continue
        cluster.settle()
        if cluster.status["phase"] != Phase.FAILED:
            cluster.wait(seconds=cluster.requeue_seconds)
    assert (cluster.now - start).total_seconds() == pytest.approx(45, abs=0.1)


def test_repeated_rejection_keeps_transition_time():
    """The condition shows since when pods are rejected."""
    cluster = Cluster()
    reject(cluster, 1)
    since = condition(cluster, "Scheduled")["lastTransitionTime"]
    for _ in range(4):
        cluster.wait(minutes=2)
        reject(cluster, 0, 1) if not cluster.pods("worker") else cluster.settle()
        assert condition(cluster, "Scheduled")["lastTransitionTime"] == since
    assert cluster.events.count("PodCreationRejected") >= 1


# -- invalid pods ------------------------------------------------------------------------------------------------------


def test_invalid_pod_before_first_attempt_fails():
    """Retrying would not help; the created pods of the set are deleted."""
    cluster = Cluster()
    reject(cluster, 1, code=422, message=INVALID)
    assert cluster.status["phase"] == Phase.FAILED
    for kind in ("PodsInvalid", "Failed"):
        assert condition(cluster, kind)["status"] == "True"
        assert condition(cluster, kind)["reason"] == "PodsInvalid"
        assert INVALID in condition(cluster, kind)["message"]
    cluster.settle()
    assert not cluster.pods("worker")
    assert cluster.events.count("PodsInvalid") == 1


@pytest.mark.parametrize("message", [ADVICE[9][1], ADVICE[11][1]], ids=["webhook", "policy"])
def test_denial_with_code_422_is_retried(message):
    """A webhook or an admission policy may answer 422 for a valid pod."""
    cluster = Cluster()
    reject(cluster, 1, code=422, message=message)
    assert cluster.status["phase"] == Phase.PENDING
    assert cluster.status["reason"] == "PodCreationRejected"
    cluster.wait(minutes=1)
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING


def invalid_replacement(**policy):
    """After an attempt, the pod that replaces a lost worker is invalid."""
    cluster = Cluster(runPolicy=policy)
    cluster.run()
    cluster.vanish("resnext-digits-worker-1-0")
    cluster.apply_plan(cluster.decide())
    reject(cluster, 1, code=422, message=INVALID)
    return cluster


def test_invalid_pod_after_attempt_waits_for_new_spec():
    """The pods are deleted to release GPUs; a change to the spec starts the next retry."""
    cluster = invalid_replacement()
    cluster.settle()
    assert cluster.status["phase"] != Phase.FAILED
    assert not cluster.pods("worker")
    invalid = condition(cluster, "PodsInvalid")
    assert (invalid["status"], invalid["reason"]) == ("True", "PodsInvalid")
    assert INVALID in invalid["message"]
    cluster.wait(days=1)
    cluster.settle()
    assert not cluster.pods("worker")
    cluster.body["metadata"]["generation"] += 1
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    assert condition(cluster, "PodsInvalid")["status"] == "False"


def test_invalid_pod_waits_at_most_pending_deadline():
    """The condition Failed quotes the API server."""
    cluster = invalid_replacement(pendingDeadlineSeconds=100)
    cluster.settle()
    assert cluster.status["phase"] != Phase.FAILED
    cluster.wait(seconds=100)
    cluster.settle()
    failed = condition(cluster, "Failed")
    assert failed["reason"] == "PendingDeadlineExceeded"
    assert INVALID in failed["message"]


# -- scheduling gates --------------------------------------------------------------------------------------------------


def test_workers_without_quota_have_no_gate():
    """Without a quota or a rejection no pod is patched."""
    cluster = Cluster()
    cluster.settle()
    assert not gated(cluster)
    assert (cluster.checks, cluster.launcher_checks) == (1, 0)


def test_workers_in_quota_are_gated_until_all_exist():
    """Gated pods are charged to the quota and hold no GPU."""
    cluster = Cluster()
    cluster.quota = True
    plan = cluster.decide()
    workers = [each for each in plan.create if each["kind"] == "Pod" and is_pod("worker")(each)]
    assert all(each["spec"]["schedulingGates"] == [{"name": "resnext.dev/gang"}] for each in workers)
    cluster.settle()
    assert len(cluster.pods("worker")) == 2
    assert not gated(cluster)
    assert cluster.launcher_checks == 1
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING


def test_gate_stays_while_worker_is_rejected():
    """The scheduler places none of the workers."""
    cluster = Cluster()
    cluster.quota = True
    reject(cluster, 1)
    assert len(gated(cluster)) == 1
    cluster.wait(seconds=2)
    cluster.settle()
    assert not gated(cluster)
    assert "rejection" not in cluster.status


def test_gate_stays_while_launcher_is_rejected():
    """The second dry run detects a quota that is one pod short."""
    cluster = Cluster()
    cluster.quota = True
    cluster.launcher_rejected = rejection(role="launcher")
    for _ in range(4):
        plan = cluster.decide()
        cluster.apply_plan(plan)
        cluster.wait(seconds=3)
    assert len(gated(cluster)) == 2
    assert cluster.status["reason"] == "PodCreationRejected"
    cluster.launcher_rejected = None
    cluster.wait(seconds=20)
    cluster.settle()
    assert not gated(cluster)


def test_rejected_set_is_deleted_after_timeout():
    """The pods are deleted after admissionTimeoutSeconds and retried, gated, after a backoff that differs between
    trainings."""
    cluster = Cluster(runPolicy={"admissionTimeoutSeconds": 30})
    reject(cluster, 1)
    cluster.settle()
    (left,) = cluster.pods("worker")
    start = cluster.now
    while cluster.pods("worker"):
        assert (cluster.now - start).total_seconds() <= 31
        plan = cluster.decide()
        if any(each["kind"] == "Pod" for each in plan.create):
            reject(cluster, 1)
            continue
        cluster.settle()
        if cluster.pods("worker"):
            assert left in cluster.pods("worker")
            cluster.wait(seconds=cluster.requeue_seconds)
    assert (cluster.now - start).total_seconds() == pytest.approx(30, abs=0.1)
    assert cluster.status["phase"] == Phase.PENDING
    backoff = cluster.requeue_seconds
    assert 10 <= backoff <= 30
    cluster.wait(seconds=backoff - 0.5)
    cluster.settle()
    assert not cluster.pods("worker")
    cluster.wait(seconds=1)
    plan = cluster.decide()
    workers = [each for each in plan.create if each["kind"] == "Pod" and is_pod("worker")(each)]
    assert len(workers) == 2
    assert all("schedulingGates" in each["spec"] for each in workers)
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    assert "rejection" not in cluster.status


def test_rejected_launcher_frees_workers_after_timeout():
    """Ready workers do not hold GPUs for a launcher that is never created."""
    cluster = Cluster()
    cluster.settle()
    cluster.ready()
    reject(cluster, launcher=True)
    cluster.settle()
    assert len(cluster.pods("worker")) == 2
    for _ in range(40):
        if not cluster.pods("worker"):
            break
        cluster.wait(seconds=2)
        if any(is_pod("launcher")(each) for each in cluster.decide().create):
            reject(cluster, launcher=True)
        else:
            cluster.settle()
    assert not cluster.pods("worker")
    assert not cluster.status.get("attempts")


def test_unschedulable_pods_are_not_deleted():
    """Unschedulable pods are kept even after a rejection, because an autoscaler needs minutes to add nodes."""
    cluster = Cluster()
    reject(cluster, 1)
    cluster.wait(seconds=2)
    cluster.settle()
    for pod in cluster.pods("worker"):
        message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
        pod["status"] = {"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}
    uids = {pod["metadata"]["uid"] for pod in cluster.pods("worker")}
    cluster.wait(hours=2)
    cluster.settle()
    assert {pod["metadata"]["uid"] for pod in cluster.pods("worker")} == uids
    assert cluster.status["reason"] == "Unschedulable"


def test_gated_pod_is_not_unschedulable():
    """The scheduler reports a gated pod as not scheduled."""
    cluster = Cluster()
    cluster.quota = True
    reject(cluster, 1)
    waits = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "Scheduling is blocked"}
    gated(cluster)[0]["status"] = {"phase": "Pending", "conditions": [waits]}
    cluster.settle()
    (seen,) = cluster.seen.workers
    assert (seen.gated, seen.unschedulable, seen.waiting_reason) == (True, False, "")
    assert "Unschedulable" not in cluster.events


def test_replaced_worker_in_quota_is_gated_alone():
    """The other workers keep running."""
    cluster = Cluster()
    cluster.quota = True
    cluster.run()
    kept = cluster.pods("worker")[0]["metadata"]["uid"]
    cluster.vanish("resnext-digits-worker-1-0")
    cluster.end(ExitStatus.CRASHED)
    cluster.settle()
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    assert cluster.pods("worker")[0]["metadata"]["uid"] == kept


def test_suspend_clears_rejection():
    """A resumed training starts without a backoff."""
    cluster = Cluster()
    reject(cluster, 1)
    cluster.body["spec"]["suspend"] = True
    cluster.settle()
    assert cluster.status["phase"] == Phase.SUSPENDED
    assert "rejection" not in cluster.status
    cluster.body["spec"]["suspend"] = False
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING


@pytest.mark.parametrize(
    "odd",
    [
        {"rejection": "x"},
        {"rejection": {}},
        {"rejection": {"retryTime": 5, "since": "x"}},
        {"rejection": {"retryTime": "2026-01-01T00:00:00", "since": "2026-01-01T00:00:00"}},
        {"rejection": {"retryTime": "2026-01-01T00:00:00Z", "since": "2026-01-01T00:00:00Z", "tries": "many"}},
        {"failedStarts": "x"},
        {"failedStarts": [1, {}, {"time": "now", "pod": 5}]},
        {"podsAccountedUntil": 7},
    ],
    ids=str,
)
def test_malformed_rejection_status_is_ignored(odd):
    """Malformed fields are ignored and removed."""
    cluster = Cluster()
    cluster.body["status"] = odd
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    assert "rejection" not in cluster.status
    assert "failedStarts" not in cluster.status
