"""The key pairs of a training: one for whoever logs in, one for the hosts. The one place where randomness is made."""

from dataclasses import dataclass


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


def generate() -> Keys:
    """New keys for a training."""
    return Keys(_pair(), _pair())


def _pair() -> KeyPair:
    # Here, so that commands without keys run where the package is missing.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    return KeyPair(
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode(),
        key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + "\n",
    )
