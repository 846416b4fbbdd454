"""The cluster made ready for plays, once for all tests of a session."""

import asyncio
import itertools
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from played.api import Api, connect, deploy, deployed
from played.cast import cast
from played.operators import Operator, Ranks, operator

T = TypeVar("T")


@dataclass
class Theatre:
    """One event loop, one administrator's connection, and the operator's token."""

    runner: asyncio.Runner
    api: Api
    token: str
    ranks: Ranks
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def operator(self, **how: Any) -> AbstractAsyncContextManager[Operator]:
        """See `played.operators.operator`."""
        return operator(self.api, self.token, self.ranks, **how)

    def run(self, play: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(play)


@contextmanager
def theatre() -> Iterator[Theatre]:
    """No operator but the tests' own works meanwhile: the deployed one is away, and comes back afterwards."""
    before = deployed()
    deploy(0)
    try:
        with asyncio.Runner() as runner:
            stack = AsyncExitStack()

            async def enter() -> tuple[Api, str, Ranks]:
                api = await stack.enter_async_context(connect())
                ranks = await stack.enter_async_context(Ranks().serve())
                await stack.enter_async_context(cast(api))
                return api, await api.token(), ranks

            try:
                yield Theatre(runner, *runner.run(enter()))
            finally:
                runner.run(stack.aclose())
    finally:
        if before:
            deploy(before)
