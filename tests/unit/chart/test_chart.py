"""The Helm chart: permissions, values, settings and generated files."""

import json
import re
from typing import Any

import pytest
import yaml
from pydantic.alias_generators import to_camel

from hack.codegen.files import generated_files
from hack.codegen.reference import chart_values
from resnext_operator.rendering import names
from resnext_operator.runtime.settings import Settings
from tests.support.chart import (
    CHART,
    EVERYTHING,
    Rejected,
    environment,
    helm,
    of_kind,
    pod,
    render,
    with_values,
)


def rules(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for kind in ("Role", "ClusterRole") for role in of_kind(manifests, kind) for rule in role["rules"]]


def test_chart_passes_helm_lint():
    """`helm lint --strict` reports nothing."""
    helm("lint", "--strict", CHART)  # raises on failure


@pytest.mark.parametrize(
    "wrong",
    [
        *("imge=x", "namespaces=demo", "podMonitor.interval=often", "image=a b", "allow.hostPaths={mnt}"),
        *("image=a@sha256:12", "trainerImage=-x", "imagePullSecrets[0].secret=x", "replicas=-1", "replicas=many"),
        *("podDisruptionBudget.maxUnavailable=0", "podDisruptionBudget.minAvailable=1", "crd.keep=perhaps"),
        *("topologySpreadConstraints[0].maxSkew=1", "tolerations[0].taint=NoSchedule", "affinity.nodeAffinit.x=y"),
        *("resources.limit.cpu=1", "resources.limits.memory=4GB", "networkPolicy.apiServerPorts={https}"),
        *("env[0].value=x", "env[0].key=x", "commonLabel.team=x", "commonLabels.team=a b", "priorityClassName=A b"),
        *("runPolicy.backoffLimi=1", "runPolicy.backoffLimit=-1", "runPolicy.cleanPodPolicy=Some"),
        *("prometheusRule.runbookUrl=", "serviceMonitor.period=1s", "dashboard.folders=x", "test.storageClass=x"),
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
    *parents, name = re.sub(r"\[\d+\]", "", wrong.rpartition(",")[2].partition("=")[0]).split(".")
    # An unknown or missing key is reported with the path of its parent.
    named = "|".join([name, *parents[-1:]])
    with pytest.raises(Rejected, match=f"at '[^']*({named})|'({named})'"):
        render("--set", wrong)


ALL, SOME = (), ("--set", "namespaces={one,two}")


@pytest.mark.parametrize("namespaces", [ALL, SOME], ids=["everywhere", "in two namespaces"])
def test_rbac_has_no_wildcard(namespaces):
    """No rule grants all groups, resources or verbs."""
    for rule in rules(render(*namespaces)):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


@pytest.mark.parametrize("namespaces", [ALL, SOME], ids=["everywhere", "in two namespaces"])
def test_rbac_denies_listing_secrets_and_pod_subresources(namespaces):
    """The role allows only get and create for Secrets, and no exec, attach or port-forward."""
    granted = rules(render(*namespaces))
    verbs = {verb for rule in granted if "secrets" in rule["resources"] for verb in rule["verbs"]}
    assert verbs == {"get", "create"}
    assert not {resource for rule in granted for resource in rule["resources"] if resource.startswith("pods/")}


def test_namespaces_value_replaces_cluster_role_by_roles():
    """Each namespace gets a Role and a RoleBinding; no cluster-wide permission remains."""
    manifests = render(*SOME)
    assert not of_kind(manifests, "ClusterRole")
    assert not of_kind(manifests, "ClusterRoleBinding")
    (everywhere,) = of_kind(render(), "ClusterRole")
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
    assert "RESNEXT_NAMESPACES" not in environment(render())


def test_admission_policies_are_off_by_default():
    """If enabled, both policies deny in the given namespaces."""
    assert not of_kind(render(), "ValidatingAdmissionPolicy")
    manifests = render("--set", "admissionPolicy.enabled=true", *SOME)
    policies = of_kind(manifests, "ValidatingAdmissionPolicy")
    bindings = of_kind(manifests, "ValidatingAdmissionPolicyBinding")
    assert len(policies) == 2
    for policy, binding in zip(policies, bindings, strict=True):
        assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
        assert policy["spec"]["failurePolicy"] == "Fail"
        (namespaces,) = policy["spec"]["matchConstraints"]["namespaceSelector"]["matchExpressions"]
        assert namespaces["values"] == ["one", "two"]


def policies(*arguments: str) -> dict[str, Any]:
    manifests = render("--set", "admissionPolicy.enabled=true", *arguments)
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
    assert "request.subResource == 'scale'" in exempt, "changes to the spec are still checked"


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
        *("runPolicy", "identity", "port"),
    }
    assert listed["properties"]["maxConcurrentReconciles"]["minimum"] == 1
    assert listed["properties"]["resyncSeconds"]["exclusiveMinimum"] == 0


@pytest.mark.parametrize("name", sorted(Settings.chart_schema()["properties"]))
def test_setting_reaches_operator_unchanged(name):
    """The operator parses the chart's spelling of the name and of the number."""
    bounds = Settings.chart_schema()["properties"][name]
    variables = environment(render("--set", f"settings.{name}={bounds['maximum']}"))
    Settings.check_names(variables)
    snake = re.sub("([A-Z])", r"_\1", name).lower()
    settings = Settings.from_environment({**variables, "RESNEXT_LEASE_NAMESPACE": "x"})
    assert getattr(settings, snake) == bounds["maximum"]


def test_deployment_sets_no_variable_twice():
    """The API server accepts duplicate names, and the last one wins silently."""
    (container,) = pod(render("--set", "settings.maxApiConnections=3"))["spec"]["containers"]
    names_of = [each["name"] for each in container["env"]]
    assert len(names_of) == len(set(names_of))
    Settings.check_names(dict.fromkeys(names_of, "x"))


def test_host_access_is_off_by_default():
    """hostPath and hostNetwork must be allowed explicitly."""
    variables = environment(render())
    assert "RESNEXT_HOST_PATHS" not in variables
    assert "RESNEXT_HOST_NETWORK" not in variables
    variables = environment(render("--set", "allow.hostPaths={/mnt/a,/mnt/b}", "--set", "allow.hostNetwork=true"))
    settings = Settings.from_environment(variables)
    assert (settings.site.host_paths, settings.site.host_network) == (("/mnt/a", "/mnt/b"), True)


def test_metrics_access_reaches_operator():
    """The operator's label matches the NetworkPolicy of trainings."""
    manifests = render()
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    variables = environment(manifests)
    assert Settings.from_environment({**variables, "RESNEXT_LEASE_NAMESPACE": "x"}).site.metrics_allowed_from == (
        monitoring,
    )
    assert "RESNEXT_METRICS_ALLOWED_FROM" not in environment(render("--set", "networkPolicy.metricsAllowedFrom=null"))
    labels = pod(manifests)["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == names.OPERATOR, "the NetworkPolicy of trainings selects this label"


def test_operator_meets_restricted_pod_security():
    """It also has a memory limit and probes."""
    spec = pod(render())["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["readinessProbe"]
        assert container["livenessProbe"]


def test_sets_of_values_change_every_value():
    """The end-to-end tests validate them on the server, so no value is left out there."""
    changed = {name for values in EVERYTHING.values() for name in _names(values)}
    assert {name for name, _ in chart_values.described(CHART)} == changed
    for values in EVERYTHING.values():
        assert with_values(**values)


def _names(values: dict[str, Any]) -> set[str]:
    """Names as in the reference: labels, lists and the pod's resources are one value each."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    nested = {name for name, default in defaults.items() if isinstance(default, dict) and default}
    return {
        full
        for name, value in values.items()
        for full in ([f"{name}.{key}" for key in value] if name in nested - {"resources"} else [name])
    }


def test_every_value_is_described():
    """The schema and the comments of values.yaml, from which the reference is generated, have the same values."""
    described = dict(chart_values.described(CHART))
    assert not [name for name, text in described.items() if not text]

    def leaves(schema: dict[str, Any], prefix: str = "") -> set[str]:
        nested = {name: each for name, each in schema["properties"].items() if each.get("properties")}
        own = {f"{prefix}{name}" for name in schema["properties"]}
        if prefix:
            return own
        opaque = {"resources", "affinity", "settings", "runPolicy"}
        return (own - nested.keys() | opaque).union(
            *(leaves(each, f"{name}.") for name, each in nested.items() if name not in opaque)
        )

    schema = json.loads((CHART / "values.schema.json").read_text())
    assert described.keys() == leaves(schema) - {"global"}


def test_generated_files_are_current():
    """`make generate` changes nothing."""
    stale = [path.name for path, text in generated_files().items() if not path.is_file() or path.read_text() != text]
    assert not stale, "run `make generate`"
