"""The Secret with the SSH keys of a training."""

from dataclasses import dataclass

from resnext_operator.api.objects.shared import Secret
from resnext_operator.api.training import Training
from resnext_operator.rendering import names
from resnext_operator.rendering.metadata import owned_metadata


@dataclass(frozen=True)
class KeyPair:
    """An Ed25519 key pair in OpenSSH format."""

    private: str
    public: str


@dataclass(frozen=True)
class Keys:
    """All keys of one training."""

    user: KeyPair
    host: KeyPair


def ssh_secret(training: Training, keys: Keys) -> Secret:
    """The Secret with the keys. The operator never updates it, but does not set `immutable`.

    If an immutable Secret is deleted and recreated, the kubelet may mount the old content in new pods for as long as
    an old pod on that node uses it.
    """
    content = {
        "id_ed25519": keys.user.private,
        "id_ed25519.pub": keys.user.public,
        "host_ed25519": keys.host.private,
        "host_ed25519.pub": keys.host.public,
    }
    metadata = owned_metadata(training, names.secret_name(training.name))
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "stringData": content}
