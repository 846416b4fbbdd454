"""The CustomResourceDefinition: accepted specs, and the messages for rejected ones."""

import copy
import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext_operator.api import crd
from resnext_operator.api.pod_template import GPU
from resnext_operator.api.spec import Spec
from resnext_operator.api.validation import MAX_NAME_LENGTH, InvalidTraining, parse
from resnext_operator.cli import manifests
from resnext_operator.rendering import names
from resnext_operator.rendering.config_map import config_map
from resnext_operator.rendering.pods import launcher_pod, worker_pod
from resnext_operator.rendering.secret import KeyPair, Keys
from resnext_operator.rendering.shared_objects import shared_objects
from resnext_trainer.config.manifests import SPEC_FIELDS
from tests.support.fake_cluster import HOSTS, SAMPLES, SITE, resource

KEYS = Keys(*(KeyPair(f"the {whose} private key", f"the {whose} public key") for whose in ("user's", "host's")))
TRAININGS = sorted(path.stem for path in SAMPLES.glob("resnext-*.yaml"))


def schema():
    return crd.manifest()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def closed(node):
    """The structural schema as JSON Schema: unknown fields are rejected, and int-or-string is expanded."""
    node = copy.deepcopy(node)
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if node.pop(exclusive, False):
            node[f"exclusive{bound.capitalize()}"] = node.pop(bound)
    if node.pop("x-kubernetes-int-or-string", False):
        node["type"] = ["integer", "string"]
    if "properties" in node:
        node["properties"] = {name: closed(child) for name, child in node["properties"].items()}
        node["additionalProperties"] = False
    elif isinstance(node.get("additionalProperties"), dict):
        node["additionalProperties"] = closed(node["additionalProperties"])
    if "items" in node:
        node["items"] = closed(node["items"])
    return node


SPEC = closed(schema()["properties"]["spec"])


def nodes(node, path=("spec",)):
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, (*path, name))
    if "items" in node:
        yield from nodes(node["items"], (*path, "[]"))


@pytest.mark.parametrize("stem", TRAININGS)
def test_samples_are_valid_for_schema_and_operator(stem):
    """Both validators accept every sample."""
    jsonschema.validate(resource(stem)["spec"], SPEC)
    parse(resource(stem), SITE)


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"epochs": 0}},
        {"training": {"epoch": 3}},
        {"training": {"batchSize": "5"}},
        {"training": {"precision": {"mode": "fp64"}}},
        {"training": {"optimizer": {"learningRate": 0}}},
        {"training": {"augmentation": {"cropArea": [0.5]}}},
        {"workers": {"replicas": 0}},
        {"workers": {"replicas": -1}},
        {"workers": {"slots": 0}},
        {"workers": {"sharedMemory": -1}},
        {"workers": {"resources": {"limits": {"cpu": -1}}}},
        {"workers": {"resources": {"limits": {"memory": "-1Gi"}}}},
        {"workers": {"resources": {"limits": {"memory": "2 GB"}}}},
        {"workers": {"serviceAccountName": "admin"}},
        {"workers": {"securityContext": {"privileged": True}}},
        {"workers": {"hostPID": True}},
        {"workers": {"command": ["sh"]}},
        {"workers": {"volumes": [{"name": "x", "projected": {}}]}},
        {"workers": {"volumes": [{"name": "x", "nfs": {"server": "s", "path": "/"}}]}},
        {"workers": {"volumes": [{"name": "X", "emptyDir": {}}]}},
        {"workers": {"volumes": [{"name": "x", "hostPath": {"path": "relative"}}]}},
        {"workers": {"volumeMounts": [{"name": "x", "mountPath": "relative"}]}},
        {"workers": {"volumeMounts": [{"name": "x", "mountPath": "/data/"}]}},
        {"launcher": {"volumes": []}},
        {"runPolicy": {"backoffLimit": -1}},
        {"runPolicy": {"activeDeadlineSeconds": 0}},
        {"workers": {"slots": 17}},
        {"workers": {"resources": {"limits": {"cpu": 1.5}}}},
        {"workers": {"env": [{"name": "1st"}]}},
        {"dataset": {}},
        {"checkpoints": {"claim": "x"}},
        {"runPolicy": {"cleanPodPolicy": "Some"}},
    ],
    ids=json.dumps,
)
def test_spec_rejected_by_schema_is_rejected_by_operator(change):
    """Both validators reject it."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(resource(**change)["spec"], SPEC)
    with pytest.raises(InvalidTraining):
        parse(resource(**change), SITE)


@pytest.mark.parametrize(
    ("change", "field", "way_out"),
    [
        ({"workers": {"slots": 4, "resources": {"limits": {GPU: 8}}}}, "spec.workers.slots", "set slots to the limit"),
        (
            {"workers": {"resources": {"limits": {GPU: "500m"}}}},
            "spec.workers.resources.limits",
            "must be a whole number",
        ),
        ({"workers": {"resources": {"limits": {GPU: 0}}}}, "spec.workers.resources.limits", "of at least 1"),
        ({"workers": {"resources": {"limits": {GPU: "1.0"}}}}, "spec.workers.resources.limits", "of at least 1"),
        ({"launcher": {"resources": {"limits": {GPU: 1}}}}, "spec.launcher.resources", "request nvidia.com/gpu in"),
        ({"launcher": {"resources": {"requests": {GPU: 1}}}}, "spec.launcher.resources", "request nvidia.com/gpu in"),
        ({"workers": {"env": [{"name": "OMPI_COMM_WORLD_RANK"}]}}, "spec.workers.env[0].name", "remove it"),
        ({"launcher": {"env": [{"name": "PATH", "value": "/x"}]}}, "spec.launcher.env[0].name", "remove it"),
        ({"workers": {"volumes": [{"name": "x"}]}}, "spec.workers.volumes[0].name", "set exactly one of"),
        (
            {"workers": {"volumes": [{"name": "x", "emptyDir": {}, "secret": {"secretName": "y"}}]}},
            "spec.workers.volumes[0].name",
            "set exactly one of",
        ),
        (
            {"workers": {"volumes": [{"name": "x", "emptyDir": {}}, {"name": "x", "emptyDir": {}}]}},
            "spec.workers.volumes",
            "rename one",
        ),
        (
            {"workers": {"volumeMounts": [{"name": "x", "mountPath": "/x"}]}},
            "spec.workers.volumeMounts",
            "add the volume to volumes",
        ),
        (
            {
                "workers": {
                    "volumes": [{"name": "x", "emptyDir": {}}],
                    "volumeMounts": [{"name": "x", "mountPath": "/etc/resnext/ssh"}],
                }
            },
            "spec.workers.volumeMounts[0].mountPath",
            "use another path",
        ),
        ({"training": {"device": "gpu"}}, "spec.training.device", GPU),
        (
            {"training": {"device": "cpu"}, "workers": {"resources": {"limits": {GPU: 8}}}},
            "spec.training.device",
            "remove device",
        ),
        ({"checkpoints": {"claimName": "x", "template": {}}}, "spec.checkpoints.template", "remove one of them"),
        ({"dataset": None}, "spec.dataset", "set dataset.claimName"),
        ({"training": {"precision": {"mode": "bf16", "lossScale": 8}}}, "spec.training.precision.lossScale", "fp16"),
    ],
    ids=lambda value: value.rpartition(".")[2] if isinstance(value, str) else "",
)
def test_invalid_combination_names_field_and_remedy(change, field, way_out):
    """The message is that of the CEL rule in the schema."""
    with pytest.raises(InvalidTraining) as refusal:
        parse(resource(**change), SITE)
    message = str(refusal.value)
    assert message.startswith(f"{field}: ")
    assert way_out in message
    sentences = [rule["message"] for _, node in nodes(SPEC) for rule in node.get("x-kubernetes-validations", ())]
    assert len(sentences) > 20
    assert any(message.endswith(sentence.partition(": ")[2]) for sentence in sentences)


def test_name_leaves_room_for_pod_names():
    """Pod names stay within 63 characters."""
    body = resource()
    body["metadata"]["name"] = "n" * (MAX_NAME_LENGTH + 1)
    with pytest.raises(InvalidTraining, match=r"metadata\.name"):
        parse(body, SITE)
    assert len(names.worker("n" * MAX_NAME_LENGTH, 255, 99_999)) <= 63


def unbounded(node, path):
    """The values of a schema that have no upper bound."""
    kind = node.get("type")
    numbers = kind in ("integer", "number") or "minimum" in node
    if numbers and not {"minimum", "maximum"} <= node.keys() and "x-kubernetes-validations" not in node:
        yield path
    if kind == "string" and not {"enum", "maxLength"} & node.keys():
        yield path
    if kind == "array" and "maxItems" not in node:
        yield path
    if "additionalProperties" in node:
        keys = [rule["rule"] for rule in node.get("x-kubernetes-validations", ())]
        if "maxProperties" not in node or keys != ["self.all(key, size(key) <= 317)"]:
            yield path
        yield from unbounded(node["additionalProperties"], f"{path}{{}}")
    for name, child in node.get("properties", {}).items():
        yield from unbounded(child, f"{path}.{name}")
    if "items" in node:
        yield from unbounded(node["items"], f"{path}[]")


def test_every_spec_value_is_bounded():
    """Sums cannot overflow, and the API server can bound the cost of the rules."""
    found = schema()["properties"]["spec"]
    assert list(unbounded(found, "spec")) == []


def test_status_schema_accepts_any_version():
    """After a rollback an older operator can write: no enums, bounds or required fields except in conditions."""
    status = schema()["properties"]["status"]
    conditions = status["properties"].pop("conditions")

    def keys(node):
        inner = [*node.get("properties", {}).values(), *([node["items"]] if "items" in node else [])]
        return node.keys() | set().union(*map(keys, inner))

    assert keys(status) == {"type", "format", "description", "properties", "items"}
    assert set(conditions["items"]["required"]) == {"type", "status", "reason", "message", "lastTransitionTime"}


def test_every_status_field_has_a_description():
    """`kubectl explain` describes every field of the status."""

    def undescribed(node, path):
        for name, child in node.get("properties", {}).items():
            if not child.get("description"):
                yield f"{path}.{name}"
            yield from undescribed(child.get("items", child), f"{path}.{name}")

    assert not list(undescribed(schema()["properties"]["status"], "status"))


def test_map_keys_are_bounded():
    """A structural schema cannot bound keys; a CEL rule and the operator do."""
    with pytest.raises(InvalidTraining, match="may not be more than 317 bytes"):
        parse(resource(workers={"nodeSelector": {"k" * 318: "x"}}), SITE)


@pytest.mark.parametrize("spec", [["x"], "x", {"training": "x"}, {"training": ["x"]}, {"training": {"model": "x"}}])
def test_spec_of_wrong_type_is_rejected(spec):
    """A spec stored with an earlier schema is rejected with a message, not with an exception."""
    with pytest.raises(InvalidTraining, match=r"spec.*: should be|spec.*: Invalid value"):
        parse({"metadata": {"name": "x"}, "spec": spec}, SITE)


def test_schema_has_no_defaults():
    """The stored spec shows only what the user wrote."""
    assert not [path for path, node in nodes(SPEC) if "default" in node]


def test_every_field_has_description():
    """`kubectl explain` describes every field."""
    assert not [".".join(path) for path, node in nodes(SPEC) if "description" not in node and path[-1] != "[]"]


def test_definition_fits_kubectl_apply():
    """`kubectl apply` keeps a copy in an annotation, which is limited to 256 KiB."""
    # The annotation with the copy is limited to 256 KiB.
    assert len(json.dumps(crd.manifest())) < 256 * 1024 * 0.9


def test_default_columns_without_wide_output():
    """`kubectl get` prints these columns without -o wide."""
    columns = crd.manifest()["spec"]["versions"][0]["additionalPrinterColumns"]
    always = [each["name"] for each in columns if not each.get("priority")]
    assert always == ["Phase", "Workers", "Epoch", "Images/s", "Top-1", "Progress", "Age"]


@given(replicas=st.integers(1, 64), slots=st.integers(1, 16))
def test_launcher_hosts_are_existing_workers(replicas, slots):
    """Hosts, host aliases and --world-size match the worker pods."""
    rendered = manifests(resource(workers={"replicas": replicas, "slots": slots}), SITE, KEYS)
    *pods, launcher = (each for each in rendered if each["kind"] == "Pod")
    arguments = launcher["spec"]["containers"][0]["args"]
    hosts = [argument.removeprefix("--host=") for argument in arguments if argument.startswith("--host=")]
    assert hosts == [f"{pod['metadata']['name']}:{slots}" for pod in pods]
    known = {name: alias["ip"] for alias in launcher["spec"]["hostAliases"] for name in alias["hostnames"]}
    assert list(known) == [pod["metadata"]["name"] for pod in pods]
    assert len(set(known.values())) == replicas
    assert f"--world-size={replicas * slots}" in arguments


@pytest.mark.parametrize("stem", TRAININGS)
def test_only_workers_mount_data_and_use_gpus(stem):
    """Only worker 0 mounts the checkpoints; the launcher mounts no claim."""
    training = parse(resource(stem), SITE)

    def claims(pod):
        volumes = (each.get("persistentVolumeClaim") for each in pod["spec"]["volumes"])
        return {each["claimName"] for each in volumes if each}

    assert training.spec.dataset is not None
    launcher = launcher_pod(training, 1, HOSTS)
    assert claims(launcher) == set()
    assert GPU not in json.dumps(launcher)
    assert len(claims(worker_pod(training, 0, 0))) == 2
    assert claims(worker_pod(training, 1, 0)) == {training.spec.dataset.claim_name}


def test_gpus_visible_only_to_workers_requesting_them():
    """All other pods set NVIDIA_VISIBLE_DEVICES to void."""
    blind = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}
    for stem, sees in (("resnext-digits", False), ("resnext-250ep", True)):
        training = parse(resource(stem), SITE)
        pods = (worker_pod(training, 0, 0), launcher_pod(training, 1, HOSTS))
        worker, launcher = (pod["spec"]["containers"][0]["env"] for pod in pods)
        assert (blind not in worker) is sees
        assert blind in launcher


@pytest.mark.parametrize("stem", TRAININGS)
def test_pods_meet_restricted_pod_security(stem):
    """Pods satisfy the Pod Security Standard restricted."""
    training = parse(resource(stem), SITE)
    for pod in (worker_pod(training, 0, 0), launcher_pod(training, 1, HOSTS)):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"persistentVolumeClaim", "emptyDir", "configMap", "secret"}
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_checkpoint_claim_has_no_owner_reference():
    """The claim outlives the training; all other children are owned."""
    training = parse(resource(), SITE)
    owned = {each["kind"]: "ownerReferences" in each["metadata"] for each in shared_objects(training)}
    assert owned.pop("PersistentVolumeClaim") is False
    assert all(owned.values())


def test_config_map_holds_spec_as_written():
    """Only these fields are compared on resume; presets and defaults are in training.json."""
    training = parse(resource("resnext-250ep"), SITE)
    data = config_map(training)["data"]
    assert json.loads(data["written.json"]) == resource("resnext-250ep")["spec"]["training"]
    assert json.loads(data["training.json"])["mixup"] == 0.2


def test_every_pod_has_training_uid():
    """The checkpoint lock uses it; users cannot override the variable."""
    body = resource()
    training = parse(body, SITE)
    for pod in (worker_pod(training, 0, 0), launcher_pod(training, 1, HOSTS)):
        assert {"name": "RESNEXT_TRAINING_UID", "value": training.uid} in pod["spec"]["containers"][0]["env"]
    body["spec"].setdefault("workers", {})["env"] = [{"name": "RESNEXT_TRAINING_UID", "value": "another"}]
    with pytest.raises(InvalidTraining, match="this variable is set by the operator"):
        parse(body, SITE)


def test_trainer_knows_spec_fields():
    """`--config` rejects unknown fields without the operator's models."""
    assert set(SPEC_FIELDS) == {field.alias for field in Spec.model_fields.values()}
