"""The resource: what its schema accepts, and in which words the rest is refused."""

import copy
import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model import HOSTS, SAMPLES, SITE, resource

from resnext_operator import api, crd, names, render
from resnext_operator.__main__ import manifests
from resnext_operator.api import GPU, InvalidTraining
from resnext_operator.ssh import KeyPair, Keys
from resnext_trainer.resource import SPEC_FIELDS

KEYS = Keys(*(KeyPair(f"the {whose} private key", f"the {whose} public key") for whose in ("user's", "host's")))
TRAININGS = sorted(path.stem for path in SAMPLES.glob("resnext-*.yaml"))


def schema():
    return crd.manifest()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def closed(node):
    """The schema in JSON Schema's words: the API server refuses unknown fields, and has int-or-string."""
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
def test_samples_are_accepted_by_schema_and_operator(stem):
    jsonschema.validate(resource(stem)["spec"], SPEC)
    api.parse(resource(stem), SITE)


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
def test_what_the_schema_refuses_the_operator_refuses_too(change):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(resource(**change)["spec"], SPEC)
    with pytest.raises(InvalidTraining):
        api.parse(resource(**change), SITE)


@pytest.mark.parametrize(
    ("change", "field", "way_out"),
    [
        ({"workers": {"slots": 4, "resources": {"limits": {GPU: 8}}}}, "spec.workers.slots", "set slots to the limit"),
        ({"workers": {"resources": {"limits": {GPU: "500m"}}}}, "spec.workers.resources.limits", "GPUs are whole"),
        ({"workers": {"resources": {"limits": {GPU: 0}}}}, "spec.workers.resources.limits", "a number from 1 on"),
        ({"workers": {"resources": {"limits": {GPU: "1.0"}}}}, "spec.workers.resources.limits", "a number from 1 on"),
        ({"launcher": {"resources": {"limits": {GPU: 1}}}}, "spec.launcher.resources", "ask for nvidia.com/gpu in"),
        ({"launcher": {"resources": {"requests": {GPU: 1}}}}, "spec.launcher.resources", "ask for nvidia.com/gpu in"),
        ({"workers": {"env": [{"name": "OMPI_COMM_WORLD_RANK"}]}}, "spec.workers.env[0].name", "leave it out"),
        ({"launcher": {"env": [{"name": "PATH", "value": "/x"}]}}, "spec.launcher.env[0].name", "leave it out"),
        ({"workers": {"volumes": [{"name": "x"}]}}, "spec.workers.volumes[0].name", "write one of"),
        (
            {"workers": {"volumes": [{"name": "x", "emptyDir": {}, "secret": {"secretName": "y"}}]}},
            "spec.workers.volumes[0].name",
            "write one of",
        ),
        (
            {"workers": {"volumes": [{"name": "x", "emptyDir": {}}, {"name": "x", "emptyDir": {}}]}},
            "spec.workers.volumes",
            "rename one",
        ),
        (
            {"workers": {"volumeMounts": [{"name": "x", "mountPath": "/x"}]}},
            "spec.workers.volumeMounts",
            "add it to volumes",
        ),
        (
            {
                "workers": {
                    "volumes": [{"name": "x", "emptyDir": {}}],
                    "volumeMounts": [{"name": "x", "mountPath": "/etc/resnext/ssh"}],
                }
            },
            "spec.workers.volumeMounts[0].mountPath",
            "choose another folder",
        ),
        ({"training": {"device": "gpu"}}, "spec.training.device", GPU),
        (
            {"training": {"device": "cpu"}, "workers": {"resources": {"limits": {GPU: 8}}}},
            "spec.training.device",
            "leave device out",
        ),
        ({"checkpoints": {"claimName": "x", "template": {}}}, "spec.checkpoints.template", "leave out claimName"),
        ({"dataset": None}, "spec.dataset", "set dataset.claimName"),
        ({"training": {"precision": {"mode": "bf16", "lossScale": 8}}}, "spec.training.precision.lossScale", "fp16"),
    ],
    ids=lambda value: value.rpartition(".")[2] if isinstance(value, str) else "",
)
def test_a_wrong_combination_names_the_field_and_the_way_out_in_the_schemas_own_sentence(change, field, way_out):
    with pytest.raises(InvalidTraining) as refusal:
        api.parse(resource(**change), SITE)
    said = str(refusal.value)
    assert said.startswith(f"{field}: ")
    assert way_out in said
    sentences = [rule["message"] for _, node in nodes(SPEC) for rule in node.get("x-kubernetes-validations", ())]
    assert len(sentences) > 20
    assert any(said.endswith(sentence.partition(": ")[2]) for sentence in sentences)


def test_a_name_must_leave_room_for_the_pods_names():
    body = resource()
    body["metadata"]["name"] = "n" * (api.MAX_NAME + 1)
    with pytest.raises(InvalidTraining, match=r"metadata\.name"):
        api.parse(body, SITE)
    assert len(names.worker("n" * api.MAX_NAME, 255, 99_999)) <= 63


def test_nothing_under_spec_has_a_default_so_what_the_user_wrote_stays_visible():
    assert not [path for path, node in nodes(SPEC) if "default" in node]


def test_every_field_has_a_sentence_for_kubectl_explain():
    assert not [".".join(path) for path, node in nodes(SPEC) if "description" not in node and path[-1] != "[]"]


def test_the_definition_is_small_enough_for_plain_kubectl_apply():
    # kubectl keeps a copy in an annotation, and annotations end at 256 KiB.
    assert len(json.dumps(crd.manifest())) < 256 * 1024 * 0.9


def test_printed_columns_are_those_of_the_documentation():
    columns = crd.manifest()["spec"]["versions"][0]["additionalPrinterColumns"]
    always = [each["name"] for each in columns if not each.get("priority")]
    assert always == ["Phase", "Workers", "Epoch", "Images/s", "Top-1", "Progress", "Age"]


@given(replicas=st.integers(1, 64), slots=st.integers(1, 16))
def test_every_host_of_the_launcher_is_a_worker_that_exists(replicas, slots):
    rendered = manifests(resource(workers={"replicas": replicas, "slots": slots}), SITE, KEYS)
    *pods, launcher = (each for each in rendered if each["kind"] == "Pod")
    arguments = launcher["spec"]["containers"][0]["args"]
    hosts = [argument.removeprefix("--host=") for argument in arguments if argument.startswith("--host=")]
    assert hosts == [f"{pod['metadata']['name']}:{slots}" for pod in pods]
    known = {name: alias["ip"] for alias in launcher["spec"]["hostAliases"] for name in alias["hostnames"]}
    assert list(known) == [pod["metadata"]["name"] for pod in pods]
    assert len(set(known.values())) == replicas
    assert f"--world={replicas * slots}" in arguments


@pytest.mark.parametrize("stem", TRAININGS)
def test_only_workers_hold_gpus_and_data_and_only_the_first_the_checkpoints(stem):
    training = api.parse(resource(stem), SITE)

    def claims(pod):
        volumes = (each.get("persistentVolumeClaim") for each in pod["spec"]["volumes"])
        return {each["claimName"] for each in volumes if each}

    launcher = render.launcher_pod(training, 1, HOSTS)
    assert claims(launcher) == set()
    assert GPU not in json.dumps(launcher)
    assert len(claims(render.worker_pod(training, 0, 0))) == 2
    assert claims(render.worker_pod(training, 1, 0)) == {training.spec.dataset.claim_name}


def test_only_workers_that_asked_for_gpus_see_any():
    blind = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}
    for stem, sees in (("resnext-digits", False), ("resnext-250ep", True)):
        training = api.parse(resource(stem), SITE)
        pods = (render.worker_pod(training, 0, 0), render.launcher_pod(training, 1, HOSTS))
        worker, launcher = (pod["spec"]["containers"][0]["env"] for pod in pods)
        assert (blind not in worker) is sees
        assert blind in launcher


@pytest.mark.parametrize("stem", TRAININGS)
def test_pods_keep_to_restricted_pod_security(stem):
    training = api.parse(resource(stem), SITE)
    for pod in (render.worker_pod(training, 0, 0), render.launcher_pod(training, 1, HOSTS)):
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


def test_a_claim_for_checkpoints_has_no_owner_so_it_outlives_the_training():
    training = api.parse(resource(), SITE)
    owned = {each["kind"]: "ownerReferences" in each["metadata"] for each in render.prepared(training)}
    assert owned.pop("PersistentVolumeClaim") is False
    assert all(owned.values())


def test_trainer_knows_the_fields_of_the_spec():
    """`--config` rejects an unknown one without the operator's models."""
    assert set(SPEC_FIELDS) == {field.alias for field in api.Spec.model_fields.values()}
