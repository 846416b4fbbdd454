"""Volumes of the pods, and where their containers mount them."""

from resnext_operator.api.objects.volume import Volume, VolumeMount
from resnext_operator.api.training import Training
from resnext_operator.rendering import names
from resnext_operator.rendering.claims import checkpoint_claim_name


def common_volumes(training: Training) -> tuple[list[Volume], list[VolumeMount]]:
    """What the pods of both roles mount."""
    volumes: list[Volume] = [
        {"name": "config", "configMap": {"name": names.config_map_name(training.name)}},
        # 0440 with the pods' group: ssh refuses keys that others can read.
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
    """What a worker mounts: only the first one the checkpoints."""
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
        # The whole claim: what the kubelet creates for a subPath belongs to root, where fsGroup does not reach.
        mounts.append({"name": "checkpoints", "mountPath": names.CHECKPOINTS_DIR})
    return volumes + _user_volumes(training), mounts + _user_mounts(training)


def _user_volumes(training: Training) -> list[Volume]:
    """Under names of their own, so that they never meet the operator's."""
    return [{"name": f"user-{each.name}", **each.source} for each in training.spec.workers.volumes]


def _user_mounts(training: Training) -> list[VolumeMount]:
    # A user who may write to a directory of the node could leave a link there that leads out of it.
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
