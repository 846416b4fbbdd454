"""The Helm chart: permissions, values, settings and generated files."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic.alias_generators import to_camel

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


def test_chart_passes_helm_lint():
    """`helm lint --strict` reports nothing."""
    helm("lint", "--strict", CHART)  # raises on failure


@pytest.mark.parametrize(
    "wrong",
    [
        *("imge=x", "namespaces=demo", "podMonitor.interval=often", "image=", "allow.hostPaths={mnt}"),
        *("networkPolicy.metricsAllowedFrom[0].podSelctor.x=y", "admissionPolicy.enabled=perhaps"),
        *("admissionPolicy.scalers=hpa", "settings.resyncSecond=30", "settings.trainerImage=x", "settings.port=1"),
        *(
            "settings.leaseName=x",
            "settings.maxConcurrentReconciles=0",
            "settings.maxConcurrentReconciles=many",
            "settings.hostNetwork=true",
        ),
    ],
)
def test_invalid_value_is_rejected(wrong):
    """The error names the value."""
    with pytest.raises(RuntimeError, match=re.escape(wrong.partition("=")[0].rpartition(".")[2])):
        rendered("--set", wrong)


ALL, SOME = (), ("--set", "namespaces={one,two}")


@pytest.mark.parametrize("namespaces", [ALL, SOME], ids=["everywhere", "in two namespaces"])
def test_rbac_has_no_wildcard(namespaces):
    """No rule grants all groups, resources or verbs."""
    for rule in rules(rendered(*namespaces)):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


@pytest.mark.parametrize("namespaces", [ALL, SOME], ids=["everywhere", "in two namespaces"])
def test_rbac_denies_listing_secrets_and_pod_subresources(namespaces):
    """Secrets: get and create only; no exec, attach or port-forward."""
    granted = rules(rendered(*namespaces))
    verbs = {verb for rule in granted if "secrets" in rule["resources"] for verb in rule["verbs"]}
    assert verbs == {"get", "create"}
    assert not {resource for rule in granted for resource in rule["resources"] if resource.startswith("pods/")}


def test_namespaces_value_replaces_cluster_role_by_roles():
    """Each namespace gets a Role and a RoleBinding; no cluster-wide permission remains."""
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


def test_admission_policies_are_off_by_default():
    """If enabled, both policies deny in the given namespaces."""
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


def test_scale_requires_permission_to_create_pods():
    """Only users in admissionPolicy.scalers are exempt."""
    authors = policies()["resnext-operator-authors"]
    (rule,) = authors["matchConstraints"]["resourceRules"]
    assert rule["resources"] == ["resnexttrainings", "resnexttrainings/scale"]
    assert [each["name"] for each in authors["matchConditions"]] == ["makes-pods"]
    hpa = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
    authors = policies("--set", f"admissionPolicy.scalers={{{hpa},alice}}")["resnext-operator-authors"]
    (exempt,) = (each["expression"] for each in authors["matchConditions"] if each["name"] == "no-scaler")
    assert f'request.userInfo.username in ["{hpa}","alice"]' in exempt
    assert "request.subResource == 'scale'" in exempt, "changes of the spec are still checked"


def test_only_operator_may_write_status():
    """An admission policy names the operator's service account."""
    status = policies()["resnext-operator-status"]
    (rule,) = status["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["resnexttrainings/status"], ["UPDATE"])
    (validation,) = status["validations"]
    assert "== 'system:serviceaccount:resnext-system:resnext-operator'" in validation["expression"]


def test_settings_schema_lists_every_setting():
    """Each setting is a chart value or a key of `settings`, with bounds, never both."""
    listed = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]
    assert listed["additionalProperties"] is False
    own = {to_camel(name) for name in Settings.model_fields} - listed["properties"].keys()
    assert own == {
        *(
            "trainerImage",
            "namespaces",
            "leaseName",
            "leaseNamespace",
            "metricsAllowedFrom",
            "hostPaths",
            "hostNetwork",
        ),
        *("identity", "port"),
    }
    assert listed["properties"]["maxConcurrentReconciles"]["minimum"] == 1
    assert listed["properties"]["resyncSeconds"]["exclusiveMinimum"] == 0


@pytest.mark.parametrize("name", sorted(Settings.chart_schema()["properties"]))
def test_setting_reaches_operator_unchanged(name):
    """The operator parses the chart's spelling of the name and of the number."""
    bounds = Settings.chart_schema()["properties"][name]
    variables = environment(rendered("--set", f"settings.{name}={bounds['maximum']}"))
    Settings.check_names(variables)
    snake = re.sub("([A-Z])", r"_\1", name).lower()
    settings = Settings.from_environment({**variables, "RESNEXT_LEASE_NAMESPACE": "x"})
    assert getattr(settings, snake) == bounds["maximum"]


def test_deployment_sets_no_variable_twice():
    """The API server accepts duplicate names, and the last one wins silently."""
    (deployment,) = of_kind(rendered("--set", "settings.maxApiConnections=3"), "Deployment")
    names_of = [each["name"] for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]]
    assert len(names_of) == len(set(names_of))
    Settings.check_names(dict.fromkeys(names_of, "x"))


def test_host_access_is_off_by_default():
    """hostPath and hostNetwork must be allowed explicitly."""
    variables = environment(rendered())
    assert "RESNEXT_HOST_PATHS" not in variables
    assert "RESNEXT_HOST_NETWORK" not in variables
    variables = environment(rendered("--set", "allow.hostPaths={/mnt/a,/mnt/b}", "--set", "allow.hostNetwork=true"))
    settings = Settings.from_environment(variables)
    assert (settings.site.host_paths, settings.site.host_network) == (("/mnt/a", "/mnt/b"), True)


def test_metrics_access_reaches_operator():
    """The operator's label matches the NetworkPolicy of trainings."""
    manifests = rendered()
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    variables = environment(manifests)
    assert Settings.from_environment({**variables, "RESNEXT_LEASE_NAMESPACE": "x"}).site.metrics_allowed_from == (
        monitoring,
    )
    assert "RESNEXT_METRICS_ALLOWED_FROM" not in environment(rendered("--set", "networkPolicy.metricsAllowedFrom=null"))
    (deployment,) = of_kind(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == names.OPERATOR, "the NetworkPolicy of trainings selects this label"


def test_operator_meets_restricted_pod_security():
    """It also has a memory limit and probes."""
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


def test_images_and_settings_reach_operator():
    """The values are set as image and environment variables."""
    manifests = rendered(
        *("--set", "image=here/operator:1", "--set", "trainerImage=here/trainer:2"),
        *("--set", "settings.resyncSeconds=30"),
    )
    (deployment,) = of_kind(manifests, "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "here/operator:1"
    variables = environment(manifests)
    assert variables["RESNEXT_TRAINER_IMAGE"] == "here/trainer:2"
    assert variables["RESNEXT_RESYNC_SECONDS"] == "30"


def test_uninstall_keeps_definition():
    """The CRD has the resource policy keep, so trainings survive."""
    (definition,) = of_kind(rendered(), "CustomResourceDefinition")
    assert definition["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert not of_kind(rendered("--set", "crd.install=false"), "CustomResourceDefinition")


def test_pod_monitors_cover_every_rank():
    """They are off by default."""
    assert not of_kind(rendered(), "PodMonitor")
    operator, trainings = of_kind(rendered("--set", "podMonitor.enabled=true"), "PodMonitor")
    assert operator["spec"]["podMetricsEndpoints"][0]["honorLabels"]
    assert len(trainings["spec"]["podMetricsEndpoints"]) == 16


def test_dashboard_has_grafana_label():
    """Grafana's sidecar finds the ConfigMap by this label."""
    (dashboard,) = of_kind(rendered(), "ConfigMap")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert len(dashboard["data"]) == 3
    assert all(json.loads(text)["panels"] for text in dashboard["data"].values())


def test_generated_files_are_current():
    """`make generate` changes nothing."""
    stale = [path.name for path, text in generated_files().items() if not path.is_file() or path.read_text() != text]
    assert not stale, "run `make generate`"
