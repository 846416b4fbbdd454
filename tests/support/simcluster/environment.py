"""The cluster prepared for scenarios, once for all tests of a module."""

import asyncio
import itertools
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.support.simcluster.api import Api, connect, deploy, deployed
from tests.support.simcluster.kwok_nodes import kwok_nodes
from tests.support.simcluster.operators import Operator, Ranks, operator

T = TypeVar("T")


@dataclass
class Environment:
    """One event loop, one administrator's connection, and the operator's token."""

    runner: asyncio.Runner
    api: Api
    token: str
    ranks: Ranks
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def operator(self, **how: Any) -> AbstractAsyncContextManager[Operator]:
        """See `tests.support.simcluster.operators.operator`."""
        return operator(self.api, self.token, self.ranks, **how)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)


@contextmanager
def simulated_environment() -> Iterator[Environment]:
    """Scale the deployed operator to zero, so that only the tests' own operators run, and restore it afterwards."""
    before = deployed()
    try:
        deploy(0)
        with asyncio.Runner() as runner:
            stack = AsyncExitStack()

            async def enter() -> tuple[Api, str, Ranks]:
                api = await stack.enter_async_context(connect())
                ranks = await stack.enter_async_context(Ranks().serve())
                await stack.enter_async_context(kwok_nodes(api))
                return api, await api.token(), ranks

            try:
                yield Environment(runner, *runner.run(enter()))
            finally:
                runner.run(stack.aclose())
    finally:
        if before:
            deploy(before)
