"""Volumes of the pods and the mounts of their containers."""

from resnext_operator.api.objects.volume import Volume, VolumeMount
from resnext_operator.api.training import Training
from resnext_operator.rendering import names
from resnext_operator.rendering.claims import checkpoint_claim_name


def common_volumes(training: Training) -> tuple[list[Volume], list[VolumeMount]]:
    """Volumes and mounts of both roles."""
    volumes: list[Volume] = [
        {"name": "config", "configMap": {"name": names.config_map_name(training.name)}},
        # Owner and group only: ssh rejects private keys that others can read.
        {"name": "keys", "secret": {"secretName": names.secret_name(training.name), "defaultMode": 0o440}},
    ]
    volumes += [{"name": name, "emptyDir": {}} for name in ("run", "tmp", "home")]
    mounts: list[VolumeMount] = [
        {"name": "config", "mountPath": names.CONFIG_DIR, "readOnly": True},
        {"name": "keys", "mountPath": names.KEYS_DIR, "readOnly": True},
        {"name": "run", "mountPath": names.RUN_DIR},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "home", "mountPath": "/home/resnext"},
    ]
    return volumes, mounts


def worker_volumes(training: Training, index: int) -> tuple[list[Volume], list[VolumeMount]]:
    """Volumes and mounts of a worker. Only worker 0 mounts the checkpoint claim."""
    volumes, mounts = common_volumes(training)
    memory = str(training.spec.workers.shared_memory)
    volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": memory}})
    mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    if dataset := training.spec.dataset:
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": dataset.claim_name, "readOnly": True}})
        mounts.append(_mount("data", names.DATA_DIR, dataset.sub_path, read_only=True))
    if index == 0:
        claim_name = checkpoint_claim_name(training)
        volumes.append({"name": "checkpoints", "persistentVolumeClaim": {"claimName": claim_name}})
        # Without subPath: a directory that the kubelet creates for it is owned by root, because fsGroup does not apply.
        mounts.append({"name": "checkpoints", "mountPath": names.CHECKPOINTS_DIR})
    return volumes + _user_volumes(training), mounts + _user_mounts(training)


def _user_volumes(training: Training) -> list[Volume]:
    """The user's volumes, prefixed so that their names never collide with the operator's."""
    return [{"name": f"user-{each.name}", **each.source} for each in training.spec.workers.volumes]


def _user_mounts(training: Training) -> list[VolumeMount]:
    # hostPath volumes are read-only: a user with write access could create a symlink that leaves the allowed path.
    of_nodes = {each.name for each in training.spec.workers.volumes if each.host_path}
    return [
        _mount(f"user-{each.name}", each.mount_path, each.sub_path, read_only=each.read_only or each.name in of_nodes)
        for each in training.spec.workers.volume_mounts
    ]


def _mount(name: str, path: str, sub_path: str, *, read_only: bool) -> VolumeMount:
    mount: VolumeMount = {"name": name, "mountPath": path}
    if sub_path:
        mount["subPath"] = sub_path
    if read_only:
        mount["readOnly"] = True
    return mount
