"""Launcher pod: runs one attempt with mpirun and combines the reports of the ranks into one exit status."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from resnext_trainer.contract import REPORT_PREFIX, ExitStatus, TerminationReport
from resnext_trainer.errors import system_error
from resnext_trainer.runtime import ssh
from resnext_trainer.runtime.mpirun_output import TAGGED, MpirunOutput
from resnext_trainer.runtime.signals import PROFILE, STOP
from resnext_trainer.text import counted

_TERMINATION_MESSAGE = 4096
"""Maximum size in bytes; the kubelet truncates longer termination messages, which breaks the JSON."""

_FINAL = {
    status.name.lower()
    for status in (
        ExitStatus.INVALID_CONFIGURATION,
        ExitStatus.INVALID_DATA,
        ExitStatus.NON_FINITE_LOSS,
        ExitStatus.NO_VALID_CHECKPOINT,
    )
}
"""Exit statuses that no retry can fix. They take precedence, because the other ranks only see that one exited."""

MCA: Mapping[str, str] = {
    # By default the domain is cut off, and the short name may not resolve.
    "orte_keep_fqdn_hostnames": "true",
    "prte_keep_fqdn_hostnames": "true",
    # Only the launcher has an ssh_config, so workers must not start the daemons of other workers.
    "plm_rsh_no_tree_spawn": "true",
    "plm_ssh_no_tree_spawn": "true",
    # Without capabilities, ranks cannot read each other's memory (CMA).
    "btl_vader_single_copy_mechanism": "none",
    "smsc": "^cma",
    # Without CMA, messages are copied in fragments, by default of 32 KiB, and a rank sleeps between two fragments. Two
    # ranks of a pod exchange 177 MB in 0.41 s, and in 0.14 s with fragments of 256 KiB, which fit into the 4 MiB of
    # shared memory of each rank.
    "btl_vader_max_send_size": "262144",
    "btl_sm_max_send_size": "262144",
}
"""Open MPI parameters with their names in versions 4 and 5; each version ignores those of the other."""


@dataclass(frozen=True)
class Host:
    """A worker pod in mpirun's host file."""

    name: str
    slots: int

    @classmethod
    def parse(cls, text: str) -> "Host":
        """Parses `name:slots`; raises ValueError."""
        name, _, slots = text.rpartition(":")
        if not name or not slots.isdecimal() or int(slots) < 1:
            raise ValueError(f"{text!r} is not a host: use NAME:SLOTS, such as flowers-worker-0-0:8")
        return cls(name, int(slots))


@dataclass(frozen=True)
class Options:
    """Arguments of an attempt, and paths and ports in the pod."""

    config: Path
    attempt: int
    world: int
    hosts: tuple[Host, ...]
    keys: Path
    run_dir: Path
    termination_log: Path
    ssh_port: int
    metrics_port: int
    deadline: float


def run(options: Options) -> int:
    """Runs one attempt, writes its report to the termination log, and returns its exit status."""
    report = Attempt(options).run()
    print(f"{report.verdict}: {report.message}", flush=True)
    with options.termination_log.open("w", encoding="utf-8") as log:
        log.write(fit_termination_message(report))
    return ExitStatus[report.verdict.upper()].value


_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Attempt:
    """One run of all ranks; SIGTERM stops it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stop = threading.Event()

    def run(self) -> TerminationReport:
        """Waits for the workers, runs the ranks, and reports how the attempt ended."""
        for number in _STOP_SIGNALS:
            signal.signal(number, self._request_stop)
        signal.signal(PROFILE, signal.SIG_IGN)  # until the ranks are running
        options = self._options
        if missing := unreachable(options.hosts, options.ssh_port, options.deadline, self._stop):
            return _report(ExitStatus.UNREACHABLE, missing)
        if self._stop.is_set():
            return _report(ExitStatus.STOPPED, "stopped before the ranks were started")
        try:
            write_files(options)
            return self._mpirun()
        except OSError as error:
            if converted := system_error(error):
                return _report(converted.verdict, converted.message)
            return _report(ExitStatus.CRASHED, f"the ranks could not be started: {error}")

    def _request_stop(self, _number: int, _frame: FrameType | None) -> None:
        # A second signal within `set` must not call it again: it would wait for the lock of the first call.
        for number in _STOP_SIGNALS:
            signal.signal(number, lambda *_: None)
        self._stop.set()

    def _mpirun(self) -> TerminationReport:
        process = subprocess.Popen(
            command(self._options),
            env={**os.environ, **mca_environment(self._options.run_dir)},
            # mpirun would otherwise read the standard input of a calling script.
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        threading.Thread(target=self._forward_stop_signal, args=(process,), daemon=True).start()
        signal.signal(PROFILE, lambda *_: process.send_signal(PROFILE))
        reports: list[TerminationReport] = []
        output = MpirunOutput()
        assert process.stdout is not None
        for raw in process.stdout:
            for line in output.read(raw):
                if (report := parse_report(line.text)) is not None:
                    reports.append(report)
                else:
                    output.keep(line)
                    print(line, flush=True)
        return summarize(reports, process.wait(), output, stop_requested=self._stop.is_set())

    def _forward_stop_signal(self, process: "subprocess.Popen[str]") -> None:
        self._stop.wait()
        # Repeat the signal: mpirun drops it until it knows all ranks, and ranks ignore duplicates.
        while process.poll() is None:
            process.send_signal(STOP)
            time.sleep(5)


def unreachable(hosts: Sequence[Host], port: int, deadline: float, stop: threading.Event) -> str:
    """Waits until every worker's sshd answers; returns "" or the reason why workers are unreachable.

    deadline: seconds to wait.
    """
    until = time.monotonic() + deadline

    def reason(host: Host) -> str:
        while True:
            try:
                ssh.answers(host.name, port)
            except OSError as error:
                if time.monotonic() >= until:
                    return _explain_unreachable(host, deadline, error)
            else:
                return ""
            # Retry: the network rules for a new pod may not have reached its node yet.
            if stop.wait(min(1.0, max(0.0, until - time.monotonic()))):
                return ""

    with ThreadPoolExecutor(min(32, len(hosts))) as threads:
        reasons = [text for text in threads.map(reason, hosts) if text]
    if not reasons:
        return ""
    more = counted(len(reasons) - 1, "more worker")
    return reasons[0] + (f"; {more} of {len(hosts)} could not be reached either" if len(reasons) > 1 else "")


def _explain_unreachable(host: Host, deadline: float, error: OSError) -> str:
    within = f"within {deadline:.0f} s"
    if isinstance(error, socket.gaierror):
        return f"worker {host.name} could not be found {within}: its name does not resolve ({error.strerror})"
    return f"worker {host.name} could not be reached over ssh {within}: {error.strerror or error}"


def write_files(options: Options) -> None:
    """Writes the files that mpirun and ssh read: host file, ssh_config, known_hosts and the private key."""
    run_dir, keys = options.run_dir, options.keys
    run_dir.mkdir(parents=True, exist_ok=True)
    ssh.private_copy(keys / "id_ed25519", run_dir / "id_ed25519")
    (run_dir / "known_hosts").write_text(
        ssh.known_hosts((keys / "host_ed25519.pub").read_text(encoding="utf-8")), encoding="utf-8"
    )
    (run_dir / "ssh_config").write_text(ssh.ssh_config(options.ssh_port, run_dir), encoding="utf-8")
    (run_dir / "hostfile").write_text(hostfile(options.hosts), encoding="utf-8")


def hostfile(hosts: Sequence[Host]) -> str:
    """Open MPI host file, one line per worker, such as `flowers-worker-0-0 slots=8`."""
    return "".join(f"{host.name} slots={host.slots}\n" for host in hosts)


def mca_environment(run_dir: Path) -> dict[str, str]:
    """Parameters as environment variables of Open MPI 4 (OMPI_MCA_) and 5 (PRTE_MCA_).

    Open MPI 5 ignores the launcher parameters under their OMPI_MCA_ names and runs all ranks on one node.
    """
    ssh_arguments = f"-F {run_dir / 'ssh_config'}"
    parameters = {**MCA, "plm_rsh_args": ssh_arguments, "plm_ssh_args": ssh_arguments}
    return {f"{world}_MCA_{name}": value for name, value in parameters.items() for world in ("OMPI", "PRTE")}


def command(options: Options) -> list[str]:
    """Command line of mpirun; ranks use the interpreter of the launcher, because both pods use the same image."""
    # --bind-to none: by default each rank is bound to one core. --allow-run-as-root: mpirun refuses root without it.
    mpirun = ["mpirun", "--hostfile", str(options.run_dir / "hostfile"), "-np", str(options.world)]
    mpirun += [TAGGED, "--bind-to", "none", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]
    # Blocked, so that a signal sent while Python starts stays pending; without a handler it would kill the rank.
    rank = ["env", f"--block-signal={STOP.name},{PROFILE.name}"]
    rank += [sys.executable, "-m", "resnext_trainer", "rank", "--run-dir", str(options.run_dir)]
    rank += ["--config", str(options.config), "--attempt", str(options.attempt)]
    rank += ["--num-workers", str(len(options.hosts)), "--world-size", str(options.world)]
    return [*mpirun, *rank, "--metrics-port", str(options.metrics_port)]


def parse_report(line: str) -> TerminationReport | None:
    """Report in a line of output, or None. Part of another rank's line may precede it."""
    _, tag, text = line.partition(REPORT_PREFIX)
    if not tag:
        return None
    try:
        fields, _ = json.JSONDecoder().raw_decode(text)
        report = TerminationReport.model_validate(fields)
    except (json.JSONDecodeError, ValidationError):
        return None
    return report if report.verdict.upper() in ExitStatus.__members__ else None


def summarize(
    reports: Sequence[TerminationReport], code: int, output: MpirunOutput, *, stop_requested: bool
) -> TerminationReport:
    """Selects the report of the attempt: one that no retry can fix, else the first, else one from mpirun's output."""
    report = next((each for each in reports if each.verdict in _FINAL), reports[0] if reports else None)
    if report is None:
        report = _infer_report(code, output, stop_requested=stop_requested)
    return report if report.rank is None else report.model_copy(update={"log": output.last(report.rank)})


def _infer_report(code: int, output: MpirunOutput, *, stop_requested: bool) -> TerminationReport:
    """Report of an attempt in which no rank reported."""
    words = "\n".join(line for line in output.last() if line.strip("-"))
    if stop_requested:
        return _report(ExitStatus.STOPPED, f"stopped during startup, before the ranks could save a checkpoint\n{words}")
    if first := output.end:
        return _report(
            ExitStatus.CRASHED,
            f"rank {first.rank} ended with {first.how}: {output.last_error_line(first.rank)}",
            first.rank,
        )
    return _report(ExitStatus.CRASHED, f"mpirun exited with code {code}, and no rank reported a reason:\n{words}")


def fit_termination_message(report: TerminationReport) -> str:
    """Report as JSON of at most 4096 bytes: drops the oldest log lines first, then the start of the message."""
    while len(text := report.model_dump_json(by_alias=True).encode()) > _TERMINATION_MESSAGE:
        if report.log:
            report = report.model_copy(update={"log": report.log[1:]})
        else:
            message = report.message.removeprefix("…")
            report = report.model_copy(update={"message": f"…{message[max(1, len(message) // 10) :]}"})
    return text.decode()


def _report(verdict: ExitStatus, message: str, rank: int | None = None) -> TerminationReport:
    return TerminationReport(verdict=verdict.name.lower(), message=message.strip(), rank=rank)
