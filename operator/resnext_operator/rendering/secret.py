"""The Secret with the SSH keys of a training."""

from dataclasses import dataclass

from resnext_operator.api.objects.shared import Secret
from resnext_operator.api.training import Training
from resnext_operator.rendering import names
from resnext_operator.rendering.metadata import owned_metadata


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key pair in OpenSSH's formats."""

    private: str
    public: str


@dataclass(frozen=True)
class Keys:
    """All keys of one training."""

    user: KeyPair
    host: KeyPair


def ssh_secret(training: Training, keys: Keys) -> Secret:
    """The keys. Never changed, and yet not `immutable`.

    Of an immutable Secret that is deleted and recreated, a node may go on giving new pods what it had, as long as
    one of the old pods is there.
    """
    content = {
        "id_ed25519": keys.user.private,
        "id_ed25519.pub": keys.user.public,
        "host_ed25519": keys.host.private,
        "host_ed25519.pub": keys.host.public,
    }
    metadata = owned_metadata(training, names.secret_name(training.name))
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "stringData": content}
