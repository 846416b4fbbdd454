"""Closed, full and unread standard streams, and missing packages: one message or success, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "manifests" / "samples" / "resnext-digits.yaml"
TRAIN, OPERATOR = f"{sys.executable} -m resnext_trainer", f"{sys.executable} -m resnext_operator"
WITHOUT = "import sys; sys.modules.update({names}); from {program}.__main__ import main; sys.exit(main({arguments}))"


def shell(line):
    """Runs a line of bash; returns exit code and standard error, and checks that there is no traceback."""
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        f"{OPERATOR} render -f {SAMPLE}",
        f"{OPERATOR} crd",
        f"{OPERATOR} --help",
        f"{TRAIN} --help",
        f"{TRAIN} train --set epochs=none",
        f"{TRAIN} data digits --help",
    ],
)
def test_stdout_full_prints_message(command):
    """Covers output of argparse."""
    code, text = shell(f"{command} > /dev/full")
    assert (code, text.partition(": ")[2]) == (1, "cannot write to standard output: No space left on device\n")


@pytest.mark.parametrize(
    "command",
    [f"{OPERATOR} crd", f"{OPERATOR} run", f"{TRAIN} inspect", f"{TRAIN} train", f"{TRAIN} worker", f"{TRAIN} --help"],
)
def test_stdout_closed_prints_message(command):
    """Checked before any file is opened, which would get the descriptor of standard output."""
    code, text = shell(f"{command} >&-")
    assert (code, text.partition(": ")[2].partition(":")[0]) == (1, "standard output is closed")


@pytest.mark.parametrize("command", [f"{OPERATOR} crd", f"{TRAIN} --help", f"{TRAIN} train --set epochs=none"])
def test_stdout_without_reader_exits_141(command):
    """The exit code is that of a command ended by SIGPIPE."""
    code, text = shell(f"{command} | true; exit ${{PIPESTATUS[0]}}")
    assert (code, text) == (141, "")


def test_stdin_closed_prints_message():
    """Closed standard input is not an empty file."""
    code, text = shell(f"{OPERATOR} render -f - <&-")
    assert (code, text.partition(":")[0]) == (2, "standard input is closed or unreadable")


@pytest.mark.parametrize("command", [f"{OPERATOR} crd", f"{TRAIN} --help"])
def test_stdin_and_stderr_closed_ignored_if_unused(command):
    """Uses a command that needs neither stream."""
    assert shell(f"{command} > /dev/null <&- 2>&-") == (0, "")


def test_stderr_closed_keeps_exit_code():
    """The message is lost, but the exit code is kept."""
    assert shell(f"{OPERATOR} render -f /no/such/file 2>&-") == (2, "")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (f"KUBECONFIG=/nope HOME=/nope {OPERATOR} watch x", "set KUBECONFIG"),
        (f"{TRAIN} worker --keys /nope --run-dir $(mktemp -d) --termination-log /dev/null", "/nope/host_ed25519"),
        (f"{TRAIN} rank --config /nope --world-size 1 --run-dir /nope", "/nope/ranks"),
    ],
)
def test_command_outside_pod_prints_message(command, sentence):
    """The message names the missing file."""
    code, text = shell(command)
    assert code == 1
    assert sentence in text


@pytest.mark.parametrize(
    ("program", "arguments", "module", "sentence"),
    [
        ("resnext_trainer", ["inspect"], "tensorflow", "TensorFlow is not installed: pip install 'resnext-operator[tr"),
        ("resnext_trainer", ["train"], "tensorflow", "TensorFlow is not installed: pip install 'resnext-operator[trai"),
        ("resnext_trainer", ["evaluate"], "tensorflow", "TensorFlow is not installed"),
        ("resnext_trainer", ["predict", "x.jpg"], "tensorflow", "TensorFlow is not installed"),
        ("resnext_trainer", ["export", "--output", "/tmp/x"], "tensorflow", "TensorFlow is not installed"),
        ("resnext_trainer", ["benchmark", "training"], "tensorflow", "TensorFlow is not installed"),
        ("resnext_trainer", ["data", "digits", "--output", "{tmp}"], "sklearn", "scikit-learn is not installed"),
        ("resnext_operator", ["run"], "kopf", "kopf is not installed: pip install 'resnext-operator[operator]'"),
        ("resnext_operator", ["watch", "x"], "kubernetes", "kubernetes is not installed"),
        ("resnext_operator", ["render", "-f", str(SAMPLE)], "cryptography", "cryptography is not installed"),
    ],
)
def test_missing_package_message_names_extra(tmp_path, program, arguments, module, sentence):
    """None in sys.modules makes an import fail as if the package were absent."""
    arguments = [each.replace("{tmp}", str(tmp_path)) for each in arguments]
    code = WITHOUT.format(names={module: None}, program=program, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert sentence in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mpirun only refuses root")
def test_documented_mpirun_runs_as_root():
    """Containers run as root, and mpirun rejects root without its option."""
    (line,) = (line for line in (ROOT / "docs" / "training.md").read_text().splitlines() if line.startswith("mpirun"))
    options, _, _ = line.partition("resnext-train")
    done = subprocess.run([*options.split(), "--oversubscribe", "true"], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
