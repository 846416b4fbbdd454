"""The chart says what it needs and no more, and everything made from the code is fresh."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "resnext-operator"
sys.path.insert(0, str(ROOT / "charts"))

import generate  # noqa: E402


def helm(*arguments: str | Path) -> str:
    done = subprocess.run([generate.helm(), *map(str, arguments)], capture_output=True, text=True)
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
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART)


@pytest.mark.parametrize("wrong", ["imge=x", "namespaces=demo", "podMonitor.interval=often", "image="])
def test_a_wrong_value_is_refused(wrong):
    with pytest.raises(RuntimeError, match=re.escape(wrong.partition("=")[0].rpartition(".")[2])):
        rendered("--set", wrong)


def test_no_rule_has_a_wildcard():
    for rule in rules(rendered()):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


def test_secrets_are_never_listed():
    verbs = {verb for rule in rules(rendered()) if "secrets" in rule["resources"] for verb in rule["verbs"]}
    assert verbs == {"get", "create"}


def test_with_namespaces_there_are_rights_in_these_alone():
    manifests = rendered("--set", "namespaces={one,two}")
    assert not of_kind(manifests, "ClusterRoleBinding")
    assert {"one", "two"} <= {binding["metadata"]["namespace"] for binding in of_kind(manifests, "RoleBinding")}
    (deployment,) = of_kind(manifests, "Deployment")
    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "RESNEXT_NAMESPACES", "value": "one,two"} in environment


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
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["RESNEXT_TRAINER_IMAGE"] == "here/trainer:2"
    assert environment["RESNEXT_RESYNC_SECONDS"] == "30"


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
    stale = [path.name for path, text in generate.files().items() if not path.is_file() or path.read_text() != text]
    assert not stale, "run `make generate`"


def test_the_dashboard_asks_for_all_metrics_that_the_code_has_and_for_no_other():
    code = "".join(
        (ROOT / name).read_text()
        for name in ("trainer/resnext_trainer/telemetry.py", "operator/resnext_operator/metrics.py")
    )
    # telemetry builds its names from parts: counter("images_total", …).
    defined = {f"resnext_train_{name}" for name in re.findall(r'(?:counter|gauge)\(\s*"([a-z_]+)"', code)}
    defined |= set(re.findall(r'"(resnext_[a-z_]+)"', code)) - {"resnext_train"} | {"resnext_train_info"}
    asked = set(re.findall(r"resnext_[a-z0-9_]+", generate.dashboards.resnext()))
    assert {name.removesuffix("_bucket") for name in asked} == defined
