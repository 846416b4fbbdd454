"""The files that let the launcher reach the workers by ssh: both sides run as the same user, without any privilege."""

import socket
from pathlib import Path

ALIAS = "resnext-worker"
"""All workers of a training share one host key, known under this name; so a replaced pod is known as well."""


def sshd_config(port: int, keys: Path, run_dir: Path) -> str:
    """For the worker's sshd, in a read-only root: no PAM, and nothing but public keys.

    StrictModes would refuse keys that a Secret's volume leaves readable by the group. No variable is accepted from
    the client: ranks get the pod's own from a file.
    """
    return f"""\
Port {port}
HostKey {run_dir}/host_ed25519
PidFile {run_dir}/sshd.pid
AuthorizedKeysFile {keys}/id_ed25519.pub
AuthenticationMethods publickey
StrictModes no
UsePAM no
PrintMotd no
X11Forwarding no
AllowTcpForwarding no
LogLevel ERROR
"""


def ssh_config(port: int, run_dir: Path) -> str:
    """For mpirun's ssh: the pinned host key or none at all, and never a question."""
    return f"""\
Host *
    Port {port}
    IdentityFile {run_dir}/id_ed25519
    IdentitiesOnly yes
    HostKeyAlias {ALIAS}
    UserKnownHostsFile {run_dir}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    ConnectTimeout 10
    LogLevel ERROR
"""


def known_hosts(host_key: str) -> str:
    """The one public key that every worker must show."""
    return f"{ALIAS} {host_key.strip()}\n"


def private_copy(key: Path, copy: Path) -> None:
    """ssh and sshd refuse a private key that a group may read, as a Secret's volume makes it."""
    copy.unlink(missing_ok=True)
    copy.touch(mode=0o600)
    copy.write_bytes(key.read_bytes())


def answers(host: str, port: int, timeout: float = 3.0) -> None:
    """Returns once an sshd has shown its banner; raises OSError with the reason otherwise."""
    with socket.create_connection((host, port), timeout) as connection:
        # A probe that ends without a greeting is an error in sshd's log, every few seconds.
        connection.sendall(b"SSH-2.0-probe\r\n")
        banner = connection.recv(4)
    if banner != b"SSH-":
        raise OSError(f"port {port} is open, but no sshd answers on it")
