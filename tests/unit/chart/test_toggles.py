"""Each value of the chart has the documented effect, and has no effect by default."""

import functools
import json
import operator
import re
import shutil

import pytest
import yaml

from resnext_operator.api.validation import parse
from resnext_operator.rendering import names
from resnext_operator.runtime.settings import Settings
from tests.support.chart import (
    CHART,
    ROOT,
    Rejected,
    environment,
    helm,
    is_hook,
    of_kind,
    pod,
    render,
    template,
    the,
    with_values,
)
from tests.support.fake_cluster import resource

SELECTOR = {"app.kubernetes.io/name": "resnext-operator", "app.kubernetes.io/instance": "resnext-operator"}
DIGEST = "registry.example/resnext-operator:1@sha256:" + "0123456789abcdef" * 4
PEER = {"namespaceSelector": {"matchLabels": {"team": "metrics"}}}


class TestImages:
    @pytest.mark.parametrize(
        ("values", "missing"),
        [
            ({}, ["image", "trainerImage"]),
            ({"image": "a"}, ["trainerImage"]),
            ({"trainerImage": "a"}, ["image"]),
            ({"image": None, "trainerImage": "a"}, ["image"]),
        ],
    )
    def test_missing_image_fails_with_advice(self, values, missing):
        """The chart has no default images, because nodes could not pull them; the message says what to set."""
        with pytest.raises(Rejected) as failure:
            template("--set-json", json.dumps(values))
        message = str(failure.value)
        assert f"{' and '.join(missing)} not set: build the images" in message
        for name in ("image", "trainerImage"):
            assert (f"--set {name}=REGISTRY/" in message) is (name in missing)

    def test_digest_and_pull_secrets_reach_pod(self):
        """The reference is used unchanged; the trainer's reaches the operator."""
        manifests = with_values(image=DIGEST, trainerImage=DIGEST, imagePullSecrets=[{"name": "registry"}])
        spec = pod(manifests)["spec"]
        assert spec["containers"][0]["image"] == DIGEST
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert environment(manifests)["RESNEXT_TRAINER_IMAGE"] == DIGEST
        assert "imagePullSecrets" not in pod(render())["spec"]


class TestDefinition:
    def test_chart_installs_same_definition_as_file(self):
        """The definition is a template, so that helm upgrades it; uninstalling keeps it and all trainings."""
        installed = the(render(), "CustomResourceDefinition", "resnexttrainings.resnext.dev")
        assert installed["spec"] == yaml.safe_load((ROOT / "manifests" / "crd.yaml").read_text())["spec"]
        assert installed["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        assert installed["metadata"]["name"] == "resnexttrainings.resnext.dev"
        assert not list(CHART.glob("crds/*")), "helm never upgrades definitions in crds/"

    def test_crd_keep_false_lets_uninstall_delete_it(self):
        """The CRD has no annotation that makes helm keep it."""
        installed = the(with_values(crd={"keep": False}), "CustomResourceDefinition", "resnexttrainings.resnext.dev")
        assert "annotations" not in installed["metadata"]

    def test_crd_install_false_leaves_it_out(self):
        """All other objects are unchanged."""
        without = with_values(crd={"install": False})
        assert not of_kind(without, "CustomResourceDefinition")
        assert len(without) == len(render()) - 1

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({}, "keeps the CustomResourceDefinition and all trainings"),
            ({}, "--take-ownership to `helm install`"),
            ({"crd.keep": "false"}, "deletes the CustomResourceDefinition and all trainings"),
            ({"crd.install": "false"}, "kubectl apply --server-side -f manifests/crd.yaml"),
            ({"crd.install": "false"}, "crd.install=true --take-ownership --force-conflicts"),
        ],
    )
    def test_notes_say_who_manages_definition(self, values, words):
        """NOTES.txt has the commands for each case."""
        assert words in notes(**values)


def notes(**values: str) -> str:
    """NOTES.txt, as `helm install` prints it."""
    given = {"image": "operator:1", "trainerImage": "trainer:2", **values}
    flags = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    return helm("install", "it", CHART, "--namespace", "ml", "--dry-run=client", *flags).partition("\nNOTES:\n")[2]


class TestNotes:
    def test_commands_name_release_and_images(self):
        """They can be copied: namespace, release and trainer image are those of the installation."""
        text = notes(namespaces="{a,b}")
        assert "watches the namespaces a, b" in text
        assert "kubectl -n ml rollout status deployment/it" in text
        assert "helm test it -n ml" in text
        assert 'sed "s|image: resnext-trainer|image: trainer:2|" manifests/samples/digits-dataset.yaml' in text
        for file in re.findall(r"manifests/\S+\.yaml|docs/\S+\.md", text):
            assert (ROOT / file).is_file()

    def test_missing_scraping_is_mentioned(self):
        """The notes mention scraping only if nothing scrapes the metrics."""
        assert "set podMonitor.enabled=true" in notes()
        assert "podMonitor" not in notes(**{"podMonitor.enabled": "true"})


class TestAvailability:
    def test_replicas_above_one_get_disruption_budget(self):
        """With one replica, a budget would have no effect or block the drain of the node."""
        assert not of_kind(render(), "PodDisruptionBudget")
        two = with_values(replicas=2, podDisruptionBudget={"maxUnavailable": "50%"})
        assert the(two, "Deployment")["spec"]["replicas"] == 2
        assert the(two, "PodDisruptionBudget")["spec"] == {
            "maxUnavailable": "50%",
            "selector": {"matchLabels": SELECTOR},
        }
        off = with_values(replicas=2, podDisruptionBudget={"enabled": False})
        assert not of_kind(off, "PodDisruptionBudget")

    def test_spread_selects_operator_pods(self):
        """A selector that the user wrote is kept."""
        own = {"matchLabels": {"a": "b"}}
        constraint = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
        constraints = [constraint, {**constraint, "labelSelector": own}]
        first, second = pod(with_values(topologySpreadConstraints=constraints))["spec"]["topologySpreadConstraints"]
        assert first == {**constraint, "labelSelector": {"matchLabels": SELECTOR}}
        assert second["labelSelector"] == own

    def test_scheduling_values_reach_pod(self):
        """The pod has the given priority class, node selector, tolerations, affinity and resources."""
        values = {
            "priorityClassName": "system-cluster-critical",
            "nodeSelector": {"pool": "system"},
            "tolerations": [{"key": "a", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        }
        spec = pod(with_values(**values, resources={"limits": {"memory": "1Gi"}}))["spec"]
        assert {name: spec[name] for name in values} == values
        assert spec["containers"][0]["resources"]["limits"] == {"memory": "1Gi"}
        assert not values.keys() & pod(render())["spec"].keys()


class TestMetadata:
    def test_common_labels_and_annotations_on_all(self):
        """Pods and hooks have them too; selectors do not, because selectors are immutable."""
        values = {"commonLabels": {"team": "ml", "app.kubernetes.io/name": "x"}, "commonAnnotations": {"note": "y"}}
        enabled = {each: {"enabled": True} for each in ("admissionPolicy", "networkPolicy", "serviceMonitor")}
        manifests = with_values(**values, **enabled, podMonitor={"enabled": True}, replicas=2)
        for each in [*manifests, pod(manifests)]:
            assert each["metadata"]["labels"]["team"] == "ml", each["metadata"]
            assert each["metadata"]["labels"]["app.kubernetes.io/name"] != "x"
            assert each["metadata"]["annotations"]["note"] == "y", each["metadata"]
        assert the(manifests, "Deployment")["spec"]["selector"]["matchLabels"] == SELECTOR

    def test_null_removes_default_value(self):
        """A null value removes a default, as Helm documents, and the templates still render."""
        removed = ("commonLabels", "commonAnnotations", "podLabels", "podAnnotations", "tolerations", "env", "settings")
        assert with_values(**dict.fromkeys(removed)) == render()

    def test_pod_labels_annotations_and_env_reach_pod(self):
        """They are added to those of the chart."""
        variable = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
        annotations = {"podAnnotations": {"c": "d"}, "serviceAccount": {"annotations": {"role": "arn"}}}
        manifests = with_values(
            podLabels={"a": "b"}, env=[{"name": "HTTPS_PROXY", "value": "p"}, variable], **annotations
        )
        metadata, (container,) = pod(manifests)["metadata"], pod(manifests)["spec"]["containers"]
        assert metadata["labels"].items() >= {"a": "b", **SELECTOR}.items()
        assert metadata["annotations"] == {"c": "d"}
        assert container["env"][-2:] == [{"name": "HTTPS_PROXY", "value": "p"}, variable]
        assert the(manifests, "ServiceAccount")["metadata"]["annotations"] == {"role": "arn"}

    def test_settings_in_env_are_rejected(self):
        """Settings have their own chart values, which are validated."""
        with pytest.raises(Rejected, match=r"env\[1\]\.name: RESNEXT_PORT: .* use the value `settings`"):
            with_values(env=[{"name": "A"}, {"name": "RESNEXT_PORT", "value": "1"}])


class TestOperatorNetworkPolicy:
    def test_policy_allows_only_needed_connections(self):
        """The policy allows egress to the API server and the ranks, and ingress from the peers that may scrape."""
        assert not of_kind(render(), "NetworkPolicy")
        spec = the(
            with_values(
                networkPolicy={"enabled": True, "metricsAllowedFrom": [PEER], "apiServerPorts": [8443]},
            ),
            "NetworkPolicy",
        )["spec"]
        assert spec["podSelector"] == {"matchLabels": SELECTOR}
        assert spec["ingress"] == [{"from": [PEER], "ports": [{"port": "metrics"}]}]
        api_server, ranks = spec["egress"]
        assert api_server == {"ports": [{"port": 8443}]}
        assert ranks["ports"] == [{"port": names.METRICS_PORT, "endPort": names.METRICS_PORT + 15}]
        assert ranks["to"][0]["podSelector"]["matchLabels"] == {names.ROLE: "worker"}

    def test_no_peers_means_no_incoming_connection(self):
        """An empty rule would allow all."""
        none = with_values(networkPolicy={"enabled": True, "metricsAllowedFrom": []})
        assert the(none, "NetworkPolicy")["spec"]["ingress"] == []

    def test_host_network_ranks_are_reached_by_port(self):
        """A selector does not match pods in the network of their node."""
        policy = the(with_values(networkPolicy={"enabled": True}, allow={"hostNetwork": True}), "NetworkPolicy")
        assert "to" not in policy["spec"]["egress"][1]


class TestMonitoring:
    def test_scrape_annotations_name_metrics_port(self):
        """The annotations serve a Prometheus that discovers pods by annotations."""
        manifests = with_values(scrapeAnnotations={"enabled": True})
        (port,) = pod(manifests)["spec"]["containers"][0]["ports"]
        assert pod(manifests)["metadata"]["annotations"] == {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(port["containerPort"]),
            "prometheus.io/path": "/metrics",
        }
        assert "annotations" not in pod(render())["metadata"]

    def test_pod_monitors_cover_every_rank(self):
        """They have the labels that Prometheus selects, and are off by default."""
        assert not of_kind(render(), "PodMonitor")
        manifests = with_values(podMonitor={"enabled": True, "interval": "5s", "labels": {"release": "prometheus"}})
        operator, trainings = of_kind(manifests, "PodMonitor")
        assert operator["spec"]["podMetricsEndpoints"][0]["honorLabels"]
        endpoints = trainings["spec"]["podMetricsEndpoints"]
        assert [each["port"] for each in endpoints] == [f"metrics-{rank}" for rank in range(16)]
        assert {each["interval"] for each in endpoints} == {"5s"}
        for each in (operator, trainings):
            assert each["metadata"]["labels"]["release"] == "prometheus"

    def test_pod_monitor_covers_only_watched_namespaces(self):
        """Prometheus may have no access to others."""
        manifests = with_values(podMonitor={"enabled": True}, namespaces=["a", "b"])
        trainings = the(manifests, "PodMonitor", "resnext-operator-trainings")
        assert trainings["spec"]["namespaceSelector"] == {"matchNames": ["a", "b"]}

    def test_service_monitor_replaces_pod_monitor(self):
        """Otherwise the operator's series would exist twice."""
        both = with_values(serviceMonitor={"enabled": True, "labels": {"a": "b"}}, podMonitor={"enabled": True})
        assert [each["metadata"]["name"] for each in of_kind(both, "PodMonitor")] == ["resnext-operator-trainings"]
        monitor, service = the(both, "ServiceMonitor"), the(both, "Service", "resnext-operator-metrics")
        assert monitor["metadata"]["labels"]["a"] == "b"
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        (port,) = service["spec"]["ports"]
        assert monitor["spec"]["endpoints"][0]["port"] == port["name"]
        assert port["targetPort"] in [each["name"] for each in pod(both)["spec"]["containers"][0]["ports"]]
        assert service["spec"]["selector"] == SELECTOR
        assert not of_kind(render(), "Service")

    def test_rules_are_loaded_with_runbook_url(self, tmp_path):
        """Each file becomes a PrometheusRule; Prometheus templates are unchanged."""
        text = """\
groups:
  - name: resnext
    rules:
      - alert: It
        expr: up == 0
        annotations:
          summary: "{{ $labels.training }} is {{ $value }}"
          runbook_url: RUNBOOK_URL#it
"""
        chart = shutil.copytree(CHART, tmp_path / "chart")
        (chart / "files" / "rules").mkdir(exist_ok=True)
        (chart / "files" / "rules" / "it.yaml").write_text(text)
        values = {"enabled": True, "labels": {"a": "b"}, "runbookUrl": "https://wiki.example/runbook"}
        manifests = render("--set-json", json.dumps({"prometheusRule": values}), chart=chart)
        rule = the(manifests, "PrometheusRule", "resnext-operator-it")
        assert rule["metadata"]["labels"]["a"] == "b"
        assert rule["spec"] == yaml.safe_load(text.replace("RUNBOOK_URL", "https://wiki.example/runbook"))
        assert not of_kind(render(chart=chart), "PrometheusRule")

    def test_each_dashboard_has_config_map(self):
        """Each ConfigMap has the label by which Grafana's sidecar finds it, and the folder."""
        files = sorted(CHART.glob("files/dashboards/*.json"))
        found = of_kind(with_values(dashboard={"folder": "ML", "folderAnnotation": "folder"}), "ConfigMap")
        assert [json.loads(each["data"][file.name]) for each, file in zip(found, files, strict=True)] == [
            json.loads(file.read_text()) for file in files
        ]
        for each in found:
            assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
            assert each["metadata"]["annotations"] == {"folder": "ML"}
        assert all("annotations" not in each["metadata"] for each in of_kind(render(), "ConfigMap"))
        assert not of_kind(with_values(dashboard={"enabled": False}), "ConfigMap")


class TestTrainings:
    def test_run_policy_applies_to_unset_fields(self):
        """A training's own fields take precedence."""
        variables = environment(with_values(runPolicy={"backoffLimit": 2, "ttlSecondsAfterFinished": 60}))
        site = Settings.from_environment({**variables, "RESNEXT_LEASE_NAMESPACE": "x"}).site
        policy = parse(resource(runPolicy={"backoffLimit": 4}), site).spec.run_policy
        assert (policy.backoff_limit, policy.ttl_seconds_after_finished, policy.avoid_nodes_after) == (4, 60, 2)
        assert "RESNEXT_RUN_POLICY" not in environment(render())


class TestHelmTest:
    @pytest.mark.parametrize("namespaces", [[], ["vision", "speech"]])
    def test_hooks_train_on_cpu_in_watched_namespace(self, namespaces):
        """The training is valid, needs no GPU, and leaves nothing behind."""
        manifests = with_values(namespaces=namespaces, test={"storageClassName": "fast"})
        hooks = {each["kind"]: each for each in manifests if is_hook(each)}
        where = (namespaces or ["resnext-system"])[0]
        training, claim, watch = hooks["ResNeXtTraining"], hooks["PersistentVolumeClaim"], hooks["Pod"]
        environ = {**environment(manifests), "RESNEXT_LEASE_NAMESPACE": "x"}
        spec = parse(training, Settings.from_environment(environ).site).spec
        assert not spec.workers.gpus
        assert spec.checkpoints.claim_name == claim["metadata"]["name"]
        assert claim["spec"]["storageClassName"] == "fast"
        for kind in ("ResNeXtTraining", "PersistentVolumeClaim", "Role", "RoleBinding"):
            assert hooks[kind]["metadata"]["namespace"] == where
        assert watch["metadata"]["namespace"] == "resnext-system"
        assert watch["spec"]["containers"][0]["args"] == ["watch", training["metadata"]["name"], "--namespace", where]
        assert hooks["RoleBinding"]["subjects"][0]["name"] == watch["spec"]["serviceAccountName"]
        for each in hooks.values():
            assert "hook-succeeded" in each["metadata"]["annotations"]["helm.sh/hook-delete-policy"]

    def test_watching_pod_is_not_selected_as_operator(self):
        """Neither the Deployment nor its PodDisruptionBudget, Service or policies select the pod of `helm test`."""
        (watch,) = (each for each in render() if each["kind"] == "Pod")
        assert not watch["metadata"]["labels"].items() >= SELECTOR.items()


def test_previous_chart_accepts_upgrade():
    """Values that the previous chart had are still accepted, and immutable fields are unchanged."""
    previous = ROOT / "tests" / "fixtures" / "resnext-operator-0.1.0.tgz"
    before = render(chart=previous)
    now = with_values(**yaml.safe_load(helm("show", "values", previous)))
    immutable = {"Deployment": ("spec", "selector"), "ClusterRoleBinding": ("roleRef",), "RoleBinding": ("roleRef",)}
    for kind, path in immutable.items():
        for old in of_kind(before, kind):
            new = the(now, kind, old["metadata"]["name"])
            assert functools.reduce(operator.getitem, path, new) == functools.reduce(operator.getitem, path, old)
