"""Work in threads next to the main thread."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class BackgroundThread(Generic[T]):
    """Calls functions in the order of their submission, in a thread that starts with the first one.

    The thread is a daemon, because a call may hang with its device or volume; a ThreadPoolExecutor waits for its
    threads at exit.
    """

    def __init__(self, name: str) -> None:
        self._name, self._started = name, False
        self._calls: SimpleQueue[tuple[Callable[[], T], Future[T]]] = SimpleQueue()

    def submit(self, function: Callable[[], T]) -> "Future[T]":
        """Calls `function` after all functions submitted before; the future has its result or exception."""
        future: Future[T] = Future()
        self._calls.put((function, future))
        if not self._started:
            self._started = True
            threading.Thread(target=_run, args=[self._calls], name=self._name, daemon=True).start()
        return future


@contextmanager
def abandonable(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """Shuts the pool of a generator down without waiting for its threads.

    The garbage collector may close a generator in any thread, even in one that holds a lock of the module `threading`.
    Joining a thread needs this lock, so a wait would never end.
    """
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _run(calls: "SimpleQueue[tuple[Callable[[], Any], Future[Any]]]") -> None:
    while True:
        function, future = calls.get()
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)
