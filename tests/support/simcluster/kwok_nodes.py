"""Nodes and pods that kwok simulates. Its stages make the pods behave like those of real trainings.

Annotations of a training's pods define the outcome of its attempts. kwok selects the nodes by a label, and a taint
keeps all other pods away from them.
"""

import asyncio
import json
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from resnext_operator.rendering import names
from resnext_trainer.contract import ExitStatus, Progress, SavedCheckpoint, TerminationReport
from tests.support.simcluster.api import Api, Manifest, kubeconfig, setup

SIMULATED = "resnext.dev/played"
LAST_ATTEMPT, SECONDS, EXIT_CODE = (f"{SIMULATED}-{what}" for what in ("last-attempt", "seconds", "exit-code"))
STORAGE = "played"

SAVED = SavedCheckpoint(step=40, time="2026-01-01T00:00:00Z", path="/checkpoints/40")
"""The same checkpoint in all responses, so that the launcher's report adds nothing that a poll has missed."""

_TERMINATION_REPORTS = {
    ExitStatus.COMPLETED: TerminationReport(
        verdict="completed",
        message="trained to its end",
        progress=Progress(
            attempt=0, epoch=8, epochs=8, step=80, steps=80, top1=0.97, top5=1.0, best_top1=0.97, checkpoint=SAVED
        ),
    ),
    ExitStatus.INVALID_DATA: TerminationReport(verdict="invalid_data", message="/data/train-00000 is truncated"),
    ExitStatus.CRASHED: TerminationReport(
        verdict="crashed", message="rank 1 ended with exit code 1", rank=1, log=("Traceback",)
    ),
    ExitStatus.STOPPED: TerminationReport(verdict="stopped", message="stopped as requested; the checkpoint is saved"),
}


def trains(attempt: int, step: int = 40) -> Progress:
    """Response of worker 0 while an attempt is training."""
    return Progress(attempt=attempt, epoch=4, epochs=8, step=step, steps=80, loss=0.5, checkpoint=SAVED)


def own_address(toward: str = "192.0.2.1") -> str:
    """A non-loopback address of this machine, where the pods' ranks listen. No packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((toward, 9))
        return str(probe.getsockname()[0])


# -- stages ------------------------------------------------------------------------------------------------------------

_DELETED, _NOT_DELETED = ".metadata.deletionTimestamp", {"operator": "DoesNotExist"}
_ATTEMPT, _ROLE = f'.metadata.labels["{names.ATTEMPT}"]', f'.metadata.labels["{names.ROLE}"]'


def _is(key: str, *values: str) -> Manifest:
    return {"key": key, "operator": "In", "values": list(values)}


def _stage(name: str, kind: str, when: list[Manifest], **steps: Any) -> Manifest:
    delay = steps.pop("delay", None)
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": when},
            "next": steps,
            **({"delay": delay} if delay else {}),
        },
    }


def _conditions(*kinds: str, holds: str = "True") -> str:
    one = '{{lastTransitionTime: {{{{ Now | Quote }}}}, status: "{}", type: {}}}'
    return f"[{', '.join(one.format(holds, kind) for kind in kinds)}]"


def _ended(status: ExitStatus) -> str:
    report = _TERMINATION_REPORTS[status].model_dump_json(by_alias=True, exclude_none=True).replace("'", "''")
    return f"""
phase: {"Failed" if status.value else "Succeeded"}
conditions: {_conditions("Ready", "ContainersReady", holds="False")}
containerStatuses:
- name: launcher
  image: played
  imageID: ""
  ready: false
  restartCount: 0
  state:
    terminated:
      exitCode: {status.value}
      reason: {"Error" if status.value else "Completed"}
      message: '{report}'
      startedAt: {{{{ Now | Quote }}}}
      finishedAt: {{{{ Now | Quote }}}}
"""


def stages(address: str) -> list[Manifest]:
    """kwok stages of nodes and pods. The pods' ranks listen at the address."""
    running = f"""
phase: Running
startTime: {{{{ Now | Quote }}}}
podIP: {address}
podIPs: [{{ip: {address}}}]
conditions: {_conditions("Initialized", "Ready", "ContainersReady")}
containerStatuses:
{{{{ range .spec.containers }}}}
- name: {{{{ .name | Quote }}}}
  image: {{{{ .image | Quote }}}}
  imageID: ""
  ready: true
  restartCount: 0
  state: {{running: {{startedAt: {{{{ Now | Quote }}}}}}}}
{{{{ end }}}}
"""
    node = f"conditions: {_conditions('Ready')}\nphase: Running"
    ready = '.status.conditions.[] | select( .type == "Ready" ) | .status'
    not_deleted, is_deleted = {"key": _DELETED, **_NOT_DELETED}, {"key": _DELETED, "operator": "Exists"}
    launches, runs = _is(_ROLE, "launcher"), _is(".status.phase", "Running")
    last = f'({_ATTEMPT} == .metadata.annotations["{LAST_ATTEMPT}"]) | tostring'
    delay = {"durationFrom": {"expressionFrom": f'.metadata.annotations["{SECONDS}"]'}, "durationMilliseconds": 0}
    ends = [
        _stage(
            f"launcher-ends-{status.value}",
            "Pod",
            [
                not_deleted,
                launches,
                runs,
                _is(last, "true"),
                _is(f'.metadata.annotations["{EXIT_CODE}"]', str(status.value)),
            ],
            statusTemplate=_ended(status),
            delay=delay,
        )
        for status in (ExitStatus.COMPLETED, ExitStatus.INVALID_DATA, ExitStatus.CRASHED)
    ]
    return [
        _stage("node", "Node", [{"key": ready, "operator": "NotIn", "values": ["True"]}], statusTemplate=node),
        _stage("pod-runs", "Pod", [not_deleted, _is(".status.phase", "Pending")], statusTemplate=running),
        *ends,
        # Like a kubelet: first the container's state is reported, then the pod is deleted.
        _stage("launcher-stops", "Pod", [is_deleted, launches, runs], statusTemplate=_ended(ExitStatus.STOPPED)),
        _stage(
            "launcher-goes",
            "Pod",
            [is_deleted, launches, {**runs, "operator": "NotIn"}],
            delete=True,
            # Long enough for an operator that is killed and restarted in the meantime to read the report.
            delay={"durationMilliseconds": 2000},
        ),
        _stage("pod-goes", "Pod", [is_deleted, {**launches, "operator": "NotIn"}], delete=True),
    ]


def node(index: int) -> Manifest:
    room = {"cpu": "1000", "memory": "1Ti", "pods": "10000", "ephemeral-storage": "1Ti"}
    name = f"played-{index}"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        # Without the label kubernetes.io/os, so that kube-proxy's DaemonSet does not run there.
        "metadata": {"name": name, "labels": {SIMULATED: "true", "kubernetes.io/hostname": name}},
        "spec": {"taints": [{"key": SIMULATED, "effect": "NoSchedule"}]},
        "status": {"capacity": room, "allocatable": room},
    }


@asynccontextmanager
async def kwok_nodes(api: Api, nodes: int = 2, parallelism: int = 4) -> AsyncIterator[None]:
    """Run kwok with its nodes, and remove both afterwards."""
    config = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {
            "manageNodesWithLabelSelector": f"{SIMULATED}=true",
            # Fields that are unset in the file are 0 instead of the default.
            "podPlayStageParallelism": parallelism,
            "nodePlayStageParallelism": 4,
            "nodeLeaseParallelism": 4,
            "nodeLeaseDurationSeconds": 40,
            "podsOnNodeSyncParallelism": 1,
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        script, log = Path(folder) / "stages.yaml", Path(folder) / "kwok.log"
        script.write_text("\n---\n".join(json.dumps(each) for each in (config, *stages(own_address()))))
        kwok = Path(setup("cache")) / "bin" / "kwok"
        # Ends together with this process, even if this process is killed.
        command = ("setpriv", "--pdeathsig=KILL", kwok, f"--kubeconfig={kubeconfig()}", f"--config={script}")
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            await _delete_leftovers(api)
            for index in range(nodes):
                await api.request("POST", "/api/v1/nodes", node(index))
            for _ in range(300):
                if all(_ready(each) for each in await api.items("/api/v1/nodes", SIMULATED)):
                    break
                if process.poll() is not None:
                    break
                await asyncio.sleep(0.1)
            else:
                raise RuntimeError(f"the simulated nodes are not ready after 30 s:\n{log.read_text()[-3000:]}")
            if process.poll() is not None:
                raise RuntimeError(f"kwok exited:\n{log.read_text()[-3000:]}")
            yield
        finally:
            try:
                await _delete_leftovers(api)
            finally:
                process.kill()
                process.wait()


async def _delete_leftovers(api: Api) -> None:
    """Delete all simulated objects, including those of a run that was killed."""
    namespaces = [each["metadata"]["name"] for each in await api.items("/api/v1/namespaces", SIMULATED)]
    for name in namespaces:
        await api.remove(f"/api/v1/namespaces/{name}")
    # Pods without a node would delay the deletion of their namespace by minutes.
    for _ in range(200):
        if not [pod for name in namespaces for pod in await api.items(f"/api/v1/namespaces/{name}/pods")]:
            break
        await asyncio.sleep(0.1)
    for kind in ("persistentvolumes", "nodes"):
        for each in await api.items(f"/api/v1/{kind}", SIMULATED):
            await api.remove(f"/api/v1/{kind}/{each['metadata']['name']}")


def _ready(node: Manifest) -> bool:
    conditions = {each["type"]: each["status"] for each in node["status"].get("conditions", ())}
    taints = [each["key"] for each in node["spec"].get("taints", ())]
    return conditions.get("Ready") == "True" and taints == [SIMULATED]


# -- simulated trainings -----------------------------------------------------------------------------------------------


def training(
    name: str, *, replicas: int = 2, last_attempt: int = 0, seconds: float = 0, exit_code: int = 0, **spec: Any
) -> Manifest:
    """A training with simulated pods, whose attempt `last_attempt` ends after `seconds` with `exit_code`.

    Earlier attempts run until they are stopped; with 0, all attempts do.
    """
    how = {LAST_ATTEMPT: str(last_attempt), SECONDS: f"{seconds}s", EXIT_CODE: str(exit_code)}
    where = {
        "nodeSelector": {SIMULATED: "true"},
        "tolerations": [{"key": SIMULATED, "operator": "Exists"}],
        "annotations": how,
        "resources": {"requests": {"cpu": "10m"}},
    }
    data = {"data": {"format": "synthetic"}}
    return {
        "apiVersion": "resnext.dev/v1alpha2",
        "kind": "ResNeXtTraining",
        "metadata": {"name": name},
        "spec": {
            "training": {"model": {"architecture": "resnext17-8x4d", "classes": 10}, "epochs": 8, **data},
            "checkpoints": {"template": {"size": "1Gi", "storageClassName": STORAGE}},
            "workers": {"replicas": replicas, **where},
            "launcher": where,
            **spec,
        },
    }


def volume(namespace: str, name: str) -> Manifest:
    """A volume that is reserved for the checkpoint claim of a training and therefore binds immediately."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"played-{namespace}-{name}", "labels": {SIMULATED: namespace}},
        "spec": {
            "storageClassName": STORAGE,
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": "/nowhere"},
            "claimRef": {"namespace": namespace, "name": names.claim_name(name)},
        },
    }


async def namespace_with_claim(api: Api, namespace: str, claim: str) -> None:
    """An empty namespace with one claim for the checkpoints of all trainings, already bound."""
    await api.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace, "labels": {SIMULATED: "true"}}})
    access = {"storageClassName": STORAGE, "accessModes": ["ReadWriteMany"]}
    bound = volume(namespace, "shared")
    bound["spec"] |= access | {"claimRef": {"namespace": namespace, "name": claim}}
    spec = access | {"resources": {"requests": {"storage": "1Gi"}}}
    claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    await api.request("POST", "/api/v1/persistentvolumes", bound)
    await api.request("POST", claims, {"metadata": {"name": claim}, "spec": spec})
    # The scheduler would retry pods with an unbound claim only after many seconds.
    while (await api.request("GET", f"{claims}/{claim}")).get("status", {}).get("phase") != "Bound":
        await asyncio.sleep(0.2)
    # Without it the API server rejects pods.
    while not await api.find(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"):
        await asyncio.sleep(0.1)


async def clear(api: Api, namespace: str) -> None:
    """Delete a namespace and its volumes, and wait until it no longer exists."""
    await api.remove(f"/api/v1/namespaces/{namespace}")
    for each in await api.items("/api/v1/persistentvolumes", f"{SIMULATED}={namespace}"):
        await api.remove(f"/api/v1/persistentvolumes/{each['metadata']['name']}")
    while await api.find(f"/api/v1/namespaces/{namespace}"):
        await asyncio.sleep(1)
