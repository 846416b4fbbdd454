"""The launcher pod: it starts one attempt with mpirun, and turns what the ranks say into one verdict."""

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

_TERMINATION_MESSAGE = 4096
"""The kubelet cuts a termination message after so many bytes, which would leave no JSON."""

_FINAL = {
    summarize.name.lower()
    for summarize in (
        ExitStatus.INVALID_CONFIGURATION,
        ExitStatus.INVALID_DATA,
        ExitStatus.NON_FINITE_LOSS,
        ExitStatus.NO_VALID_CHECKPOINT,
    )
}
"""Why no retry can help; one rank knows it, and the others only see that rank go."""

MCA: Mapping[str, str] = {
    # Else a domain is cut off, and the name without it may not resolve.
    "orte_keep_fqdn_hostnames": "true",
    "prte_keep_fqdn_hostnames": "true",
    # Only the launcher has an ssh_config: no worker shall start the daemons of others.
    "plm_rsh_no_tree_spawn": "true",
    "plm_ssh_no_tree_spawn": "true",
    # Ranks without capabilities may not read each other's memory (CMA).
    "btl_vader_single_copy_mechanism": "none",
    "smsc": "^cma",
}
"""Open MPI's parameters, under the names of 4 and of 5; each ignores the other's."""


@dataclass(frozen=True)
class Host:
    """A worker as mpirun reaches it."""

    name: str
    slots: int

    @classmethod
    def parse(cls, text: str) -> "Host":
        """From `name:slots`."""
        name, _, slots = text.rpartition(":")
        if not name or not slots.isdecimal() or int(slots) < 1:
            raise ValueError(f"{text!r} is no host: write name:slots, such as flowers-worker-0-0:8")
        return cls(name, int(slots))


@dataclass(frozen=True)
class Options:
    """What the operator says about an attempt, and where things are in the pod."""

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
    """One attempt; its report goes to the termination log, its verdict becomes the exit code."""
    report = Attempt(options).run()
    print(f"{report.verdict}: {report.message}", flush=True)
    with options.termination_log.open("w", encoding="utf-8") as log:
        log.write(fit_termination_message(report))
    return ExitStatus[report.verdict.upper()].value


class Attempt:
    """One launch of all ranks together, which SIGTERM asks to stop."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stop = threading.Event()

    def run(self) -> TerminationReport:
        """Reach the workers, run the ranks, and say how it ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_stop)
        signal.signal(PROFILE, signal.SIG_IGN)  # until there are ranks to profile
        options = self._options
        if missing := unreachable(options.hosts, options.ssh_port, options.deadline, self._stop):
            return _report(ExitStatus.UNREACHABLE, missing)
        if self._stop.is_set():
            return _report(ExitStatus.STOPPED, "asked to stop before the ranks were started")
        try:
            write_files(options)
            return self._mpirun()
        except OSError as error:
            if refused := system_error(error):
                return _report(refused.verdict, refused.message)
            return _report(ExitStatus.CRASHED, f"the ranks could not be started: {error}")

    def _asked_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _mpirun(self) -> TerminationReport:
        process = subprocess.Popen(
            command(self._options),
            env={**os.environ, **mca_environment(self._options.run_dir)},
            # mpirun would read the input of the script that calls us.
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
        return summarize(reports, process.wait(), output, asked_to_stop=self._stop.is_set())

    def _forward_stop_signal(self, process: "subprocess.Popen[str]") -> None:
        self._stop.wait()
        # Again and again: until mpirun knows all its ranks it forwards to none, and once more does a rank no harm.
        while process.poll() is None:
            process.send_signal(STOP)
            time.sleep(5)


def unreachable(hosts: Sequence[Host], port: int, deadline: float, stop: threading.Event) -> str:
    """Waits until every worker's sshd answers; an empty text, or who did not in time and why."""
    until = time.monotonic() + deadline

    def reason(host: Host) -> str:
        while True:
            try:
                ssh.answers(host.name, port)
            except OSError as error:
                if time.monotonic() >= until:
                    return _explain_unreachable(host, error)
            else:
                return ""
            # What lets pods reach each other may still be on its way to the node of one that just started.
            if stop.wait(min(1.0, max(0.0, until - time.monotonic()))):
                return ""

    with ThreadPoolExecutor(min(32, len(hosts))) as threads:
        reasons = [text for text in threads.map(reason, hosts) if text]
    if not reasons:
        return ""
    others = f" (and {len(reasons) - 1} more of {len(hosts)} workers)" if len(reasons) > 1 else ""
    return f"within {deadline:.0f} s {reasons[0]}{others}"


def _explain_unreachable(host: Host, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"worker {host.name} could not be found: its name does not resolve ({error.strerror})"
    return f"worker {host.name} could not be reached by ssh: {error.strerror or error}"


def write_files(options: Options) -> None:
    """What mpirun and its ssh read."""
    run_dir, keys = options.run_dir, options.keys
    run_dir.mkdir(parents=True, exist_ok=True)
    ssh.private_copy(keys / "id_ed25519", run_dir / "id_ed25519")
    (run_dir / "known_hosts").write_text(
        ssh.known_hosts((keys / "host_ed25519.pub").read_text(encoding="utf-8")), encoding="utf-8"
    )
    (run_dir / "ssh_config").write_text(ssh.ssh_config(options.ssh_port, run_dir), encoding="utf-8")
    (run_dir / "hostfile").write_text(hostfile(options.hosts), encoding="utf-8")


def hostfile(hosts: Sequence[Host]) -> str:
    """Open MPI's list of workers, one line each, such as `flowers-worker-0-0 slots=8`."""
    return "".join(f"{host.name} slots={host.slots}\n" for host in hosts)


def mca_environment(run_dir: Path) -> dict[str, str]:
    """Open MPI 5 ignores what 4 is told in its own variables, and then runs every rank on one node."""
    ssh_arguments = f"-F {run_dir / 'ssh_config'}"
    parameters = {**MCA, "plm_rsh_args": ssh_arguments, "plm_ssh_args": ssh_arguments}
    return {f"{world}_MCA_{name}": value for name, value in parameters.items() for world in ("OMPI", "PRTE")}


def command(options: Options) -> list[str]:
    """mpirun and what it starts on every slot: the same interpreter as here, since both are the same image."""
    # -bind-to none: else every rank sits on one core. As root Open MPI wants to be told that it is meant.
    mpirun = ["mpirun", "--hostfile", str(options.run_dir / "hostfile"), "-np", str(options.world)]
    mpirun += [TAGGED, "--bind-to", "none", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]
    # A signal that comes while Python starts must wait for its handler: unhandled it would end the rank.
    rank = ["env", f"--block-signal={STOP.name},{PROFILE.name}"]
    rank += [sys.executable, "-m", "resnext_trainer", "rank", "--run-dir", str(options.run_dir)]
    rank += ["--config", str(options.config), "--attempt", str(options.attempt)]
    rank += ["--num-workers", str(len(options.hosts)), "--world-size", str(options.world)]
    return [*mpirun, *rank, "--metrics-port", str(options.metrics_port)]


def parse_report(line: str) -> TerminationReport | None:
    """The report in a line of output, wherever it starts: a part of another rank's line may stand before it."""
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
    reports: Sequence[TerminationReport], code: int, output: MpirunOutput, *, asked_to_stop: bool
) -> TerminationReport:
    """How the attempt ended: what no retry can cure, else what was said first, else what mpirun left."""
    said = next((report for report in reports if report.verdict in _FINAL), reports[0] if reports else None)
    if said is None:
        said = _infer_report(code, output, asked_to_stop=asked_to_stop)
    return said if said.rank is None else said.model_copy(update={"log": output.last(said.rank)})


def _infer_report(code: int, output: MpirunOutput, *, asked_to_stop: bool) -> TerminationReport:
    """What can be told where no rank said how it ended."""
    words = "\n".join(line for line in output.last() if line.strip("-"))
    if asked_to_stop:
        return _report(
            ExitStatus.STOPPED, f"asked to stop before the ranks could save: they had not come that far\n{words}"
        )
    if first := output.end:
        return _report(
            ExitStatus.CRASHED,
            f"rank {first.rank} ended with {first.how}: {output.last_error_line(first.rank)}",
            first.rank,
        )
    return _report(ExitStatus.CRASHED, f"mpirun ended with exit code {code}, and no rank said why:\n{words}")


def fit_termination_message(report: TerminationReport) -> str:
    """The report as JSON that the kubelet keeps whole: the log loses its oldest lines, then the message its start."""
    while len(text := report.model_dump_json(by_alias=True).encode()) > _TERMINATION_MESSAGE:
        if report.log:
            report = report.model_copy(update={"log": report.log[1:]})
        else:
            message = report.message.removeprefix("…")
            report = report.model_copy(update={"message": f"…{message[max(1, len(message) // 10) :]}"})
    return text.decode()


def _report(verdict: ExitStatus, message: str, rank: int | None = None) -> TerminationReport:
    return TerminationReport(verdict=verdict.name.lower(), message=message.strip(), rank=rank)
