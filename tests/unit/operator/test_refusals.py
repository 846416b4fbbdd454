"""Rejected trainings: the message names field, reason and remedy; nothing is created or left behind."""

from dataclasses import replace

import pytest

from resnext_operator.api import volumes
from resnext_operator.api.status import Phase
from resnext_operator.cli import main
from resnext_operator.domain.admission import plan_for_name_conflict
from resnext_operator.domain.plan import Plan
from resnext_operator.rendering.network_policy import network_policy
from resnext_operator.runtime import controller
from resnext_operator.runtime.client import ApiError
from resnext_operator.runtime.settings import InvalidSettings, Settings
from resnext_trainer.contract import ExitStatus
from tests.support.fake_client import Server
from tests.support.fake_cluster import SAMPLES, SITE, Cluster, condition, is_pod
from tests.support.runtime import runtime_on

QUOTA = 'pods "resnext-digits-worker-1-0" is forbidden: exceeded quota: compute, used: pods=1, limited: pods=1'
FOLDER = {"volumes": [{"name": "fast", "hostPath": {"path": "/mnt/nvme/imagenet"}}]}
OPEN = replace(SITE, host_paths=("/mnt/nvme", "/opt"), host_network=True)


def make_cluster(site=SITE, **workers):
    cluster = Cluster(workers={"replicas": 2, **workers})
    cluster.site = site
    return cluster


# -- host access -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        (FOLDER, ["spec.workers.volumes[0].hostPath.path", "/mnt/nvme/imagenet", "allow.hostPaths"]),
        ({"hostNetwork": True}, ["spec.workers.hostNetwork", "allow.hostNetwork"]),
    ],
    ids=["hostPath", "hostNetwork"],
)
def test_host_path_and_host_network_need_settings(workers, words):
    """The operator's settings must allow hostPath volumes and hostNetwork."""
    cluster = make_cluster(**workers)
    cluster.settle()
    accepted = condition(cluster, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "ForbiddenByOperator")
    assert all(word in accepted["message"] for word in words)
    assert cluster.status["phase"] == Phase.FAILED
    assert not [name for name in cluster.made if "worker" in name]
    assert cluster.events == ["ForbiddenByOperator"], "one event"
    allowed = make_cluster(OPEN, **workers)
    allowed.run()
    assert allowed.status["phase"] == Phase.RUNNING


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/mnt/nvme", True),
        ("/mnt/nvme/", True),
        ("/mnt/nvme/a/b", True),
        ("/mnt/nvme2", False),
        ("/mnt", False),
        ("/", False),
        ("/mnt/nvme/../../etc", False),
        ("/mnt/nvme/..", False),
        ("//mnt/nvme", False),
    ],
)
def test_allowed_host_path_matches_directories(path, allowed):
    """A path is compared by directory, not by string prefix."""
    cluster = make_cluster(OPEN, volumes=[{"name": "fast", "hostPath": {"path": path}}])
    cluster.settle()
    assert bool(cluster.pods("worker")) is allowed


def test_host_path_root_allows_every_path():
    """The setting / allows every hostPath."""
    cluster = make_cluster(replace(SITE, host_paths=("/",)), **FOLDER)
    cluster.settle()
    assert cluster.pods("worker")


def test_revoked_permission_keeps_current_attempt():
    """The current attempt continues, and no other one starts."""
    cluster = make_cluster(OPEN, **FOLDER)
    cluster.run()
    cluster.site = SITE
    cluster.settle()
    assert cluster.status["phase"] == Phase.RUNNING
    assert condition(cluster, "Accepted")["status"] == "False"
    made = list(cluster.made)
    cluster.vanish("resnext-digits-worker-1-0")
    cluster.end(ExitStatus.CRASHED)
    cluster.settle()
    assert cluster.status["phase"] == Phase.FAILED
    assert condition(cluster, "Failed")["reason"] == "ForbiddenByOperator"
    assert cluster.made == made


def test_suspended_training_is_rejected_on_resume():
    """A suspended training that is no longer allowed stays Suspended with Accepted False."""
    cluster = make_cluster(OPEN, **FOLDER)
    cluster.run()
    cluster.body["spec"]["suspend"] = True
    cluster.settle()
    cluster.site = SITE
    cluster.settle()
    assert cluster.status["phase"] == Phase.SUSPENDED
    assert condition(cluster, "Accepted")["status"] == "False"
    cluster.site = OPEN
    cluster.settle()
    cluster.body["spec"]["suspend"] = False
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING


# -- volumes -----------------------------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, dict[str, object]]] = {
    "claim": {"persistentVolumeClaim": {"claimName": "imagenet"}},
    "disk": {"emptyDir": {"sizeLimit": "1Gi"}},
    "words": {"configMap": {"name": "words"}},
    "token": {"secret": {"secretName": "token"}},
    "cache": {"csi": {"driver": "cache.example", "volumeAttributes": {"size": "1Gi"}}},
    "node": {"hostPath": {"path": "/opt/data"}},
}


def test_workers_mount_user_volumes_and_own():
    """User volumes are mounted with the prefix user-, next to the operator's own."""
    listed = [{"name": name, **source} for name, source in KINDS.items()]
    mounts = [{"name": name, "mountPath": f"/mnt/{name}"} for name in KINDS]
    cluster = make_cluster(OPEN, volumes=listed, volumeMounts=mounts)
    cluster.settle()
    spec = cluster.pods("worker")[0]["spec"]
    found = {each["name"]: each for each in spec["volumes"]}
    for name, source in KINDS.items():
        (kind,) = source
        assert source[kind].items() <= found[f"user-{name}"][kind].items()
    mounted = {each["name"]: each for each in spec["containers"][0]["volumeMounts"]}
    assert mounted["user-claim"] == {"name": "user-claim", "mountPath": "/mnt/claim"}
    assert mounted["user-node"]["readOnly"], "a symlink could leave the allowed directory"
    assert {name: len(each.keys() - {"name"}) for name, each in found.items()} == dict.fromkeys(found, 1), "one source"


def test_every_own_mount_is_protected():
    """Users cannot mount over any directory that the pods need."""
    cluster = make_cluster()
    cluster.run()
    for pod in (*cluster.pods("worker"), *cluster.pods("launcher")):
        for mount in pod["spec"]["containers"][0]["volumeMounts"]:
            assert mount["mountPath"] in volumes.OWN_FOLDERS


def test_volume_claim_is_awaited_and_must_be_shareable():
    """Workers wait for the claim, and its access mode must suffice."""
    cluster = make_cluster(volumes=[{"name": "extra", "persistentVolumeClaim": {"claimName": "extra"}}])
    cluster.settle()
    assert "PersistentVolumeClaim extra not found" in condition(cluster, "Scheduled")["message"]
    assert not cluster.pods("worker")
    cluster.claim("extra", "ReadWriteOnce")
    cluster.settle()
    assert (
        "spec.workers.volumes[0].persistentVolumeClaim.claimName: claim extra is ReadWriteOnce"
        in condition(cluster, "Accepted")["message"]
    )
    assert cluster.status["phase"] == Phase.FAILED


def test_volume_claim_event_reconciles_its_training():
    """The creation of a claim enqueues the trainings that mount it."""
    cluster = make_cluster(volumes=[{"name": "extra", "persistentVolumeClaim": {"claimName": "extra"}}])
    runtime = runtime_on(Server())
    cluster.body["metadata"]["resourceVersion"] = "1"
    runtime.cache.upsert(cluster.body)
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": "extra", "namespace": "default"}}
    assert controller.affected_trainings(claim, runtime) == {("default", "resnext-digits")}


def test_host_network_workers_use_cluster_dns():
    """Workers on the host network resolve cluster names; the launcher stays off the host network."""
    cluster = make_cluster(OPEN, hostNetwork=True)
    cluster.run()
    for pod in cluster.pods("worker"):
        assert pod["spec"]["hostNetwork"]
        assert pod["spec"]["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert "hostNetwork" not in cluster.pods("launcher")[0]["spec"]


# -- pods rejected by a quota ------------------------------------------------------------------------------------------


def forbid(cluster):
    """Reject all pods of the next plan, as the API server does."""
    plan = cluster.decide()
    assert any(each["kind"] == "Pod" for each in plan.create)
    for manifest in plan.create:
        if manifest["kind"] != "Pod":
            cluster.apply_plan(Plan(create=(manifest,), status=cluster.training.status))
    made = [each for each in plan.create if each["kind"] == "Pod"][-1]
    rejection = ApiError(403, QUOTA).rejection(made)
    hindered = cluster.rejected(plan, rejection)
    assert not hindered.create
    cluster.body["status"] = hindered.status.to_json()
    cluster.events += [event.reason for event in hindered.events]


@pytest.mark.parametrize("pods", ["workers", "launcher", "successor"])
def test_quota_rejection_reported_once_within_deadline(pods):
    """One event is emitted, and pendingDeadlineSeconds keeps counting."""
    cluster = Cluster(runPolicy={"pendingDeadlineSeconds": 60})
    if pods == "launcher":
        cluster.settle()
        cluster.ready()
    elif pods == "successor":
        cluster.run()
        cluster.vanish("resnext-digits-worker-1-0")
        cluster.end(ExitStatus.CRASHED)
        cluster.apply_plan(cluster.decide())  # the end is recorded before pods are created
    events_before = len(cluster.events)
    for _ in range(5):
        forbid(cluster)
        assert cluster.status["reason"] == "PodCreationRejected"
        cluster.wait(seconds=10)
    assert cluster.events[events_before:].count("PodCreationRejected") == 1
    assert len(cluster.status.get("attempts", ())) == (1 if pods == "successor" else 0)
    cluster.wait(seconds=10)
    cluster.settle()
    assert condition(cluster, "Failed")["reason"] == "PendingDeadlineExceeded"
    assert "exceeded quota" in condition(cluster, "Failed")["message"]


def test_raised_quota_starts_training():
    """The training runs after the quota is raised."""
    cluster = Cluster()
    for _ in range(3):
        forbid(cluster)
        cluster.wait(minutes=2)
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    assert condition(cluster, "Scheduled")["status"] == "True"


# -- specs accepted by an earlier version ------------------------------------------------------------------------------


def test_running_training_with_invalid_spec_is_stopped():
    """Its pods are deleted, the training fails, and repeating changes nothing."""
    cluster = make_cluster()
    cluster.run()
    plan = plan_for_name_conflict(cluster.training.status, cluster.seen, 2, "spec.workers.slots: no", cluster.now)
    assert {each.name for each in plan.delete} == {each["metadata"]["name"] for each in living(cluster)}
    assert plan.status.phase == Phase.FAILED
    cluster.apply_plan(plan)
    again = plan_for_name_conflict(cluster.training.status, cluster.seen, 2, "spec.workers.slots: no", cluster.now)
    assert (again.delete, again.events, again.status.to_json()) == ((), (), cluster.status)


def living(cluster):
    return [each for each in cluster.objects.values() if is_pod("worker")(each) or is_pod("launcher")(each)]


def test_succeeded_training_with_invalid_spec_unchanged():
    """A later operator that rejects the spec does not change the result."""
    cluster = make_cluster()
    cluster.run()
    cluster.end(ExitStatus.COMPLETED)
    cluster.settle()
    plan = plan_for_name_conflict(cluster.training.status, cluster.seen, 2, "spec.workers.slots: no", cluster.now)
    assert (plan.status.to_json(), plan.events) == (cluster.status, ())


# -- network policy ----------------------------------------------------------------------------------------------------


def test_network_policy_admits_own_pods_operator_metrics():
    """Ingress is limited to the training's pods, the operator and the configured scrapers."""
    monitoring = {"namespaceSelector": {"matchLabels": {"team": "watch"}}}
    cluster = make_cluster(replace(SITE, operator_namespace="ops", metrics_allowed_from=(monitoring,)), slots=4)
    spec = network_policy(cluster.training)["spec"]
    assert spec["podSelector"] == {"matchLabels": {"resnext.dev/training": "resnext-digits"}}
    assert spec["policyTypes"] == ["Ingress"]
    own, metrics = spec["ingress"]
    assert own == {"from": [{"podSelector": spec["podSelector"]}]}, "any port: Open MPI and NCCL use random ports"
    assert metrics["ports"] == [{"protocol": "TCP", "port": 9430, "endPort": 9433}]
    operator, other = metrics["from"]
    assert operator["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}
    assert operator["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "resnext-operator"}}
    assert other == monitoring


def test_network_policy_default_admits_operator_only():
    """Without a setting only the operator can read metrics."""
    _, metrics = network_policy(make_cluster().training)["spec"]["ingress"]
    assert len(metrics["from"]) == 1


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_are_read_from_environment():
    """Lists, booleans and JSON are parsed."""
    settings = Settings.from_environment(
        {
            "RESNEXT_HOST_PATHS": "/mnt/nvme,/opt",
            "RESNEXT_HOST_NETWORK": "true",
            "RESNEXT_METRICS_ALLOWED_FROM": '[{"podSelector": {}}]',
            "RESNEXT_LEASE_NAMESPACE": "ops",
        }
    )
    site = settings.site
    assert (site.host_paths, site.host_network) == (("/mnt/nvme", "/opt"), True)
    assert (site.metrics_allowed_from, site.operator_namespace) == (({"podSelector": {}},), "ops")
    assert Settings.from_environment({}).site.host_paths == ()


@pytest.mark.parametrize(
    ("variable", "value"), [("HOST_PATHS", "mnt"), ("METRICS_ALLOWED_FROM", "monitoring"), ("HOST_NETWORK", "perhaps")]
)
def test_invalid_setting_names_its_variable(variable, value):
    """The error begins with the name of the variable."""
    with pytest.raises(InvalidSettings, match=f"RESNEXT_{variable}: "):
        Settings.from_environment({f"RESNEXT_{variable}": value})


@pytest.mark.parametrize(
    ("variable", "suggestion"),
    [
        ("RESYNC_SECOND", "use RESNEXT_RESYNC_SECONDS"),
        ("TRAINER_IMAGES", "use RESNEXT_TRAINER_IMAGE"),
        ("NAMESPACE", "use RESNEXT_NAMESPACES"),
        ("resync_seconds", "use RESNEXT_RESYNC_SECONDS"),
        ("OPERATOR_SERVICE_HOST", "not a setting of the operator"),
        ("", "remove it"),
    ],
)
def test_unknown_variable_fails_start(variable, suggestion, monkeypatch, capsys):
    """The error names the misspelled variable and suggests the closest setting."""
    monkeypatch.setenv(f"RESNEXT_{variable}", "30")
    for given in ("RESNEXT_STARTED", "RESNEXT_CACHE"):
        monkeypatch.delenv(given, raising=False)
    assert main(["run"]) == 2
    error_output = capsys.readouterr().err
    assert f"RESNEXT_{variable}: " in error_output
    assert suggestion in error_output


def test_known_and_foreign_variables_are_accepted():
    """Variables of settings and of other programs cause no error."""
    Settings.check_names({f"RESNEXT_{name.upper()}": "1" for name in Settings.model_fields} | {"RESNEXTRA": "1"})


def test_render_ignores_unknown_variables(monkeypatch, capsys):
    """`render` works in a shell with variables such as RESNEXT_STARTED."""
    monkeypatch.setenv("RESNEXT_STARTED", "1")
    monkeypatch.setenv("RESNEXT_IMAGE_OPERATOR", "x")
    assert main(["render", "-f", str(SAMPLES / "resnext-digits.yaml")]) == 0
    assert "kind: Pod" in capsys.readouterr().out
