"""The main scenarios of a training's life. The first line of each docstring is the heading of its golden file."""

from collections.abc import Callable
from typing import Any

from tests.golden.simulation import NAME, Manifest, Simulation

Scenario = Callable[[], Manifest]

SCENARIOS: dict[str, Scenario] = {}
"""By name; the golden file is scenarios/NAME.yaml."""

EXCEEDED = (
    'pods "resnext-digits-worker-0-0" is forbidden: exceeded quota: team, requested: requests.cpu=250m, '
    "used: requests.cpu=3900m, limited: requests.cpu=4"
)
INVALID = (
    'Pod "resnext-digits-worker-0-0" is invalid: spec.containers[0].volumeMounts[0].mountPath: Invalid value: '
    '"/data": must be unique'
)
NO_NODE = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."


def scenario(function: Scenario) -> Scenario:
    """Register a scenario under its name."""
    SCENARIOS[function.__name__.replace("_", "-")] = function
    return function


def started(simulation: Simulation, step: int = 20, saved: int | None = 20, **known: Any) -> None:
    """Create the training and let it run until the given step."""
    with simulation.step(f"applied; all pods run; the ranks are at step {step}"):
        simulation.apply()
        simulation.run(step, saved=saved, **known)


def paced(simulation: Simulation, *steps: int, seconds: float = 10) -> None:
    """Report these steps one after another, with a checkpoint at each."""
    with simulation.step(f"the ranks are at step {steps[-1]}"):
        for step in steps:
            simulation.wait(seconds)
            simulation.train(step, saved=step, top1=0.9, top5=0.99, bestTop1=0.9)
            simulation.settle()


@scenario
def success() -> Manifest:
    """From apply to Succeeded."""
    with Simulation() as it:
        with it.step("applied"):
            it.apply()
        with it.step("worker 0 is ready"):
            it.wait(4)
            it.pod(
                it.pods("worker")[0],
                {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
                "node-0",
            )
        with it.step("worker 1 is ready"):
            it.wait(2)
            it.ready()
        with it.step("the launcher runs"):
            it.wait(2)
            it.ready()
        with it.step("step 0 of the first epoch"):
            it.wait(10)
            it.train(0, resumedStep=0)
        with it.step("step 10"):
            it.wait(10)
            it.train(10)
        with it.step("step 20, the first checkpoint and evaluation"):
            it.wait(10)
            it.train(20, saved=20, top1=0.41, top5=0.87, bestTop1=0.41)
        with it.step("step 80"):
            it.wait(60)
            it.train(80, saved=80, loss=0.123456, top1=0.93456, top5=0.99, bestTop1=0.94)
        with it.step("the launcher exits with 0"):
            it.wait(80)
            final = {"attempt": 1, "epoch": 8, "epochs": 8, "step": 160, "steps": 160, "loss": 0.05, "top1": 0.96}
            it.launcher_ends(0, "trained 8 epochs", progress=final)
        return it.transcript()


@scenario
def unschedulable() -> Manifest:
    """Unschedulable, then scheduled."""
    with Simulation() as it:
        with it.step("applied; the scheduler finds no node for the workers"):
            it.apply()
            it.settle()
            for name in it.pods("worker"):
                it.unschedulable(name, NO_NODE)
        with it.step("6 s later"):
            it.wait(6)
        with it.step("a node is added"):
            it.wait(60)
            for name in it.pods("worker"):
                it.pod(name, {})
            it.ready()
        with it.step("the launcher has no node"):
            it.unschedulable(it.pods("launcher")[0], "0/2 nodes are available: 2 Insufficient cpu.")
            it.wait(6)
        return it.transcript()


@scenario
def image_missing() -> Manifest:
    """The image cannot be pulled."""
    with Simulation() as it:
        with it.step("applied; the kubelets cannot pull the image"):
            it.apply()
            it.settle()
            waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "resnext-trainer:x"'}
            for name in it.pods("worker"):
                it.pod(name, {"phase": "Pending", "containerStatuses": [{"state": {"waiting": waiting}}]}, "node-0")
        return it.transcript()


@scenario
def variable_secret_missing() -> Manifest:
    """A variable of the workers names a Secret that does not exist."""
    variable = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "tracker", "key": "token"}}}
    with Simulation(workers={"replicas": 2, "env": [variable]}) as it:
        with it.step("applied; the kubelets do not find the Secret"):
            it.apply()
            it.settle()
            waiting = {"reason": "CreateContainerConfigError", "message": 'secret "tracker" not found'}
            for name in it.pods("worker"):
                it.pod(name, {"phase": "Pending", "containerStatuses": [{"state": {"waiting": waiting}}]}, "node-0")
        return it.transcript()


@scenario
def quota() -> Manifest:
    """Rejected by a quota (403), then admitted."""
    with Simulation() as it:
        with it.step("applied; the quota rejects workers"):
            it.server.quotas = [{"metadata": {"name": "team"}}]
            it.server.rejections = {"-worker-": (403, EXCEEDED)}
            it.apply()
        with it.step("still rejected 30 s later"):
            it.wait(30)
        with it.step("the quota admits workers, and rejects the launcher"):
            message = EXCEEDED.replace("worker-0-0", "launcher-1")
            it.server.rejections = {"-launcher-": (403, message)}
            it.wait(60)
        with it.step("the quota admits all pods"):
            it.server.rejections = {}
            it.wait(120)
        with it.step("all pods run"):
            it.run()
        return it.transcript()


@scenario
def quota_for_some_pods() -> Manifest:
    """A quota admits worker 0 and rejects worker 1; worker 0 is released after runPolicy.admissionTimeoutSeconds."""
    with Simulation(runPolicy={"admissionTimeoutSeconds": 60}) as it:
        with it.step("applied; the quota rejects worker 1"):
            it.server.quotas = [{"metadata": {"name": "team"}}]
            it.server.rejections = {"-worker-1-": (403, EXCEEDED.replace("worker-0", "worker-1"))}
            it.apply()
        with it.step("worker 0 has waited for 61 s"):
            it.wait(61)
        with it.step("the quota admits all pods"):
            it.server.rejections = {}
            it.wait(60)
        return it.transcript()


@scenario
def invalid_pod_before_start() -> Manifest:
    """The API server rejects the pods as invalid (422) before the first attempt."""
    with Simulation() as it:
        with it.step("applied; worker pods are invalid"):
            it.server.rejections = {"-worker-": (422, INVALID)}
            it.apply()
        return it.transcript()


@scenario
def invalid_pod_later() -> Manifest:
    """The API server rejects the pods as invalid (422) after the first attempt; the spec is then corrected."""
    with Simulation() as it:
        started(it)
        with it.step("the training is suspended, its image changed, and it is resumed; worker pods are then invalid"):
            it.server.rejections = {"-worker-": (422, INVALID)}
            it.change_pods(image="registry.example/resnext-trainer:2")
            it.settle()
            it.wait(30)
        with it.step("the image is corrected in the same way"):
            it.server.rejections = {}
            it.change_pods(image="registry.example/resnext-trainer:3")
            it.settle()
            it.run(40, saved=40)
        return it.transcript()


@scenario
def spec_invalid_before_start() -> Manifest:
    """The spec is invalid before anything is created."""
    with Simulation(workers={"replicas": 2, "env": [{"name": "RESNEXT_X", "value": "1"}]}) as it:
        with it.step("applied"):
            it.apply()
        return it.transcript()


@scenario
def spec_invalid_while_running() -> Manifest:
    """The stored spec of a running training is invalid for this version of the operator."""
    with Simulation() as it:
        started(it)
        with it.step("the operator is upgraded and rejects the stored spec"):
            it.change(workers={"replicas": 2, "env": [{"name": "RESNEXT_X", "value": "1"}]})
        with it.step("the ranks are at step 40"):
            it.wait(20)
            it.train(40, saved=40)
        with it.step("the launcher exits with 8"):
            it.launcher_ends(8, "rank 1 completed no step for 600 s")
        with it.step("the workers are lost"):
            for name in it.pods("worker"):
                it.lose(name)
        return it.transcript()


@scenario
def claim_missing() -> Manifest:
    """The dataset's claim does not exist, and is then created."""
    with Simulation() as it:
        with it.step("applied"):
            it.apply(dataset=False)
        with it.step("the claim is created"):
            it.wait(30)
            it.claim("digits-data", "ReadWriteMany")
        return it.transcript()


@scenario
def claim_not_shared() -> Manifest:
    """The dataset's claim cannot be mounted on several nodes."""
    with Simulation() as it:
        with it.step("applied"):
            it.claim("digits-data", "ReadWriteOnce")
            it.apply(dataset=False)
        return it.transcript()


@scenario
def claim_not_owned() -> Manifest:
    """A claim that the operator does not own already has the name of the checkpoint claim."""
    with Simulation() as it:
        with it.step("applied"):
            it.claim(f"{NAME}-checkpoints", "ReadWriteOnce")
            it.apply()
        return it.transcript()


@scenario
def name_taken() -> Manifest:
    """An object that the operator does not own already has the name of a child object."""
    with Simulation() as it:
        with it.step("applied"):
            it.put("v1", "ConfigMap", "configmaps", f"{NAME}-config")
            it.apply()
        return it.transcript()


@scenario
def not_allowed_host_network() -> Manifest:
    """hostNetwork, which the operator's settings do not allow."""
    with Simulation(workers={"replicas": 2, "hostNetwork": True}) as it:
        with it.step("applied"):
            it.apply()
        return it.transcript()


@scenario
def not_allowed_host_path() -> Manifest:
    """A hostPath volume outside the directories that the operator's settings allow."""
    volume = {"name": "scratch", "hostPath": {"path": "/etc"}}
    mount = {"name": "scratch", "mountPath": "/scratch"}
    workers = {"replicas": 2, "volumes": [volume], "volumeMounts": [mount]}
    with Simulation({"RESNEXT_HOST_PATHS": "/mnt/a,/mnt/b"}, workers=workers) as it:
        with it.step("applied"):
            it.apply()
        return it.transcript()


@scenario
def worker_start_failed() -> Manifest:
    """A worker exits before the first attempt; the operator recreates it after a backoff."""
    with Simulation() as it:
        with it.step("applied; worker 1 exits"):
            it.apply()
            it.settle()
            it.ready()
            it.end(it.pods("worker")[1], 255, "exec /usr/local/bin/resnext-train: exec format error", "Error")
        with it.step("the backoff has elapsed"):
            it.wait(10)
        with it.step("all pods run"):
            it.run()
        return it.transcript()


@scenario
def worker_lost() -> Manifest:
    """A worker is lost; training resumes from the checkpoint."""
    with Simulation() as it:
        started(it)
        paced(it, 40, 60, 80)
        with it.step("worker 1 is deleted with its node"):
            it.lose(it.pods("worker")[1])
        with it.step("attempt 2 runs, from step 80"):
            it.run(85, saved=80, resumedStep=80)
        return it.transcript()


@scenario
def resumed_earlier() -> Manifest:
    """Attempt 2 starts from an earlier step than the one saved, and with another recipe."""
    with Simulation() as it:
        started(it)
        paced(it, 40)
        with it.step("worker 0 is evicted"):
            target = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
            it.pod(it.pods("worker")[0], {"phase": "Failed", "reason": "Evicted", "conditions": [target]})
        with it.step("attempt 2 runs, from step 20"):
            it.run(25, saved=20, differences=("optimizer.learningRate: 0.1, was 0.2",), resumedStep=20)
        return it.transcript()


@scenario
def launcher_crash() -> Manifest:
    """The launcher crashes, first with and then without a failed rank in its report, and training resumes each time."""
    with Simulation() as it:
        started(it)
        with it.step("the launcher exits with 1 and reports rank 1 as the cause"):
            it.launcher_ends(1, "rank 1 ended with exit code 1", rank=1, log=["Traceback", "ValueError: no"])
            it.wait(6)
        with it.step("attempt 2 runs"):
            it.wait(10)
            it.run(25, saved=20)
        with it.step("the launcher is killed and writes no report"):
            it.launcher_ends(137, None)
        with it.step("91 s later"):
            it.wait(91)
        return it.transcript()


@scenario
def launcher_lost() -> Manifest:
    """The launcher's pod is deleted."""
    with Simulation() as it:
        started(it)
        with it.step("the launcher is deleted with its node"):
            it.lose(it.pods("launcher")[0])
        return it.transcript()


@scenario
def out_of_memory() -> Manifest:
    """A worker without a memory limit is OOMKilled."""
    with Simulation() as it:
        started(it)
        with it.step("worker 1 is OOMKilled, and the launcher exits with 1"):
            it.end(it.pods("worker")[1], 137, "", "OOMKilled")
            it.launcher_ends(1, "rank 1 was killed by signal 9")
        return it.transcript()


@scenario
def out_of_memory_at_limit() -> Manifest:
    """A worker is OOMKilled at its memory limit."""
    with Simulation(workers={"replicas": 2, "resources": {"limits": {"memory": "2Gi"}}}) as it:
        started(it)
        with it.step("worker 1 is OOMKilled, and the launcher exits with 1"):
            it.end(it.pods("worker")[1], 137, "", "OOMKilled")
            it.launcher_ends(1, "rank 1 was killed by signal 9")
        return it.transcript()


@scenario
def backoff_limit() -> Manifest:
    """More failures than runPolicy.backoffLimit."""
    with Simulation(runPolicy={"backoffLimit": 1}) as it:
        started(it)
        with it.step("the launcher exits with 8"):
            it.launcher_ends(8, "rank 1 completed no step for 600 s")
        with it.step("attempt 2 runs"):
            it.wait(10)
            it.run(25, saved=20)
        with it.step("the launcher exits with 8 again"):
            it.launcher_ends(8, "rank 1 completed no step for 600 s")
        return it.transcript()


@scenario
def stall() -> Manifest:
    """Stalled, then steps again."""
    with Simulation() as it:
        started(it)
        paced(it, 30, 40, 50, 60)
        with it.step("no step for 2 minutes"):
            it.operator.reported.steps = {1: 59}
            it.wait(120)
        with it.step("steps again"):
            it.operator.reported.steps = {}
            it.train(70, saved=60)
        return it.transcript()


@scenario
def hung() -> Manifest:
    """No steps for longer than runPolicy.stallDeadlineSeconds."""
    with Simulation(runPolicy={"stallDeadlineSeconds": 300}) as it:
        started(it)
        paced(it, 30, 40, 50, 60)
        with it.step("no step for 2 minutes, and rank 1 does not answer"):
            it.operator.reported.steps = {1: None}
            it.wait(120)
        with it.step("no step for 8 minutes"):
            it.wait(360)
        return it.transcript()


@scenario
def suspend_and_resume() -> Manifest:
    """Suspended while it runs, and resumed."""
    with Simulation() as it:
        started(it)
        paced(it, 40, 60)
        with it.step("spec.suspend is set"):
            it.change(suspend=True)
        with it.step("an hour later spec.suspend is removed"):
            it.wait(3600)
            it.change(suspend=False)
        with it.step("attempt 2 runs"):
            it.run(80, saved=60, resumedStep=60)
        return it.transcript()


@scenario
def created_suspended() -> Manifest:
    """Created with spec.suspend, and resumed later."""
    with Simulation(suspend=True) as it:
        with it.step("applied"):
            it.apply()
        with it.step("spec.suspend is removed"):
            it.wait(60)
            it.change(suspend=False)
        return it.transcript()


@scenario
def resize() -> Manifest:
    """The number of workers changes from 2 to 3."""
    with Simulation() as it:
        started(it)
        with it.step("spec.workers.replicas becomes 3"):
            it.change(workers={"replicas": 3})
        with it.step("attempt 2 runs"):
            it.run(40, saved=40)
        return it.transcript()


@scenario
def pod_template_changed() -> Manifest:
    """The image changes between suspending and resuming, before the training has stopped."""
    with Simulation() as it:
        started(it)
        with it.step("the training is suspended, spec.image changed, and it is resumed"):
            it.change_pods(image="registry.example/resnext-trainer:2")
        with it.step("attempt 2 runs"):
            it.run(40, saved=40)
        return it.transcript()


@scenario
def secret_deleted() -> Manifest:
    """The Secret with the SSH keys is deleted before the launcher has mounted it."""
    with Simulation() as it:
        with it.step("applied; workers are ready; the Secret is deleted; the launcher does not start"):
            it.apply()
            it.settle()
            it.ready()
            it.settle()
            it.delete_secret()
            condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            it.pod(it.pods("launcher")[0], {"phase": "Pending", "conditions": [condition]}, "node-0")
        with it.step("31 s later"):
            it.wait(31)
        with it.step("the next attempt runs"):
            it.run()
        return it.transcript()


@scenario
def deadline_exceeded() -> Manifest:
    """Longer than runPolicy.activeDeadlineSeconds."""
    with Simulation(runPolicy={"activeDeadlineSeconds": 100}) as it:
        started(it)
        with it.step("the deadline passes"):
            it.wait(100)
        return it.transcript()


@scenario
def pending_deadline_exceeded() -> Manifest:
    """The pods do not start within runPolicy.pendingDeadlineSeconds."""
    with Simulation(runPolicy={"pendingDeadlineSeconds": 60}) as it:
        with it.step("applied; the scheduler finds no node for the workers"):
            it.apply()
            it.settle()
            for name in it.pods("worker"):
                it.unschedulable(name, NO_NODE)
            it.wait(6)
        with it.step("the deadline passes"):
            it.wait(60)
        return it.transcript()


@scenario
def ttl() -> Manifest:
    """Deleted some time after its end, by runPolicy.ttlSecondsAfterFinished."""
    with Simulation(runPolicy={"ttlSecondsAfterFinished": 60, "cleanPodPolicy": "None"}) as it:
        started(it)
        with it.step("the launcher exits with 0"):
            it.launcher_ends(0, "trained 8 epochs")
        with it.step("60 s later"):
            it.wait(61)
        return it.transcript()


@scenario
def deletion() -> Manifest:
    """Deleted while it runs."""
    with Simulation() as it:
        started(it)
        with it.step("deletion in the foreground begins, and worker 1 is deleted"):
            it.delete(foreground=True)
            it.lose(it.pods("worker")[1])
        with it.step("the training is deleted"):
            it.delete()
        return it.transcript()


def exit_statuses() -> dict[int, Manifest]:
    """The launcher's exit status, and the resulting status, event and condition."""
    return {code: _after_exit(code) for code in (*range(13), 13, 75, 130, 137, 143, 255)}


def _after_exit(code: int) -> Manifest:
    with Simulation() as it:
        started(it)
        with it.step("the launcher exits"):
            it.launcher_ends(code, f"message of exit status {code}", rank=1, log=["last line of rank 1's log"])
            it.wait(6)
        status, step = it.status, it.steps[-1]
        ended = next(each for each in status["attempts"] if each["number"] == 1)
        return {
            "attempt": ended,
            "failures": status.get("failures", 0),
            "disruptions": status.get("disruptions", 0),
            "phase": status["phase"],
            "reason": status["reason"],
            "events": step.get("events", []),
            "conditions": step.get("conditions", []),
            "metrics": [line for line in it.operator.metrics() if "attempts" in line],
        }
