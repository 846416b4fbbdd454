"""Warnings that every rank of a pod would log."""

import logging
import os
import subprocess
import sys

import pytest

from resnext_trainer.runtime.once_per_pod import warn_once_per_pod

RANK = """
import logging, sys
from resnext_trainer.runtime.once_per_pod import warn_once_per_pod
for message in sys.argv[1:]:
    warn_once_per_pod(logging.getLogger(), message)
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def rank():
    """Starts a process that logs messages once per pod, and waits until it has done so."""
    started = []

    def start(*messages, attempt="1"):
        process = subprocess.Popen(
            [sys.executable, "-c", RANK, *messages],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PMIX_NAMESPACE": attempt},
        )
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "done\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def logged(process):
    """The lines of a rank, which then ends."""
    return process.communicate("")[1].splitlines()


def test_warning_of_three_ranks_logged_by_one(rank, tmp_path):
    """Another message, and the same message of another attempt, are logged as well."""
    same, other = f"{tmp_path} is full", f"{tmp_path} is read-only"
    ranks = [rank(same), rank(same), rank(same, other), rank(same, attempt="2")]
    assert [logged(each) for each in ranks] == [[same], [], [other], [same]]


def test_warning_of_ended_rank_logged_again(rank, tmp_path):
    """The next attempt in the same pod logs it."""
    message = f"{tmp_path} is full"
    assert logged(rank(message)) == [message]
    assert logged(rank(message)) == [message]


def test_warning_without_abstract_sockets_always_logged(monkeypatch, tmp_path, caplog):
    """A sandbox may forbid them; no message is lost."""

    def forbidden(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("socket.socket", forbidden)
    for _ in range(2):
        warn_once_per_pod(logging.getLogger(), f"{tmp_path} is full")
    assert caplog.messages == [f"{tmp_path} is full"] * 2
