"""Work in threads next to the main thread."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_Calls = SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]


class BackgroundThreads(Generic[T]):
    """Calls functions in the order of their submission, in threads that start with the first ones.

    The threads are daemons, because a call may hang with its device or volume; a ThreadPoolExecutor waits for its
    threads at exit.
    """

    def __init__(self, name: str, count: int = 1) -> None:
        self._name, self._count, self._started = name, count, 0
        self._calls: _Calls = SimpleQueue()

    def __enter__(self) -> "BackgroundThreads[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, function: Callable[[], T]) -> "Future[T]":
        """The future has the result or the exception of `function`."""
        future: Future[T] = Future()
        self._calls.put((function, future))
        if self._started < self._count:
            self._started += 1
            threading.Thread(target=_run, args=[self._calls], name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        """Ends each thread after its current call; other calls are dropped, and their futures never complete.

        Does not wait for the threads and acquires no lock: the garbage collector may close a generator that uses this
        object in any thread, even in one that holds a lock of the module `threading`, which joining a thread needs.
        """
        with suppress(Empty):
            while True:
                self._calls.get_nowait()
        for _ in range(self._started):
            self._calls.put(None)


def _run(calls: _Calls) -> None:
    while call := calls.get():
        function, future = call
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)
        del call, function, future  # while the thread waits, it keeps nothing alive
