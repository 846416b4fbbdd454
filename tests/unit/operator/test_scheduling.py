"""Scheduling constraints of workers: defaults, the user's, and avoided nodes."""

import jsonschema
import pytest

from resnext_operator.api import crd
from resnext_operator.api.validation import InvalidTraining, parse
from resnext_operator.rendering.pods import launcher_pod, worker_pod
from tests.support.fake_cluster import HOSTS, SITE, resource

OWN = {"matchLabels": {"resnext.dev/training": "resnext-digits", "resnext.dev/role": "worker"}}
ZONE = "topology.kubernetes.io/zone"
REQUIRED, PREFERRED = (f"{how}DuringSchedulingIgnoredDuringExecution" for how in ("required", "preferred"))
A100 = {"matchExpressions": [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["A100"]}]}


def worker(*avoided, **workers):
    given = resource()["spec"]["workers"]
    training = parse(resource(workers=given | workers), SITE)
    return worker_pod(training, 0, 0, avoided=avoided)["spec"]


def test_workers_spread_over_nodes_by_default():
    """The default constraint is dropped when a node is avoided."""
    (constraint,) = worker()["topologySpreadConstraints"]
    assert constraint == {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": OWN,
    }
    assert "affinity" not in worker()
    assert "topologySpreadConstraints" not in worker("node-1")


def test_user_topology_spread_replaces_default():
    """A missing labelSelector is set to the training's workers."""
    wanted = {"maxSkew": 2, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", "minDomains": 2}
    for avoided in ((), ("node-1",)):
        assert worker(*avoided, topologySpreadConstraints=[wanted])["topologySpreadConstraints"] == [
            wanted | {"labelSelector": OWN}
        ]
    assert "topologySpreadConstraints" not in worker(topologySpreadConstraints=[])
    of_all = worker(topologySpreadConstraints=[wanted | {"labelSelector": {}}])
    assert of_all["topologySpreadConstraints"] == [wanted | {"labelSelector": {}}]


def test_user_affinity_kept_and_selector_defaulted():
    """A missing labelSelector is set to the training's workers."""
    wanted = {
        "nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [A100]}},
        "podAffinity": {PREFERRED: [{"weight": 50, "podAffinityTerm": {"topologyKey": ZONE}}]},
        "podAntiAffinity": {REQUIRED: [{"topologyKey": "rack", "labelSelector": {"matchLabels": {"app": "noisy"}}}]},
    }
    near = {"weight": 50, "podAffinityTerm": {"topologyKey": ZONE, "labelSelector": OWN}}
    assert worker(affinity=wanted)["affinity"] == wanted | {"podAffinity": {PREFERRED: [near]}}


def test_avoided_node_added_to_user_affinity():
    """Avoided nodes are a preference next to the user's own terms."""
    required, preferred = {"nodeSelectorTerms": [A100]}, {"weight": 1, "preference": A100}
    wanted = {"nodeAffinity": {REQUIRED: required, PREFERRED: [preferred]}}
    affinity = worker("node-1", "node-2", affinity=wanted)["affinity"]["nodeAffinity"]
    assert affinity[REQUIRED] == required
    first, avoided = affinity[PREFERRED]
    assert first == preferred
    assert [each["values"] for each in avoided["preference"]["matchFields"]] == [["node-1"], ["node-2"]]


def test_launcher_affinity_is_separate():
    """The launcher's affinity does not apply to workers."""
    affinity = {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [A100]}}}
    training = parse(resource(launcher={"affinity": affinity}), SITE)
    assert launcher_pod(training, 1, HOSTS)["spec"]["affinity"] == affinity
    assert "affinity" not in worker_pod(training, 0, 0)["spec"]


def required(**requirement):
    terms = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", **requirement}]}]}
    return {"affinity": {"nodeAffinity": {REQUIRED: terms}}}


@pytest.mark.parametrize(
    ("workers", "sentence"),
    [
        (required(operator="In"), "must be empty if operator is Exists or DoesNotExist"),
        (required(operator="Exists", values=["b"]), "must be empty if operator is Exists or DoesNotExist"),
        (required(operator="Gt", values=["1", "2"]), "exactly one element"),
        ({"affinity": {"podAffinity": {REQUIRED: [{}]}}}, "topologyKey: Required value"),
        ({"topologySpreadConstraints": [{"topologyKey": ZONE}]}, "maxSkew: Required value"),
    ],
    ids=str,
)
def test_invalid_scheduling_fields_are_rejected(workers, sentence):
    """Fields that no pod could have are rejected with a message."""
    with pytest.raises(InvalidTraining, match=sentence):
        worker(**workers)


def test_schema_accepts_pod_affinity():
    """The schema has the bounds of the pod API."""
    spec = crd.manifest()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    workers = spec["properties"]["workers"]
    wanted = {"affinity": {"nodeAffinity": {PREFERRED: [{"weight": 100, "preference": A100}]}}}
    jsonschema.validate(wanted, workers)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"affinity": {"nodeAffinity": {PREFERRED: [{"weight": 101, "preference": A100}]}}}, workers)
