"""Specs and requests that the API server and the operator reject with the same message."""

import json
import re
import time
from collections.abc import Iterator

import pytest
import yaml

from resnext_operator.api import pod_template
from resnext_operator.api.operator_policy import OperatorPolicy
from resnext_operator.api.validation import MAX_NAME_LENGTH, InvalidTraining, parse
from resnext_operator.rendering.claims import checkpoint_claim, creates_checkpoint_claim
from resnext_operator.rendering.pods import example_hosts, launcher_pod, worker_pod
from tests.support.kube import NAMESPACE, ROOT, SYSTEM, Cluster, Refused, eventually, image_values, sample
from tests.support.validity import INVALID, VALID, merged

GPU = pod_template.GPU
SYNTHETIC = {"dataset": None, "training": {"data": {"format": "synthetic", "syntheticImages": 64}}}
TERM = {"matchExpressions": [{"key": "zone", "operator": "In"}]}
NO_VALUES = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": TERM}]}}
TWO = {"persistentVolumeClaim": {"claimName": "x"}, "emptyDir": {}}


@pytest.mark.parametrize(
    "change",
    [
        {"workers": {"replicas": 0}},
        {"workers": {"replicas": -2}},
        {"workers": {"slots": 0}},
        {"workers": {"slots": 4, "resources": {"limits": {GPU: 8}}}},
        {"workers": {"resources": {"limits": {GPU: 0}}}},
        {"workers": {"resources": {"limits": {"cpu": -1}}}},
        {"launcher": {"resources": {"limits": {GPU: 1}}}},
        {"launcher": {"labels": {"resnext.dev/worker": "x"}}},
        {"workers": {"labels": {"resnext.dev/training": "another"}}},
        {"training": {"epochs": 1_000_000_000}},
        {"training": {"data": {"path": "/" + "x" * 1024}}},
        {"training": {"optimizer": {"stepEpochs": [1.0] * 17}}},
        {"workers": {"env": [{"name": "OMPI_COMM_WORLD_SIZE", "value": "1"}]}},
        {"workers": {"serviceAccountName": "admin"}},
        {"workers": {"volumes": [{"name": "x", **TWO}]}},
        {"workers": {"volumeMounts": [{"name": "x", "mountPath": "/x"}]}},
        {"workers": {"volumes": [{"name": "x", "emptyDir": {}}], "volumeMounts": [{"name": "x", "mountPath": "/tmp"}]}},
        {"workers": {"affinity": NO_VALUES}},
        {"workers": {"topologySpreadConstraints": [{"topologyKey": "zone"}]}},
        {"runPolicy": {"activeDeadlineSeconds": 0}},
        {"checkpoints": {"claimName": "x", "template": {}}},
        {"dataset": None},
    ],
    ids=lambda change: re.sub(r"[{}'\[\]]", "", str(change)),
)
def test_api_server_and_operator_reject_with_same_message(cluster: Cluster, change):
    """The operator's field and reason are part of the API server's message."""
    assert_both_refuse(cluster, sample("resnext-digits", "refused", change))


def test_definition_fits_into_annotation(cluster: Cluster):
    """`kubectl apply` keeps a copy in an annotation, which is limited to 256 KiB."""
    definition = (ROOT / "manifests" / "crd.yaml").read_text()
    assert len(json.dumps(yaml.safe_load(definition))) <= 256 * 1024
    assert "resnexttrainings.resnext.dev" in cluster.run(
        "kubectl", "apply", "--dry-run=server", "-f", "-", stdin=definition
    )


def test_api_server_rejects_invalid_pods_of_each_class(cluster: Cluster):
    """The training is rejected on creation, because none of these pods could ever be created."""
    names = {f"invalid-{number}": name for number, name in enumerate(INVALID)}
    documents = [as_text(odd(key, INVALID[name])) for key, name in names.items()]
    with pytest.raises(Refused) as refusal:
        cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin="---\n".join(documents))
    accepted = re.findall(r"resnext\.dev/(invalid-\d+) created", str(refusal.value))
    assert [names[key] for key in accepted] == []
    rejected = set(re.findall(r'"(invalid-\d+)" is invalid', str(refusal.value)))
    assert [names[key] for key in names.keys() - rejected] == []


def test_api_server_accepts_pods_of_unusual_valid_specs(cluster: Cluster):
    """The server accepts the training, its workers with and without a gate, its launcher and its claim."""
    for number, (name, spec) in enumerate(VALID.items()):
        manifest = odd(f"valid-{number}", spec)
        training = parse({**manifest, "metadata": {**manifest["metadata"], "uid": "none"}}, OperatorPolicy("trainer"))
        workers = [worker_pod(training, 0, 0), worker_pod(training, 1, 0, gated=True)]
        pods = [*workers, launcher_pod(training, 1, example_hosts(training))]
        claims = [checkpoint_claim(training)] if creates_checkpoint_claim(training) else []
        for each in (*pods, *claims):
            each["metadata"] |= {"namespace": NAMESPACE}
            each["metadata"].pop("ownerReferences", None)
        texts = "---\n".join(map(as_text, (manifest, *pods, *claims)))
        created = cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=texts)
        assert created.count("created") == 1 + len(pods) + len(claims), name


def odd(name, spec):
    manifest = sample("resnext-digits", name)
    return {**manifest, "spec": merged(manifest["spec"], spec)}


def test_foreign_claim_is_not_mounted(cluster: Cluster):
    """A claim NAME-checkpoints of another user is neither mounted nor written; the message names the field."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "foreign-checkpoints"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    cluster.apply(claim)
    try:
        cluster.apply(sample("resnext-digits", "foreign"))
        cluster.until("foreign", lambda status: status.get("phase") == "Failed")
        accepted = cluster.condition("foreign", "Accepted")
        assert accepted["reason"] == "ClaimNotOwned"
        assert "set checkpoints.claimName to foreign-checkpoints" in accepted["message"]
        assert not cluster.objects("pods", "resnext.dev/training=foreign")
    finally:
        cluster.kubectl("delete", "rnx/foreign", "pvc/foreign-checkpoints", "--ignore-not-found", "--wait=false")


def test_quota_without_limits_reported_before_workers(cluster: Cluster):
    """If a quota that requires limits.cpu rejects workers or launcher, no worker is created."""
    namespace = "quota"
    cluster.run("kubectl", "create", "namespace", namespace)
    try:
        quota = {"hard": {"limits.cpu": "8", "limits.memory": "16Gi"}}
        cluster.apply(
            {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": quota},
            namespace=namespace,
        )
        wanted = {"workers": {"resources": {"limits": {"memory": "1Gi"}}}, **SYNTHETIC}
        cluster.apply(sample("resnext-digits", "it", wanted), namespace=namespace)

        def limit_reported() -> bool:
            conditions = cluster.status("it", namespace).get("conditions", ())
            return any("spec.workers.resources.limits.cpu" in each["message"] for each in conditions)

        eventually(limit_reported, "the name of the missing limit")
        assert not cluster.objects("pods", namespace=namespace)
    finally:
        cluster.run("kubectl", "delete", "namespace", namespace, "--wait=false")


def test_name_too_long_for_pods_is_rejected(cluster: Cluster):
    """The API server and the operator both reject it."""
    assert_both_refuse(cluster, sample("resnext-digits", "n" * (MAX_NAME_LENGTH + 1)))


def assert_both_refuse(cluster: Cluster, manifest) -> None:
    with pytest.raises(Refused) as refusal:
        cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=as_text(manifest))
    with pytest.raises(InvalidTraining) as own:
        parse(manifest, OperatorPolicy("trainer"))
    message = str(refusal.value).replace('\\"', '"')
    # A field of type int-or-string is invalid as both types, and the API server reports only one.
    sentences = [sentence.partition(": ") for sentence in str(own.value).splitlines()]
    assert all(field in message for field, _, _ in sentences)
    # The validators quote the value differently.
    reasons = [re.sub(r'^Invalid value: ([-.\d]+: |"[^"]*": )?', "", reason) for _, _, reason in sentences]
    assert any(reason in message for reason in reasons)


def as_text(manifest) -> str:
    return yaml.safe_dump(manifest)


def test_immutable_fields_of_suspended_training(cluster: Cluster, training):
    """No pods exist, immutable fields are rejected, and other changes are accepted."""
    name = training(suspend=True)
    cluster.until(name, lambda status: status.get("phase") == "Suspended")
    assert "startTime" not in cluster.status(name)
    for field, patch in {
        "training": '{"training":{"epochs":9}}',
        "dataset": '{"dataset":{"claimName":"another"}}',
        "checkpoints": '{"checkpoints":{"template":{"size":"2Gi"}}}',
        "managedBy": '{"managedBy":"another.example/queue"}',
    }.items():
        with pytest.raises(Refused, match=f"spec.{field} is immutable; create a new training"):
            change(cluster, name, patch)
    change(cluster, name, '{"workers":{"nodeSelector":{"disk":"fast"},"replicas":3}}')
    time.sleep(2)
    assert not cluster.objects("pods", f"resnext.dev/training={name}")
    assert cluster.status(name)["phase"] == "Suspended"


def test_training_of_other_manager_is_not_modified(cluster: Cluster, training):
    """A training with managedBy gets no status and no children."""
    name = training(managedBy="another.example/queue")
    ours = training(suffix="-not", suspend=True)
    cluster.until(ours, lambda status: status.get("phase") == "Suspended")
    assert cluster.status(name) == {}
    assert not cluster.children(name)
    with pytest.raises(Refused, match=r"spec\.managedBy is immutable"):
        cluster.kubectl("patch", "rnx", name, "--type=json", "-p", '[{"op":"remove","path":"/spec/managedBy"}]')


def test_host_access_is_rejected_by_default(cluster: Cluster, training):
    """hostPath volumes and hostNetwork are not allowed."""
    folder = {"volumes": [{"name": "host", "hostPath": {"path": "/etc"}}]}
    for suffix, workers, words in (
        ("-folder", folder, "spec.workers.volumes[0].hostPath.path: /etc, but this operator allows no hostPath"),
        ("-network", {"hostNetwork": True}, "spec.workers.hostNetwork: not allowed by this operator"),
    ):
        name = training(suffix=suffix, workers=workers, **SYNTHETIC)
        cluster.until(name, lambda status: status.get("phase") == "Failed")
        accepted = cluster.condition(name, "Accepted")
        assert (accepted["status"], accepted["reason"]) == ("False", "ForbiddenByOperator")
        assert words in accepted["message"]
        assert not cluster.objects("pods", f"resnext.dev/training={name}")


AUTHOR = f"system:serviceaccount:{NAMESPACE}:author"


@pytest.fixture
def author(cluster: Cluster) -> Iterator[str]:
    """A user who may write trainings but not pods, in a cluster with the admission policies."""
    chart = ROOT / "charts" / "resnext-operator"
    policy = cluster.run(
        *(
            "helm",
            "template",
            "resnext-operator",
            chart,
            "--namespace",
            SYSTEM,
            "--show-only",
            "templates/admission.yaml",
        ),
        *("--set", "admissionPolicy.enabled=true"),
        *image_values(),
    )
    cluster.run("kubectl", "apply", "-f", "-", stdin=policy)
    plurals = ["resnexttrainings", "resnexttrainings/scale", "resnexttrainings/status"]
    grant(cluster, "trainings", {"resnext.dev": plurals}, ["create", "get", "patch", "update"])
    yield AUTHOR
    cluster.run("kubectl", "delete", "--ignore-not-found", "-f", "-", stdin=policy)
    cluster.kubectl("delete", "role,rolebinding", "trainings", "pods", "--ignore-not-found")


def grant(cluster: Cluster, name: str, resources, verbs) -> None:
    rules = [{"apiGroups": [group], "resources": plural, "verbs": verbs} for group, plural in resources.items()]
    rbac = "rbac.authorization.k8s.io"
    reference = {"apiGroup": rbac, "kind": "Role", "name": name}
    subject = {"kind": "ServiceAccount", "name": "author", "namespace": NAMESPACE}
    cluster.apply(
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": reference,
            "subjects": [subject],
        },
    )


def test_author_without_pod_permission_is_rejected(cluster: Cluster, training, author):
    """The admission policy does not affect the operator or the garbage collector."""

    def create() -> str:
        """The error message; empty if the request is admitted."""
        try:
            manifest = as_text(sample("resnext-digits", "authored"))
            cluster.kubectl("create", f"--as={author}", "--dry-run=server", "-f", "-", stdin=manifest)
        except Refused as error:
            return str(error)
        return ""

    eventually(lambda: "cannot create pods" in create(), "the rejection by the policy")
    assert f"{AUTHOR} cannot create pods in namespace {NAMESPACE}, and a training runs pods there: grant" in create()

    name = training(suspend=True, **SYNTHETIC)
    cluster.until(name, lambda status: status.get("phase") == "Suspended")
    cluster.kubectl("label", f"--as={author}", "rnx", name, "team=vision")
    with pytest.raises(Refused, match="cannot create pods"):
        cluster.kubectl("patch", f"--as={author}", "rnx", name, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    secret = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "of-others", "key": "token"}}}
    reads_secret = json.dumps({"spec": {"workers": {"env": [secret]}}})
    with pytest.raises(Refused, match="cannot create pods"):
        cluster.kubectl("patch", f"--as={author}", "rnx", name, "--type=merge", "-p", reads_secret)
    scale = ("scale", f"--as={author}", "rnx", name, "--replicas=3")
    with pytest.raises(Refused, match=r"cannot create pods.* or add the user to admissionPolicy\.scalers"):
        cluster.kubectl(*scale)
    status = ("patch", f"--as={author}", "rnx", name, "--subresource=status", "--type=merge", "-p")
    with pytest.raises(Refused, match="cannot write the status of a training: only the operator"):
        cluster.kubectl(*status, '{"status":{"phase":"Succeeded"}}')
    assert cluster.status(name)["phase"] == "Suspended"
    # Only the garbage collector can remove the finalizer of this deletion.
    cluster.kubectl("delete", "rnx", name, "--cascade=foreground", "--timeout=30s")

    grant(cluster, "pods", {"": ["pods"]}, ["create"])
    eventually(lambda: create() == "", "admission with the permission to create pods")


def change(cluster: Cluster, name: str, spec: str) -> None:
    cluster.kubectl("patch", "rnx", name, "--type=merge", "-p", f'{{"spec":{spec}}}')
