"""Launcher, worker and ranks together, with real sshd, ssh and mpirun over loopback."""

import json
import signal

import pytest

from resnext_trainer.contract import REPORT_PREFIX, ExitStatus, TerminationReport
from resnext_trainer.runtime import launcher
from resnext_trainer.runtime.mpirun_output import PEERS_LOST, FirstExit, Line, MpirunOutput
from tests.support.pods import Pods, wait_for

# Replaces the trainer. Ranks find it only through the worker's PYTHONPATH, which tests the environment as well.
STAND_IN = """
import json, os, pathlib, signal, sys, time
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
def end(verdict, code):
    message = f"of {os.environ['OMPI_COMM_WORLD_SIZE']} ranks"
    print("resnext-report " + json.dumps({"verdict": verdict, "message": message}), flush=True)
    os._exit(code)
def stop(*_):
    end("stopped", 0) if rank == 0 else os._exit(0)
signal.signal(signal.SIGUSR2, stop)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
pathlib.Path(os.environ["STARTED"], str(rank)).touch()
print("arguments", *sys.argv[1:], flush=True)
match os.environ["ENDING"]:
    case "completed":
        end("completed", 0) if rank == 0 else os._exit(0)
    case "invalid_data" if rank == 1:
        end("invalid_data", 3)
    case "crashed" if rank == 1:
        sys.exit("RuntimeError: out of luck")
time.sleep(120)
"""


class StandIn(Pods):
    """Worker and launcher processes whose ranks end as configured by the test."""

    def worker_whose_ranks(self, ending):
        package = self.folder / "stand-in" / "resnext_trainer"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(STAND_IN)
        (self.folder / "started").mkdir()
        return self.worker(
            PYTHONPATH=str(self.folder / "stand-in"), STARTED=str(self.folder / "started"), ENDING=ending
        )

    def both_ranks_run(self):
        return len(list((self.folder / "started").iterdir())) == 2


@pytest.fixture
def pods(tmp_path):
    pods = StandIn(tmp_path)
    yield pods
    pods.end()


@pytest.mark.parametrize(("ending", "code"), [("completed", 0), ("invalid_data", 3), ("crashed", 1)])
def test_launcher_returns_rank_exit_status_and_report(pods, ending, code):
    """The report of a rank becomes the launcher's exit code and termination message."""
    pods.worker_whose_ranks(ending)
    launcher = pods.launcher()
    assert launcher.wait(60) == code, pods.log_of("launch")
    assert pods.report().verdict == ending
    assert ("out of luck" if ending == "crashed" else "of 2 ranks") in pods.report().message
    if ending == "crashed":
        assert pods.report().rank == 1
        assert "RuntimeError: out of luck" in pods.report().log
    assert "arguments train --config" in pods.log_of("launch")


def test_launcher_sigterm_lets_ranks_save(pods):
    """On SIGTERM the launcher stops the ranks by SIGUSR2, so that they can save."""
    pods.worker_whose_ranks("when asked")
    launcher = pods.launcher()
    wait_for(pods.both_ranks_run)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(60) == ExitStatus.STOPPED.value
    assert pods.report().message == "of 2 ranks"


def test_worker_sigterm_waits_for_ranks_to_save(pods):
    """On SIGTERM a worker stops its ranks and exits after them."""
    worker = pods.worker_whose_ranks("when asked")
    launcher = pods.launcher()
    wait_for(pods.both_ranks_run)
    worker.send_signal(signal.SIGTERM)
    assert launcher.wait(60) == ExitStatus.STOPPED.value
    assert worker.wait(60) == 0
    assert not pods.ready()


@pytest.mark.parametrize(("host", "why"), [("nobody.invalid", "does not resolve"), ("127.0.0.3", "Connection refused")])
def test_launcher_unreachable_worker_reported(pods, host, why):
    """The report names the worker and the cause."""
    launcher = pods.launcher(hosts=(f"{host}:2",))
    assert launcher.wait(60) == ExitStatus.UNREACHABLE.value
    assert pods.report().verdict == "unreachable"
    assert host in pods.report().message
    assert why in pods.report().message


def test_launcher_missing_ssh_key_reported(pods):
    """The report names the missing key file."""
    pods.worker_whose_ranks("completed")
    (pods.folder / "keys" / "id_ed25519").unlink()
    assert pods.launcher().wait(60) == ExitStatus.CRASHED.value
    assert str(pods.folder / "keys" / "id_ed25519") in pods.report().message


def test_summarize_permanent_failure_takes_precedence():
    """A permanent failure takes precedence over an earlier report that can be retried."""
    hung, refused = (
        TerminationReport(verdict="hung", message="waited"),
        TerminationReport(verdict="invalid_data", message="a record is cut"),
    )
    assert launcher.summarize([hung, refused], 8, MpirunOutput(), stop_requested=False) == refused
    assert launcher.summarize([hung], 3, MpirunOutput(), stop_requested=False) == hung


def output(*printed):
    read = MpirunOutput()
    for raw in printed:
        for line in read.read(f"{raw}\n"):
            read.keep(line)
    return read


def test_summarize_no_report_after_stop_is_stopped():
    """Ranks that end without a report after a stop request are stopped, not crashed."""
    assert launcher.summarize([], 140, output("killed"), stop_requested=True).verdict == "stopped"
    assert launcher.summarize([], 140, output("killed"), stop_requested=False).verdict == "crashed"


KILLED = "mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 (Killed)."
ENDED = (
    "the job to be terminated. The first process to do so was:",
    "",
    "  Process name: [[1,1],1]",
    "  Exit code:    3",
)


@pytest.mark.parametrize(
    ("notice", "how"), [([KILLED], "signal 9 (Killed)"), (ENDED, "exit code 3")], ids=["signal", "exit code"]
)
def test_summarize_crash_names_first_exited_rank(notice, how):
    """The report has the rank that ended first, its last line and the tail of its log."""
    lines = [f"[1,{rank}]<stderr>:line {number} of {rank}" for number in range(30) for rank in range(3)]
    report = launcher.summarize([], 1, output(*lines, *notice), stop_requested=False)
    assert (report.verdict, report.rank) == ("crashed", 1)
    assert report.message == f"rank 1 ended with {how}: line 29 of 1"
    assert report.log == tuple(f"line {number} of 1" for number in range(18, 30))


def test_summarize_crash_message_is_last_stderr_line():
    """The message is the last line that the rank wrote to stderr, else to stdout."""
    lines = ["[1,1]<stderr>:RuntimeError: out of luck", "[1,1]<stdout>:epoch 1", "[1,0]<stderr>:lost"]
    message = launcher.summarize([], 1, output(*lines, *ENDED), stop_requested=False).message
    assert message == "rank 1 ended with exit code 3: RuntimeError: out of luck"
    assert launcher.summarize([], 1, output(*lines[1:], *ENDED), stop_requested=False).message.endswith(": epoch 1")
    assert launcher.summarize([], 1, output(*ENDED), stop_requested=False).message.endswith(": no output")


@pytest.mark.parametrize(
    "notice",
    [
        ["  Process name: [[1,1],0]", f"  Exit code:    {PEERS_LOST}"],
        ["ORTE has lost communication with a remote daemon.", KILLED],
    ],
    ids=["peers lost", "pod lost"],
)
def test_summarize_rank_that_lost_peers_not_cause(notice):
    """A rank that ended because its peers were lost is not reported as the cause."""
    report = launcher.summarize([], 1, output("[1,0]<stderr>:HorovodInternalError", *notice), stop_requested=False)
    assert (report.verdict, report.rank, report.log) == ("crashed", None, ())
    assert "HorovodInternalError" in report.message


def test_summarize_report_includes_log_of_failed_rank():
    """The log is that of the rank that caused the failure, not that of the rank that reports."""
    hung = TerminationReport(verdict="hung", message="rank 1 does not answer", rank=1)
    report = launcher.summarize(
        [hung], 8, output("[1,0]<stdout>:epoch 1", "[1,1]<stderr>:reading"), stop_requested=False
    )
    assert (report.rank, report.log) == (1, ("reading",))


@pytest.mark.parametrize("tag", ["[1,{}]<{}>:", "[prterun-vm-77@1,{}]<{}>: "], ids=["Open MPI 4", "Open MPI 5"])
def test_mpirun_output_reassembles_tagged_lines(tag):
    """Tagged fragments of Open MPI 4 and 5 become whole lines of each rank."""

    def piece(rank, text, stream="stdout"):
        return tag.format(rank, stream) + text

    read = MpirunOutput()
    raw = [
        piece(1, "half of ") + piece(0, "epoch ") + piece(1, "warning\r", "stderr") + "\n",
        piece(0, "1") + piece(1, "it\n"),
        piece(0, "\n"),
        piece(1, "  indented") + "\n",
        "----\n",
        "\n",
    ]
    lines = [line for each in raw for line in read.read(each)]
    assert lines == [
        Line(1, "warning", is_stderr=True),
        Line(1, "half of it"),
        Line(0, "epoch 1"),
        Line(1, "  indented"),
        Line(None, "----"),
    ]
    assert [str(line) for line in lines[1:3]] == ["rank 1: half of it", "epoch 1"]
    assert read.end is None
    assert [*read.read(KILLED)] == [Line(None, KILLED)]
    assert read.end == FirstExit(1, "signal 9 (Killed)")


def test_parse_report_within_line_of_other_rank():
    """A report is found in the middle of a line; invalid reports are ignored."""
    line = "epoch 1.0" + REPORT_PREFIX + json.dumps({"verdict": "completed", "message": "all"}) + "step"
    assert launcher.parse_report(line) == TerminationReport(verdict="completed", message="all")
    assert launcher.parse_report(REPORT_PREFIX + "{") is None
    assert launcher.parse_report(REPORT_PREFIX + json.dumps({"verdict": "unheard of", "message": ""})) is None


def test_termination_message_truncated_to_4096_bytes():
    """A long message loses its start, and the result is valid JSON."""
    text = launcher.fit_termination_message(TerminationReport(verdict="crashed", message="ö" * 9000 + "the end"))
    assert len(text.encode()) <= 4096
    assert TerminationReport.model_validate_json(text).message.endswith("the end")


def test_termination_message_keeps_end_of_log():
    """A long log keeps its last lines."""
    lines = tuple(f"{number}" + "x" * 400 for number in range(20))
    report = TerminationReport.model_validate_json(
        launcher.fit_termination_message(TerminationReport(verdict="crashed", message="why", rank=1, log=lines))
    )
    assert report.message == "why"
    assert 5 < len(report.log) < 12
    assert report.log == lines[-len(report.log) :]


def test_mca_environment_covers_open_mpi_4_and_5(tmp_path):
    """Each MCA parameter is set under the prefixes of both versions."""
    environment = launcher.mca_environment(tmp_path)
    assert {name.partition("_MCA_")[0] for name in environment} == {"OMPI", "PRTE"}
    assert environment["OMPI_MCA_plm_rsh_args"] == environment["PRTE_MCA_plm_ssh_args"] == f"-F {tmp_path}/ssh_config"


def test_hostfile_lists_workers_with_slots():
    """The hostfile has one line for each worker."""
    hosts = [launcher.Host.parse(f"flowers-worker-{index}-0:8") for index in range(2)]
    assert launcher.hostfile(hosts) == "flowers-worker-0-0 slots=8\nflowers-worker-1-0 slots=8\n"
