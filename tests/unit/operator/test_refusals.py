"""What is refused says which field, why and the way out; and nothing is made of it, nor left behind."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from resnext_operator.api import volumes
from resnext_operator.api.status import Phase
from resnext_operator.cli import main
from resnext_operator.domain.admission import plan_for_invalid_spec
from resnext_operator.domain.plan import Plan
from resnext_operator.rendering.network_policy import network_policy
from resnext_operator.runtime import controller
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.client import ApiError
from resnext_operator.runtime.guard import Guard
from resnext_operator.runtime.settings import InvalidSettings, Settings
from resnext_trainer.contract import ExitStatus
from tests.support.fake_cluster import SAMPLES, SITE, Cluster, is_pod

QUOTA = 'pods "resnext-digits-worker-1-0" is forbidden: exceeded quota: compute, used: pods=1, limited: pods=1'
FOLDER = {"volumes": [{"name": "fast", "hostPath": {"path": "/mnt/nvme/imagenet"}}]}
OPEN = replace(SITE, host_paths=("/mnt/nvme", "/opt"), host_network=True)


def condition(cluster, kind):
    return next((each for each in cluster.status["conditions"] if each["type"] == kind), {})


def a_cluster(site=SITE, **workers):
    cluster = Cluster(workers={"replicas": 2, **workers})
    cluster.site = site
    return cluster


# -- the node's own ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        (FOLDER, ["spec.workers.volumes, fast", "/mnt/nvme/imagenet", "allow.hostPaths"]),
        ({"hostNetwork": True}, ["spec.workers.hostNetwork", "allow.hostNetwork"]),
    ],
    ids=["hostPath", "hostNetwork"],
)
def test_the_nodes_folders_and_network_need_the_operators_settings(workers, words):
    cluster = a_cluster(**workers)
    cluster.settle()
    accepted = condition(cluster, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "NotAllowed")
    assert all(word in accepted["message"] for word in words)
    assert cluster.status["phase"] == Phase.FAILED
    assert not [name for name in cluster.made if "worker" in name]
    assert cluster.events == ["NotAllowed"], "told once"
    allowed = a_cluster(OPEN, **workers)
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
def test_an_allowed_folder_is_a_folder_and_not_a_prefix(path, allowed):
    cluster = a_cluster(OPEN, volumes=[{"name": "fast", "hostPath": {"path": path}}])
    cluster.settle()
    assert bool(cluster.pods("worker")) is allowed


def test_all_of_the_node_can_be_allowed():
    cluster = a_cluster(replace(SITE, host_paths=("/",)), **FOLDER)
    cluster.settle()
    assert cluster.pods("worker")


def test_what_is_no_longer_allowed_ends_no_attempt_but_begins_none():
    cluster = a_cluster(OPEN, **FOLDER)
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
    assert condition(cluster, "Failed")["reason"] == "NotAllowed"
    assert cluster.made == made


def test_what_is_suspended_is_refused_when_it_is_resumed():
    cluster = a_cluster(OPEN, **FOLDER)
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

KINDS = {
    "claim": {"persistentVolumeClaim": {"claimName": "imagenet"}},
    "disk": {"emptyDir": {"sizeLimit": "1Gi"}},
    "words": {"configMap": {"name": "words"}},
    "token": {"secret": {"secretName": "token"}},
    "cache": {"csi": {"driver": "cache.example", "volumeAttributes": {"size": "1Gi"}}},
    "node": {"hostPath": {"path": "/opt/data"}},
}


def test_workers_mount_the_volumes_of_their_user_beside_their_own():
    listed = [{"name": name, **source} for name, source in KINDS.items()]
    mounts = [{"name": name, "mountPath": f"/mnt/{name}"} for name in KINDS]
    cluster = a_cluster(OPEN, volumes=listed, volumeMounts=mounts)
    cluster.settle()
    spec = cluster.pods("worker")[0]["spec"]
    found = {each["name"]: each for each in spec["volumes"]}
    for name, source in KINDS.items():
        (kind,) = source
        assert source[kind].items() <= found[f"user-{name}"][kind].items()
    mounted = {each["name"]: each for each in spec["containers"][0]["volumeMounts"]}
    assert mounted["user-claim"] == {"name": "user-claim", "mountPath": "/mnt/claim"}
    assert mounted["user-node"]["readOnly"], "a link left there could lead out of the folder"
    assert {name: len(each.keys() - {"name"}) for name, each in found.items()} == dict.fromkeys(found, 1), "one source"


def test_no_folder_that_the_pods_need_can_be_hidden():
    cluster = a_cluster()
    cluster.run()
    for pod in (*cluster.pods("worker"), *cluster.pods("launcher")):
        for mount in pod["spec"]["containers"][0]["volumeMounts"]:
            assert mount["mountPath"] in volumes.OWN_FOLDERS


def test_a_claim_among_the_volumes_is_waited_for_and_must_suffice():
    cluster = a_cluster(volumes=[{"name": "extra", "persistentVolumeClaim": {"claimName": "extra"}}])
    cluster.settle()
    assert "no claim extra" in condition(cluster, "Scheduled")["message"]
    assert not cluster.pods("worker")
    cluster.claim("extra", "ReadWriteOnce")
    cluster.settle()
    assert "spec.workers.volumes, extra: claim extra is ReadWriteOnce" in condition(cluster, "Accepted")["message"]
    assert cluster.status["phase"] == Phase.FAILED


def test_the_appearance_of_a_volumes_claim_wakes_its_training():
    cluster = a_cluster(volumes=[{"name": "extra", "persistentVolumeClaim": {"claimName": "extra"}}])
    cache = Cache()
    cluster.body["metadata"]["resourceVersion"] = "1"
    cache.upsert(cluster.body)
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": "extra", "namespace": "default"}}
    assert controller.affected_trainings(claim, SimpleNamespace(cache=cache, guard=Guard())) == {
        ("default", "resnext-digits")
    }


def test_on_the_nodes_network_a_worker_still_finds_the_cluster():
    cluster = a_cluster(OPEN, hostNetwork=True)
    cluster.run()
    for pod in cluster.pods("worker"):
        assert pod["spec"]["hostNetwork"]
        assert pod["spec"]["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert "hostNetwork" not in cluster.pods("launcher")[0]["spec"]


# -- what the API server refuses ---------------------------------------------------------------------------------------


def forbid(cluster):
    """The API server makes none of the pods of the next plan."""
    plan = cluster.decide()
    assert any(each["kind"] == "Pod" for each in plan.create)
    for manifest in plan.create:
        if manifest["kind"] != "Pod":
            cluster.apply_plan(Plan(create=(manifest,), status=cluster.status))
    made = [each for each in plan.create if each["kind"] == "Pod"][-1]
    rejection = ApiError(403, QUOTA).rejection(made)
    hindered = cluster.rejected(plan, rejection)
    assert not hindered.create
    cluster.body["status"] = hindered.status
    cluster.events += [event.reason for event in hindered.events]


@pytest.mark.parametrize("pods", ["workers", "launcher", "successor"])
def test_a_quota_in_the_way_is_told_once_and_the_deadline_for_pending_pods_counts_on(pods):
    cluster = Cluster(runPolicy={"pendingDeadlineSeconds": 60})
    if pods == "launcher":
        cluster.settle()
        cluster.ready()
    elif pods == "successor":
        cluster.run()
        cluster.vanish("resnext-digits-worker-1-0")
        cluster.end(ExitStatus.CRASHED)
        cluster.apply_plan(cluster.decide())  # the end is recorded before anything is made
    told = len(cluster.events)
    for _ in range(5):
        forbid(cluster)
        assert cluster.status["reason"] == "PodsRefused"
        cluster.wait(seconds=10)
    assert cluster.events[told:].count("PodsRefused") == 1
    assert len(cluster.status.get("attempts", ())) == (1 if pods == "successor" else 0)
    cluster.wait(seconds=10)
    cluster.settle()
    assert condition(cluster, "Failed")["reason"] == "PendingDeadlineExceeded"
    assert "exceeded quota" in condition(cluster, "Failed")["message"]


def test_when_the_quota_is_raised_the_training_goes_on():
    cluster = Cluster()
    for _ in range(3):
        forbid(cluster)
        cluster.wait(minutes=2)
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    assert condition(cluster, "Scheduled")["status"] == "True"


# -- what gets past the API server -------------------------------------------------------------------------------------


def test_what_ran_with_a_spec_that_is_refused_now_does_not_run_for_ever():
    cluster = a_cluster()
    cluster.run()
    plan = plan_for_invalid_spec(cluster.status, cluster.seen, 2, "spec.workers.slots: no", cluster.now)
    assert {each.name for each in plan.delete} == {each["metadata"]["name"] for each in living(cluster)}
    assert plan.status["phase"] == Phase.FAILED
    cluster.apply_plan(plan)
    again = plan_for_invalid_spec(cluster.status, cluster.seen, 2, "spec.workers.slots: no", cluster.now)
    assert (again.delete, again.events, again.status) == ((), (), cluster.status)


def living(cluster):
    return [each for each in cluster.objects.values() if is_pod("worker")(each) or is_pod("launcher")(each)]


def test_what_has_succeeded_stays_so_when_a_later_operator_would_refuse_it():
    cluster = a_cluster()
    cluster.run()
    cluster.end(ExitStatus.FINISHED)
    cluster.settle()
    plan = plan_for_invalid_spec(cluster.status, cluster.seen, 2, "spec.workers.slots: no", cluster.now)
    assert (plan.status, plan.events) == (cluster.status, ())


# -- who may come in ---------------------------------------------------------------------------------------------------


def test_only_own_pods_the_operator_and_who_the_settings_name_come_in():
    monitoring = {"namespaceSelector": {"matchLabels": {"team": "watch"}}}
    cluster = a_cluster(replace(SITE, operator_namespace="ops", metrics_from=(monitoring,)), slots=4)
    spec = network_policy(cluster.training)["spec"]
    assert spec["podSelector"] == {"matchLabels": {"resnext.dev/training": "resnext-digits"}}
    assert spec["policyTypes"] == ["Ingress"]
    own, metrics = spec["ingress"]
    assert own == {"from": [{"podSelector": spec["podSelector"]}]}, "any port: Open MPI and NCCL take what is free"
    assert metrics["ports"] == [{"protocol": "TCP", "port": 9430, "endPort": 9433}]
    operator, other = metrics["from"]
    assert operator["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}
    assert operator["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "resnext-operator"}}
    assert other == monitoring


def test_without_a_setting_nobody_but_the_operator_reads_metrics():
    _, metrics = network_policy(a_cluster().training)["spec"]["ingress"]
    assert len(metrics["from"]) == 1


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_come_from_the_environment():
    settings = Settings.from_environment(
        {
            "RESNEXT_HOST_PATHS": "/mnt/nvme,/opt",
            "RESNEXT_HOST_NETWORK": "true",
            "RESNEXT_METRICS_FROM": '[{"podSelector": {}}]',
            "RESNEXT_LEASE_NAMESPACE": "ops",
        }
    )
    site = settings.site
    assert (site.host_paths, site.host_network) == (("/mnt/nvme", "/opt"), True)
    assert (site.metrics_from, site.operator_namespace) == (({"podSelector": {}},), "ops")
    assert Settings.from_environment({}).site.host_paths == ()


@pytest.mark.parametrize(
    ("variable", "value"), [("HOST_PATHS", "mnt"), ("METRICS_FROM", "monitoring"), ("HOST_NETWORK", "perhaps")]
)
def test_a_setting_that_cannot_be_read_is_named(variable, value):
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
def test_an_unknown_variable_ends_the_start(variable, suggestion, monkeypatch, capsys):
    """A variable that is misspelt would be ignored silently: the operator names it and the closest setting."""
    monkeypatch.setenv(f"RESNEXT_{variable}", "30")
    for given in ("RESNEXT_STARTED", "RESNEXT_CACHE"):
        monkeypatch.delenv(given, raising=False)
    assert main(["run"]) == 2
    said = capsys.readouterr().err
    assert f"RESNEXT_{variable}: " in said
    assert suggestion in said


def test_known_variables_are_no_mistake():
    """Each setting's own variable, and variables of other programs, are left alone."""
    Settings.check_names({f"RESNEXT_{name.upper()}": "1" for name in Settings.model_fields} | {"RESNEXTRA": "1"})


def test_render_ignores_variables_of_the_developers_shell(monkeypatch, capsys):
    """`make` exports RESNEXT_STARTED, and tests RESNEXT_CACHE: `render` by hand must work in such a shell."""
    monkeypatch.setenv("RESNEXT_STARTED", "1")
    monkeypatch.setenv("RESNEXT_IMAGE_OPERATOR", "x")
    assert main(["render", "-f", str(SAMPLES / "resnext-digits.yaml")]) == 0
    assert "kind: Pod" in capsys.readouterr().out
