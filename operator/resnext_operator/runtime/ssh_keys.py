"""Generates the SSH keys of a training."""

from resnext_operator.rendering.secret import KeyPair, Keys


def generate() -> Keys:
    """New keys for a training."""
    return Keys(_pair(), _pair())


def _pair() -> KeyPair:
    # Imported lazily, so that commands that need no keys run without the package.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    return KeyPair(
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode(),
        key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + "\n",
    )
