"""Advice about unschedulable pods follows from the causes in the scheduler's message."""

import pytest

from resnext_operator.domain.scheduling_advice import container_advice, scheduling_advice

PREEMPTION = " preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."


@pytest.mark.parametrize(
    ("causes", "action"),
    [
        ("pod has unbound immediate PersistentVolumeClaims", "check the unbound PersistentVolumeClaim"),
        ("3 node(s) didn't find available persistent volumes to bind", "check the unbound PersistentVolumeClaim"),
        ('persistentvolumeclaim "images" not found', "create PersistentVolumeClaim images"),
        ("3 node(s) had volume node affinity conflict", "add nodes in the topology domain"),
        ("4 Insufficient nvidia.com/gpu", "add nodes with free nvidia.com/gpu, or lower spec.workers.resources"),
        ("1 Insufficient cpu, 3 Insufficient memory", "add nodes with free cpu and memory"),
        ("4 node(s) didn't match Pod's node affinity/selector", "check spec.workers.nodeSelector"),
        ("4 node(s) didn't match pod anti-affinity rules", "check spec.workers.affinity"),
        ("4 node(s) didn't match pod topology spread constraints", "check spec.workers.topologySpreadConstraints"),
        ("4 node(s) had untolerated taint {nvidia.com/gpu: present}", "add a toleration for nvidia.com/gpu to"),
        ("4 node(s) had untolerated taint {node.kubernetes.io/not-ready: }", "repair the nodes with taint"),
        ("4 node(s) were unschedulable", "uncordon the cordoned nodes"),
        (
            "4 node(s) didn't have free ports for the requested pod ports",
            "add nodes, or remove spec.workers.hostNetwork",
        ),
    ],
)
def test_cause_has_own_advice(causes, action):
    """The advice names the action for this cause, and no other."""
    advice = scheduling_advice(f"0/4 nodes are available: {causes}.{PREEMPTION}", "worker")
    assert advice.startswith(action)
    assert "; " not in advice


def test_several_causes_are_all_answered():
    """With tainted GPU nodes and other nodes without GPUs, both remedies are named; the control plane is not."""
    message = (
        "0/4 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, "
        "1 node(s) had untolerated taint {nvidia.com/gpu: present}, 2 Insufficient nvidia.com/gpu."
    )
    advice = scheduling_advice(message, "worker")
    assert advice == (
        "add nodes with free nvidia.com/gpu, or lower spec.workers.resources; "
        "add a toleration for nvidia.com/gpu to spec.workers.tolerations, or remove the taint"
    )


def test_unbound_claim_does_not_suggest_nodes():
    """More nodes do not bind a claim."""
    message = "0/4 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"
    assert "add nodes" not in scheduling_advice(message, "worker")


def test_launcher_advice_names_launcher_field():
    """The launcher has resources of its own."""
    assert "spec.launcher.resources" in scheduling_advice("0/1 nodes are available: 1 Insufficient cpu.", "launcher")


def test_unknown_cause_refers_to_scheduler():
    """A scheduler may report any text."""
    assert scheduling_advice("waiting for capacity", "worker") == "resolve the cause that the scheduler reports"


@pytest.mark.parametrize("reason", ["CreateContainerConfigError", "CreateContainerError"])
def test_container_error_has_no_image_advice(reason):
    """The image is present; a mount, a device or the container runtime is the cause."""
    advice = container_advice(f"{reason}: failed to prepare subPath for volumeMount scratch")
    assert "volume mount" in advice
    assert "image" not in advice


@pytest.mark.parametrize(
    ("message", "action"),
    [
        ('secret "tracker" not found', "create Secret tracker, or set optional"),
        ("couldn't find key token in Secret e2e/tracker", "add key token to Secret tracker, or set optional"),
    ],
)
def test_missing_secret_has_own_advice(message, action):
    """A variable of the workers names it; the pods wait until it exists."""
    assert container_advice(f"CreateContainerConfigError: {message}").startswith(action)


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName"])
def test_image_error_has_general_advice(reason):
    """The advice of the reason ContainerNotStarting fits."""
    assert container_advice(f"{reason}: Back-off pulling image") == ""
