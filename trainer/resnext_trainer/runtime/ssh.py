"""Configuration files for ssh from the launcher to the workers. Both run as the same unprivileged user."""

import socket
from pathlib import Path

ALIAS = "resnext-worker"
"""Host name of the host key that all workers of a training share, so that replaced pods are trusted as well."""


def sshd_config(port: int, keys: Path, run_dir: Path) -> str:
    """Configuration of the worker's sshd, for a read-only root file system: public keys only, no PAM.

    StrictModes would reject keys from a Secret volume, which are readable by the group. No environment variables are
    accepted from the client: ranks read the pod's environment from a file.
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
    """Configuration of mpirun's ssh: accepts only the pinned host key and never prompts."""
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
    """known_hosts file with the public host key of the workers."""
    return f"{ALIAS} {host_key.strip()}\n"


def private_copy(key: Path, copy: Path) -> None:
    """Copies a key with mode 0600: ssh and sshd reject private keys that the group can read, as in a Secret volume."""
    copy.unlink(missing_ok=True)
    copy.touch(mode=0o600)
    copy.write_bytes(key.read_bytes())


def answers(host: str, port: int, timeout: float = 3.0) -> None:
    """Returns after sshd has sent its banner; raises OSError otherwise. timeout: in seconds."""
    with socket.create_connection((host, port), timeout) as connection:
        # Send a banner: sshd logs an error for every connection closed without one.
        connection.sendall(b"SSH-2.0-probe\r\n")
        banner = connection.recv(4)
    if banner != b"SSH-":
        raise OSError(f"port {port} is open, but no SSH server responds on it")
