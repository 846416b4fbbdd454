"""Access to the cluster through kubectl, helm and Prometheus, and the samples with changes.

If KUBECONFIG is set, tests use that cluster and the images in RESNEXT_IMAGE_{OPERATOR,TRAINER,MONITORING}.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import yaml

from tests.support.merge_patch import merge_patch
from tests.support.simcluster.api import ROOT as ROOT
from tests.support.simcluster.api import TRAININGS
from tests.support.simcluster.api import image as image
from tests.support.simcluster.api import image_values as image_values
from tests.support.simcluster.api import setup as setup

SAMPLES = ROOT / "manifests" / "samples"
SYSTEM, MONITORING = "resnext-system", "monitoring"
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
NAMESPACE = f"e2e-{WORKER}" if WORKER else "e2e"
"""Namespace of this worker of pytest-xdist."""
Manifest = dict[str, Any]
T = TypeVar("T")
_BLOCKS = {"blocks": [1, 1], "groups": 8, "width": 4, "channels": 64, "stem": 32, "smallImages": True}
SMALL_NETWORK = {"architecture": "custom", "custom": _BLOCKS}
"""For tests that do not check accuracy: a rank needs half of the CPU time to start and train."""
ONE_WORKER = {"replicas": 1}
"""For tests that do not need a second rank.

Measured when waiting ranks did not sleep yet (ADR 41): on two cores, two concurrent trainings with two ranks took
longer than two consecutive ones.
"""


class Refused(Exception):
    """kubectl or helm failed; the message is its output."""


class Cluster:
    """kubectl and helm for the cluster."""

    def __init__(self, kubeconfig: str) -> None:
        self.environment = {**os.environ, "KUBECONFIG": kubeconfig}

    @cached_property
    def _proxy(self) -> str:
        """`kubectl proxy`: reading a status takes 3 ms of CPU time instead of 150 ms with a new kubectl."""
        # Ends together with this process.
        command = ("setpriv", "--pdeathsig=KILL", "kubectl", "proxy", "--port=0")
        process = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        return "http://" + process.stdout.readline().split()[-1]

    def read(self, path: str) -> Manifest:
        """Response of the API server to GET."""
        try:
            with urlopen(self._proxy + path, timeout=60) as answer:
                found: Manifest = json.load(answer)
        except HTTPError as error:
            raise Refused(f"GET {path}: {error}\n{error.read().decode()}") from error
        return found

    def run(self, *command: str | Path, stdin: str | None = None) -> str:
        done = subprocess.run(
            command, input=stdin, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        if done.returncode:
            raise Refused(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
        return done.stdout

    def kubectl(self, *arguments: str | Path, namespace: str = NAMESPACE, stdin: str | None = None) -> str:
        return self.run("kubectl", "--namespace", namespace, *arguments, stdin=stdin)

    def apply(self, *manifests: Manifest, namespace: str = NAMESPACE) -> str:
        return self.kubectl("apply", "-f", "-", namespace=namespace, stdin=yaml.safe_dump_all(manifests))

    def get(self, kind: str, name: str, namespace: str = NAMESPACE) -> Manifest:
        found: Manifest = json.loads(self.kubectl("get", kind, name, "-o", "json", namespace=namespace))
        return found

    def objects(self, kind: str, selector: str = "", namespace: str = NAMESPACE) -> list[Manifest]:
        arguments = ["get", kind, "-o", "json", *(["-l", selector] if selector else [])]
        found: list[Manifest] = json.loads(self.kubectl(*arguments, namespace=namespace))["items"]
        return found

    def children(self, name: str) -> dict[str, str]:
        """uid of every child of a training, by kind and name. A recreated object has a new uid."""
        kinds = "pods,configmaps,networkpolicies"
        return {
            f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["uid"]
            for each in self.objects(kinds, f"resnext.dev/training={name}")
        }

    def pods(self, name: str, role: str) -> list[Manifest]:
        return self.objects("pods", f"resnext.dev/training={name},resnext.dev/role={role}")

    def query(self, promql: str) -> list[Manifest]:
        """Result of an instant query to Prometheus in the cluster."""
        result: list[Manifest] = self.prometheus(f"query?query={quote(promql, safe='')}")["result"]
        return result

    def prometheus(self, path: str) -> Manifest:
        """Data of a response of the API of Prometheus in the cluster."""
        service = f"/api/v1/namespaces/{MONITORING}/services/prometheus:9090/proxy/api/v1"
        data: Manifest = self.read(f"{service}/{path}")["data"]
        return data

    def status(self, name: str, namespace: str = NAMESPACE) -> Manifest:
        """Status of a training; empty if it has none."""
        found = self.read(f"{TRAININGS}/namespaces/{namespace}/resnexttrainings/{name}")
        status: Manifest = found.get("status") or {}
        return status

    def condition(self, name: str, kind: str) -> Manifest:
        """A condition of a training; empty while it has none."""
        return next((each for each in self.status(name).get("conditions", ()) if each["type"] == kind), {})

    def job(self, name: str, script: str, claim: str) -> None:
        """Run a shell script in the trainer image with the claim as working directory, and wait until it ends."""
        _, job = yaml.safe_load_all((SAMPLES / "digits-dataset.yaml").read_text())
        job["metadata"] = {"name": name}
        pod = job["spec"]["template"]["spec"]
        pod["containers"][0] |= {
            "image": image("trainer-cpu"),
            "command": ["sh", "-euxc", script],
            "workingDir": "/data",
        }
        pod["volumes"][0]["persistentVolumeClaim"]["claimName"] = claim
        self.apply(job)
        self.kubectl("wait", "--for=condition=Complete", f"job/{name}", "--timeout=90s")
        self.kubectl("delete", "job", name, "--timeout=60s")

    def story(self, name: str) -> str:
        """Description, pods, events and logs of a training, for the message of a failed test."""
        parts = [json.dumps(self.status(name), indent=1), self.kubectl("get", "pods", "-o", "wide")]
        for pod in self.objects("pods", f"resnext.dev/training={name}"):
            try:
                log = self.kubectl("logs", pod["metadata"]["name"], "--tail=40")
            except Refused as error:
                log = str(error)
            parts.append(f"--- {pod['metadata']['name']}\n{log}")
        parts.append(self.kubectl("logs", "deployment/resnext-operator", "--tail=60", namespace=SYSTEM))
        return "\n".join(parts)

    def until(self, name: str, seen: Callable[[Manifest], T], seconds: float = 300) -> T:
        """Wait until `seen` returns a true value for the training's status; fails with its description."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self.status(name)
            if found := seen(status):
                return found
            if status.get("phase") == "Failed":
                break
            time.sleep(0.2)
        pytest.fail(f"{name}: not seen within {seconds:.0f} s\n{self.story(name)}")


def operator_values() -> tuple[str, ...]:
    """helm's flags: the images, and to poll progress more often than by default, because tests wait for it."""
    return *image_values(), "--set", "settings.progressPollIntervalSeconds=1"


def install_operator(cluster: Cluster) -> None:
    """Install or upgrade the operator with the chart of this repository."""
    cluster.run(
        *("helm", "upgrade", "--install", "resnext-operator", ROOT / "charts" / "resnext-operator"),
        # A test replaces the versions of the CRD and then owns the field.
        *("--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "120s", "--force-conflicts"),
        *operator_values(),
    )


def eventually(seen: Callable[[], T | None], what: str, seconds: float = 60) -> T:
    """Wait until `seen` returns a true value."""
    deadline = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < deadline, f"not seen within {seconds:.0f} s: {what}"
        time.sleep(0.5)
    return found


def in_node(node: str, script: str) -> str:
    """Output of a shell script that runs as root in a node of the kind cluster."""
    command = ["docker", "exec", node, "sh", "-euc", script]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def sample(stem: str, name: str, spec: Mapping[str, Any] | None = None) -> Manifest:
    """A sample under another name, with changes to its spec."""
    manifest: Manifest = yaml.safe_load((SAMPLES / f"{stem}.yaml").read_text())
    manifest["metadata"] = {"name": name}
    manifest["spec"] = merge_patch(manifest["spec"], spec or {})
    return manifest
