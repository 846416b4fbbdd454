"""Where workers may go: what the user asks for, what is there without, and what both become with a node avoided."""

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


def test_workers_spread_over_nodes_unless_a_node_is_avoided():
    (constraint,) = worker()["topologySpreadConstraints"]
    assert constraint == {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": OWN,
    }
    assert "affinity" not in worker()
    assert "topologySpreadConstraints" not in worker("node-1")


def test_a_spread_of_the_users_replaces_ours_and_counts_the_trainings_workers():
    wanted = {"maxSkew": 2, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", "minDomains": 2}
    for avoided in ((), ("node-1",)):
        assert worker(*avoided, topologySpreadConstraints=[wanted])["topologySpreadConstraints"] == [
            wanted | {"labelSelector": OWN}
        ]
    assert "topologySpreadConstraints" not in worker(topologySpreadConstraints=[])
    of_all = worker(topologySpreadConstraints=[wanted | {"labelSelector": {}}])
    assert of_all["topologySpreadConstraints"] == [wanted | {"labelSelector": {}}]


def test_affinity_is_the_pods_own_and_a_missing_selector_means_the_trainings_workers():
    wanted = {
        "nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [A100]}},
        "podAffinity": {PREFERRED: [{"weight": 50, "podAffinityTerm": {"topologyKey": ZONE}}]},
        "podAntiAffinity": {REQUIRED: [{"topologyKey": "rack", "labelSelector": {"matchLabels": {"app": "noisy"}}}]},
    }
    near = {"weight": 50, "podAffinityTerm": {"topologyKey": ZONE, "labelSelector": OWN}}
    assert worker(affinity=wanted)["affinity"] == wanted | {"podAffinity": {PREFERRED: [near]}}


def test_an_avoided_node_is_added_to_what_the_user_wants():
    wanted = {
        "nodeAffinity": {
            REQUIRED: {"nodeSelectorTerms": [A100]},
            PREFERRED: [{"weight": 1, "preference": A100}],
        }
    }
    affinity = worker("node-1", "node-2", affinity=wanted)["affinity"]["nodeAffinity"]
    assert affinity[REQUIRED] == wanted["nodeAffinity"][REQUIRED]
    first, avoided = affinity[PREFERRED]
    assert first == wanted["nodeAffinity"][PREFERRED][0]
    assert [each["values"] for each in avoided["preference"]["matchFields"]] == [["node-1"], ["node-2"]]


def test_the_launcher_has_an_affinity_of_its_own():
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
        (required(operator="In"), "Exists and DoesNotExist take no values"),
        (required(operator="Exists", values=["b"]), "Exists and DoesNotExist take no values"),
        (required(operator="Gt", values=["1", "2"]), "compare with one value: write one"),
        ({"affinity": {"podAffinity": {REQUIRED: [{}]}}}, "topologyKey: Required value"),
        ({"topologySpreadConstraints": [{"topologyKey": ZONE}]}, "maxSkew: Required value"),
    ],
    ids=str,
)
def test_what_no_pod_could_have_is_refused(workers, sentence):
    with pytest.raises(InvalidTraining, match=sentence):
        worker(**workers)


def test_the_schema_takes_what_pods_take():
    spec = crd.manifest()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    workers = spec["properties"]["workers"]
    wanted = {"affinity": {"nodeAffinity": {PREFERRED: [{"weight": 100, "preference": A100}]}}}
    jsonschema.validate(wanted, workers)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"affinity": {"nodeAffinity": {PREFERRED: [{"weight": 101, "preference": A100}]}}}, workers)
