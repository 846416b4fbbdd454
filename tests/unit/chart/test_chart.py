"""The chart says what it needs and no more, and everything made from the code is fresh."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic.alias_generators import to_camel

from hack.codegen import dashboards
from hack.codegen.chart import helm as helm_binary
from hack.codegen.files import generated_files
from resnext_operator.rendering import names
from resnext_operator.runtime.settings import Settings

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "resnext-operator"


def helm(*arguments: str | Path) -> str:
    done = subprocess.run([helm_binary(), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def rendered(*arguments: str) -> list[dict[str, Any]]:
    text = helm("template", "resnext-operator", CHART, "--namespace", "resnext-system", *arguments)
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def of_kind(manifests: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in manifests if each["kind"] == kind]


def rules(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for kind in ("Role", "ClusterRole") for role in of_kind(manifests, kind) for rule in role["rules"]]


def test_helm_finds_nothing_to_complain_about():
    helm("lint", "--strict", CHART)  # raises on failure


@pytest.mark.parametrize(
    "wrong",
    [
        *("imge=x", "namespaces=demo", "podMonitor.interval=often", "image=", "allow.hostPaths={mnt}"),
        *("networkPolicy.metricsFrom[0].podSelctor.x=y", "admissionPolicy.enabled=perhaps"),
        *("admissionPolicy.scalers=hpa", "settings.resyncSecond=30", "settings.trainerImage=x", "settings.port=1"),
        *("settings.leaseName=x", "settings.reconcilers=0", "settings.reconcilers=many", "settings.hostNetwork=true"),
    ],
)
def test_a_wrong_value_is_refused(wrong):
    with pytest.raises(RuntimeError, match=re.escape(wrong.partition("=")[0].rpartition(".")[2])):
        rendered("--set", wrong)


ALL, SOME = (), ("--set", "namespaces={one,two}")


@pytest.mark.parametrize("namespaces", [ALL, SOME], ids=["everywhere", "in two namespaces"])
def test_no_rule_has_a_wildcard(namespaces):
    for rule in rules(rendered(*namespaces)):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


@pytest.mark.parametrize("namespaces", [ALL, SOME], ids=["everywhere", "in two namespaces"])
def test_secrets_are_never_listed_and_nobody_enters_pods(namespaces):
    granted = rules(rendered(*namespaces))
    verbs = {verb for rule in granted if "secrets" in rule["resources"] for verb in rule["verbs"]}
    assert verbs == {"get", "create"}
    assert not {resource for rule in granted for resource in rule["resources"] if resource.startswith("pods/")}


def test_with_namespaces_there_is_a_role_in_each_and_none_for_the_cluster():
    manifests = rendered(*SOME)
    assert not of_kind(manifests, "ClusterRole")
    assert not of_kind(manifests, "ClusterRoleBinding")
    (everywhere,) = of_kind(rendered(), "ClusterRole")
    roles = {role["metadata"]["namespace"]: role for role in of_kind(manifests, "Role")}
    bindings = {binding["metadata"]["namespace"]: binding for binding in of_kind(manifests, "RoleBinding")}
    for namespace in ("one", "two"):
        assert roles[namespace]["rules"] == everywhere["rules"]
        reference = bindings[namespace]["roleRef"]
        assert (reference["kind"], reference["name"]) == ("Role", roles[namespace]["metadata"]["name"])
        (subject,) = bindings[namespace]["subjects"]
        assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", "resnext-system")
    assert roles.keys() == bindings.keys() == {"one", "two", "resnext-system"}
    assert environment(manifests)["RESNEXT_NAMESPACES"] == "one,two"
    assert "RESNEXT_NAMESPACES" not in environment(rendered())


def environment(manifests):
    (deployment,) = of_kind(manifests, "Deployment")
    return {each["name"]: each.get("value") for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}


def test_nobody_asks_who_the_author_is_unless_told_to():
    assert not of_kind(rendered(), "ValidatingAdmissionPolicy")
    manifests = rendered("--set", "admissionPolicy.enabled=true", *SOME)
    policies = of_kind(manifests, "ValidatingAdmissionPolicy")
    bindings = of_kind(manifests, "ValidatingAdmissionPolicyBinding")
    assert len(policies) == 2
    for policy, binding in zip(policies, bindings, strict=True):
        assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
        assert policy["spec"]["failurePolicy"] == "Fail"
        (namespaces,) = policy["spec"]["matchConstraints"]["namespaceSelector"]["matchExpressions"]
        assert namespaces["values"] == ["one", "two"]


def policies(*arguments: str) -> dict[str, Any]:
    manifests = rendered("--set", "admissionPolicy.enabled=true", *arguments)
    return {each["metadata"]["name"]: each["spec"] for each in of_kind(manifests, "ValidatingAdmissionPolicy")}


def test_scale_needs_the_right_to_create_pods():
    """Scaling creates pods as a changed spec does; only users in admissionPolicy.scalers are exempt."""
    authors = policies()["resnext-operator-authors"]
    (rule,) = authors["matchConstraints"]["resourceRules"]
    assert rule["resources"] == ["resnexttrainings", "resnexttrainings/scale"]
    assert [each["name"] for each in authors["matchConditions"]] == ["makes-pods"]
    hpa = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
    authors = policies("--set", f"admissionPolicy.scalers={{{hpa},alice}}")["resnext-operator-authors"]
    (exempt,) = (each["expression"] for each in authors["matchConditions"] if each["name"] == "no-scaler")
    assert f'request.userInfo.username in ["{hpa}","alice"]' in exempt
    assert "request.subResource == 'scale'" in exempt, "the spec itself stays guarded"


def test_status_is_the_operators_alone_to_write():
    """Whoever writes the status can end a training; an admission policy names the operator's service account."""
    status = policies()["resnext-operator-status"]
    (rule,) = status["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["resnexttrainings/status"], ["UPDATE"])
    (validation,) = status["validations"]
    assert "== 'system:serviceaccount:resnext-system:resnext-operator'" in validation["expression"]


def test_settings_schema_lists_every_field_of_the_class():
    """Each setting of the class is a value of the chart or a key of `settings`, with its bounds, and never both."""
    listed = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]
    assert listed["additionalProperties"] is False
    own = {to_camel(name) for name in Settings.model_fields} - listed["properties"].keys()
    assert own == {
        *("trainerImage", "namespaces", "leaseName", "leaseNamespace", "metricsFrom", "hostPaths", "hostNetwork"),
        *("identity", "port"),
    }
    assert listed["properties"]["reconcilers"]["minimum"] == 1
    assert listed["properties"]["resyncSeconds"]["exclusiveMinimum"] == 0


@pytest.mark.parametrize("name", sorted(Settings.chart_schema()["properties"]))
def test_each_setting_reaches_the_operator_unchanged(name):
    """The chart's spelling of a setting, and of its number, is one that the operator parses."""
    bounds = Settings.chart_schema()["properties"][name]
    told = environment(rendered("--set", f"settings.{name}={bounds['maximum']}"))
    Settings.check_names(told)
    snake = re.sub("([A-Z])", r"_\1", name).lower()
    settings = Settings.from_environment({**told, "RESNEXT_LEASE_NAMESPACE": "x"})
    assert getattr(settings, snake) == bounds["maximum"]


def test_the_deployment_sets_no_variable_twice():
    """A list of variables with one name twice is taken by the API server, and the last one wins silently."""
    (deployment,) = of_kind(rendered("--set", "settings.connections=3"), "Deployment")
    names_of = [each["name"] for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]]
    assert len(names_of) == len(set(names_of))
    Settings.check_names(dict.fromkeys(names_of, "x"))


def test_what_trainings_may_ask_of_their_nodes_is_nothing_by_default():
    told = environment(rendered())
    assert "RESNEXT_HOST_PATHS" not in told
    assert "RESNEXT_HOST_NETWORK" not in told
    told = environment(rendered("--set", "allow.hostPaths={/mnt/a,/mnt/b}", "--set", "allow.hostNetwork=true"))
    settings = Settings.from_environment(told)
    assert (settings.site.host_paths, settings.site.host_network) == (("/mnt/a", "/mnt/b"), True)


def test_the_operator_knows_itself_and_who_reads_metrics():
    manifests = rendered()
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    told = environment(manifests)
    assert Settings.from_environment({**told, "RESNEXT_LEASE_NAMESPACE": "x"}).site.metrics_from == (monitoring,)
    assert "RESNEXT_METRICS_FROM" not in environment(rendered("--set", "networkPolicy.metricsFrom=null"))
    (deployment,) = of_kind(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == names.OPERATOR, "by which a training's NetworkPolicy lets it in"


def test_the_operator_runs_restricted():
    (deployment,) = of_kind(rendered(), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["readinessProbe"]
        assert container["livenessProbe"]


def test_images_and_settings_reach_the_operator():
    manifests = rendered(
        *("--set", "image=here/operator:1", "--set", "trainerImage=here/trainer:2"),
        *("--set", "settings.resyncSeconds=30"),
    )
    (deployment,) = of_kind(manifests, "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "here/operator:1"
    told = environment(manifests)
    assert told["RESNEXT_TRAINER_IMAGE"] == "here/trainer:2"
    assert told["RESNEXT_RESYNC_SECONDS"] == "30"


def test_uninstalling_leaves_the_definition_and_so_every_training():
    (definition,) = of_kind(rendered(), "CustomResourceDefinition")
    assert definition["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert not of_kind(rendered("--set", "crd.install=false"), "CustomResourceDefinition")


def test_pod_monitors_watch_every_rank_when_asked_to():
    assert not of_kind(rendered(), "PodMonitor")
    operator, trainings = of_kind(rendered("--set", "podMonitor.enabled=true"), "PodMonitor")
    assert operator["spec"]["podMetricsEndpoints"][0]["honorLabels"]
    assert len(trainings["spec"]["podMetricsEndpoints"]) == 16


def test_grafana_finds_the_dashboard_by_its_label():
    (dashboard,) = of_kind(rendered(), "ConfigMap")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["resnext.json"])["panels"]


def test_every_generated_file_is_fresh():
    stale = [path.name for path, text in generated_files().items() if not path.is_file() or path.read_text() != text]
    assert not stale, "run `make generate`"


def test_the_dashboard_asks_for_all_metrics_that_the_code_has_and_for_no_other():
    code = "".join(
        (ROOT / name).read_text()
        for name in ("trainer/resnext_trainer/runtime/telemetry.py", "operator/resnext_operator/runtime/metrics.py")
    )
    # telemetry builds its names from parts: counter("images_total", …).
    defined = {f"resnext_train_{name}" for name in re.findall(r'(?:counter|gauge)\(\s*"([a-z_]+)"', code)}
    defined |= set(re.findall(r'"(resnext_[a-z_]+)"', code)) - {"resnext_train"} | {"resnext_train_info"}
    asked = set(re.findall(r"resnext_[a-z0-9_]+", dashboards.resnext()))
    assert {name.removesuffix("_bucket") for name in asked} == defined
