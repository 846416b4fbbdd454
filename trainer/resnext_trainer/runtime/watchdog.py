"""Ends a rank that makes no progress, and reports which rank caused the stall.

A rank whose peer is stopped waits in the allreduce forever. Horovod's stall check does not help, because its
coordinator blocks in the same collective. Therefore a watchdog thread in each rank queries the state of all ranks over
HTTP when no step completes in time. A rank that does not answer is stopped or lost; a rank that is not in the allreduce
is the one that the others wait for.
"""

import faulthandler
import http.client
import json
import os
import socket
import sys
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from resnext_trainer.contract import ExitStatus, TerminationReport, print_report
from resnext_trainer.runtime.heartbeat import ALLREDUCE, Heartbeat, State
from resnext_trainer.text import counted

if TYPE_CHECKING:  # imports TensorFlow, and the watchdog covers that import
    from resnext_trainer.runtime.distributed import Communicator

_ANSWER_SECONDS = 3.0
_FIRST_STEP_SECONDS = 600.0
"""Minimum timeout for the first step, which includes loading libraries, waiting for other ranks and compiling."""
_MAX_RANKS_LISTED = 8
"""Maximum number of ranks in a report; more would not fit into the launcher's termination message."""


class Watchdog:
    """Watches the heartbeat of a rank; a context manager. timeout: in seconds."""

    def __init__(self, heartbeat: Heartbeat, timeout: float) -> None:
        self._heartbeat = heartbeat
        self._timeout = timeout
        self._rest = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._heartbeat.beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if len(self._heartbeat.peers) > 1:
            # Keep watching: Horovod's shutdown at exit waits for the other ranks and can hang as well.
            self._heartbeat.beat("ending")
            return
        self._rest.set()
        self._thread.join()

    @property
    def _allowed(self) -> float:
        return self._timeout if self._heartbeat.step else max(self._timeout, _FIRST_STEP_SECONDS)

    def _watch(self) -> None:
        heartbeat = self._heartbeat
        while (left := self._allowed - heartbeat.idle_seconds) > 0:
            # Wait no longer than the timeout, because the limit drops to it after the first step.
            if self._rest.wait(min(left, self._timeout)):
                return
        own = heartbeat.state()
        others = {rank: url for rank, url in enumerate(heartbeat.peers) if rank != own.rank}
        states = {own.rank: own, **query_peers(others)}
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        for state in states.values():
            if state and state != own and state.doing != ALLREDUCE:
                print(f"stack trace of rank {state.rank}:\n{state.stacks}", file=sys.stderr, flush=True)
        print_report(
            TerminationReport(
                verdict=ExitStatus.HUNG.name.lower(),
                message=(
                    f"rank {own.rank} completed no step for {self._allowed:.0f} s: {describe_stall(own, states)}. "
                    "The log contains the stack traces. If a step or an evaluation batch really takes this long, "
                    "increase stallTimeoutSeconds"
                ),
                progress=self._heartbeat.progress,
                rank=find_culprit(states),
            )
        )
        # Not sys.exit: the main thread may be in a call that never returns.
        os._exit(ExitStatus.HUNG.value)


def exchange_peer_urls(heartbeat: Heartbeat, port: int | None, communicator: "Communicator") -> None:
    """Exchanges the URLs of the ranks' states; collective call. port: None if this rank serves no HTTP."""
    heartbeat.peers = communicator.gather(f"http://{_address()}:{port}/state" if port else None)


def query_peers(urls: Mapping[int, str | None]) -> dict[int, State | None]:
    """State of each rank; None for a rank that does not answer within 3 s."""

    def ask(url: str | None) -> State | None:
        if url is None:
            return None
        try:
            with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS) as answer:
                return State(**json.load(answer))
        except (OSError, ValueError, TypeError, http.client.HTTPException):
            return None

    if not urls:
        return {}
    with ThreadPoolExecutor(len(urls)) as pool:
        return dict(zip(urls, pool.map(ask, urls.values()), strict=True))


def find_culprit(states: Mapping[int, State | None]) -> int | None:
    """The rank that the others wait for: the first that does not answer, else the first that is not in the allreduce.

    None if no rank is in the allreduce.
    """
    silent = [rank for rank, state in sorted(states.items()) if state is None]
    elsewhere = [rank for rank, state in sorted(states.items()) if state and state.doing != ALLREDUCE]
    # If no rank waits in the allreduce, all may just be slow.
    return next(iter(silent or (elsewhere if len(elsewhere) < len(states) else [])), None)


def describe_stall(own: State, states: Mapping[int, State | None]) -> str:
    """Describes the ranks that do not answer; if all answer, the ranks that are not in the allreduce."""
    silent = [rank for rank, state in sorted(states.items()) if state is None]
    if silent:
        # An allreduce completes on all ranks or on none, so silent ranks have completed as many steps as this one.
        return _listed([f"rank {rank} does not respond (last step {own.step})" for rank in silent])
    there = [state for _, state in sorted(states.items()) if state]
    busy = [state for state in there if state.doing != ALLREDUCE] or there
    return _listed(
        [
            f"rank {state.rank} has been in {state.doing} for {state.seconds:.0f} s after step {state.step}"
            for state in busy
        ]
    )


def _listed(sentences: Sequence[str]) -> str:
    more = len(sentences) - _MAX_RANKS_LISTED
    return "; ".join(sentences[:_MAX_RANKS_LISTED]) + (f"; and {counted(more, 'more rank')}" if more > 0 else "")


def _address() -> str:
    """IP address of this machine, because the name of a pod need not resolve on other pods."""
    try:
        family, _, _, _, address = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)[0]
    except OSError:
        return "localhost"
    return f"[{address[0]}]" if family == socket.AF_INET6 else str(address[0])
