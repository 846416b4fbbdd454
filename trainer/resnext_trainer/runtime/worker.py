"""Main process of a worker pod: runs sshd, through which mpirun starts the ranks, and supervises both.

It runs as PID 1. Open MPI's daemon detaches and becomes its child, so it reaps all processes that exit.
"""

import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

from resnext_trainer.runtime import rank_exec, signals, ssh
from resnext_trainer.runtime.http_server import HttpServer, Response
from resnext_trainer.text import counted

_WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
_KILLED_FOR_MEMORY = 137
"""Exit code that the kubelet reports for an OOM-killed container."""

_MEMORY_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))
"""Files of cgroup v2 and v1 that count OOM-killed processes."""


def run(*, keys: Path, ssh_port: int, health_port: int, run_dir: Path, termination_log: Path) -> int:
    """Serves until SIGTERM, then signals the ranks to save a checkpoint and waits for them. Returns the exit code."""
    # Blocked before any thread starts, so that only sigtimedwait below receives these signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    prepare(keys, ssh_port, run_dir)
    sshd = _start_sshd(run_dir)
    HttpServer({"/readyz": lambda: _ready(ssh_port), "/healthz": lambda: Response(200, b"ok\n")}).start(health_port)
    killed_before = killed_for_memory()
    print(f"worker ready for ranks: sshd on port {ssh_port}, /readyz on port {health_port}", flush=True)
    stopping = False
    while not stopping or _pids(run_dir):
        # OOM kills and exiting ranks cause no signal here, so check both once a second.
        caught = signal.sigtimedwait(_WATCHED, 1.0)
        if sshd in _reap():
            _write_termination_message(termination_log, "sshd exited unexpectedly: see the end of the pod's log")
            return 1
        if killed_for_memory() > killed_before:
            # On cgroup v1 only the rank is killed, and the other ranks of the pod would wait forever.
            _write_termination_message(
                termination_log,
                # The operator recognizes an out-of-memory failure by "OOM-killed".
                "a rank was OOM-killed: increase workers.resources.limits.memory, or lower batchSize",
            )
            return _KILLED_FOR_MEMORY
        if caught and caught.si_signo != signal.SIGCHLD and not stopping:
            stopping = True
            pids = _pids(run_dir)
            print(f"stopping: waiting for {counted(len(pids), 'local rank')} to save a checkpoint", flush=True)
            for pid in pids:
                _signal(pid, signals.STOP)
    os.kill(sshd, signal.SIGTERM)
    return 0


def prepare(keys: Path, ssh_port: int, run_dir: Path) -> None:
    """Writes the files that sshd and the ranks read."""
    shutil.rmtree(rank_exec.ranks(run_dir), ignore_errors=True)
    rank_exec.ranks(run_dir).mkdir(parents=True)
    ssh.private_copy(keys / "host_ed25519", run_dir / "host_ed25519")
    (run_dir / "sshd_config").write_text(ssh.sshd_config(ssh_port, keys, run_dir), encoding="utf-8")
    file = rank_exec.environment_file(run_dir)
    file.touch(mode=0o600)  # the environment may contain secrets
    file.write_text(json.dumps(dict(os.environ)), encoding="utf-8")


def killed_for_memory(counters: tuple[Path, ...] = _MEMORY_COUNTERS) -> int:
    """Number of OOM-killed processes of this pod; 0 if the cgroup does not report it."""
    for counter in counters:
        with suppress(OSError):
            for line in counter.read_text(encoding="utf-8").splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return 0


def _start_sshd(run_dir: Path) -> int:
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd run as root needs it for privilege separation
    # sshd requires an absolute path, and the PATH of an unprivileged user may lack /usr/sbin.
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "/usr/sbin/sshd"
    command = [sshd, "-D", "-e", "-f", str(run_dir / "sshd_config")]
    return os.posix_spawn(sshd, command, os.environ, setsigmask=())


def _ready(ssh_port: int) -> Response:
    try:
        ssh.answers("localhost", ssh_port)
    except OSError as error:
        return Response(503, f"sshd: {error}\n".encode())
    return Response(200, b"ok\n")


def _reap() -> set[int]:
    """Reaps exited children; returns their process IDs."""
    ended = set()
    with suppress(ChildProcessError):
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            ended.add(pid)
    return ended


def _pids(run_dir: Path) -> list[int]:
    """Process IDs of the running local ranks; IDs from an earlier attempt may have been reused by other programs."""
    pids = [int(file.read_text(encoding="utf-8") or 0) for file in rank_exec.ranks(run_dir).glob("*.pid")]
    return [pid for pid in pids if _is_rank(pid)]


def _is_rank(pid: int) -> bool:
    # The command line of a zombie process is empty.
    with suppress(OSError):
        return b"resnext_trainer" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _write_termination_message(termination_log: Path, sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
    with suppress(OSError):
        termination_log.write_text(sentence, encoding="utf-8")
