"""Ends a rank that makes no progress, and says which rank is to blame.

A rank whose peer is stopped waits in the allreduce for ever, and Horovod's own stall check waits with it: its
coordinator blocks in the same exchange. So each rank is watched by a thread of its own. When its time is up it asks
every rank where it stands, over HTTP: one that is stopped or lost does not answer, one that is stuck elsewhere than in
the exchange is what the others wait for.
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

if TYPE_CHECKING:  # TensorFlow, whose loading is watched as well
    from resnext_trainer.runtime.distributed import Communicator

_ANSWER_SECONDS = 3.0
_FIRST_STEP_SECONDS = 600.0
"""Before its first step a rank loads libraries, waits for the others and compiles: that is no measure of a step."""
_MAX_RANKS_LISTED = 8
"""So many ranks are named in a report; more would not fit the launcher's termination message."""


class Watchdog:
    """Watches a rank's heartbeat until it is stopped."""

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
            # Horovod takes leave of the other ranks when the process ends, and that can hang as well.
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
            # Not longer at once: the first step ends what is allowed before it.
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
                    f"rank {own.rank} finished no step for {self._allowed:.0f} s: "
                    f"{describe_stall(own, states)}. The log "
                    "shows where the threads stood. If a step or an evaluation batch truly takes this long, raise "
                    "stallTimeoutSeconds"
                ),
                progress=self._heartbeat.progress,
                rank=find_culprit(states),
            )
        )
        # Not sys.exit: the main thread may sit in a call that never returns.
        os._exit(ExitStatus.HUNG.value)


def exchange_peer_urls(heartbeat: Heartbeat, port: int | None, ranks: "Communicator") -> None:
    """Tells every rank where the others answer; to be called on all of them. `port`: None if this one does not."""
    heartbeat.peers = ranks.gather(f"http://{_address()}:{port}/state" if port else None)


def query_peers(urls: Mapping[int, str | None]) -> dict[int, State | None]:
    """Where each rank stands; None for one that does not say."""

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
    """The rank that the others wait for: the first that is silent, else the first that is elsewhere than they are."""
    silent = [rank for rank, state in sorted(states.items()) if state is None]
    elsewhere = [rank for rank, state in sorted(states.items()) if state and state.doing != ALLREDUCE]
    # Where all do something of their own, each may just be slow.
    return next(iter(silent or (elsewhere if len(elsewhere) < len(states) else [])), None)


def describe_stall(own: State, states: Mapping[int, State | None]) -> str:
    """Who holds the others up: first the silent, then those that wait for something else than the exchange."""
    silent = [rank for rank, state in sorted(states.items()) if state is None]
    if silent:
        # An exchange ends on all ranks or on none: whoever is silent has made the steps that this one has.
        return _listed([f"rank {rank} does not answer, its last step was {own.step}" for rank in silent])
    there = [state for _, state in sorted(states.items()) if state]
    busy = [state for state in there if state.doing != ALLREDUCE] or there
    return _listed(
        [f"rank {state.rank} is in {state.doing} after step {state.step} for {state.seconds:.0f} s" for state in busy]
    )


def _listed(sentences: Sequence[str]) -> str:
    more = len(sentences) - _MAX_RANKS_LISTED
    return "; ".join(sentences[:_MAX_RANKS_LISTED]) + (f"; and {more} more ranks" if more > 0 else "")


def _address() -> str:
    """This machine's address as the others reach it; a pod's name need not resolve elsewhere."""
    try:
        family, _, _, _, address = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)[0]
    except OSError:
        return "localhost"
    return f"[{address[0]}]" if family == socket.AF_INET6 else str(address[0])
