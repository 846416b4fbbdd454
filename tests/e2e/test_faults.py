"""Fault injection: killed after any write, with or without its response, the operator reaches the same final state.

kwok simulates nodes and pods, and a proxy counts the writes and injects the faults. `make test` injects at a fixed
sample of the writes, `make test-faults` at every write (RESNEXT_FAULTS=all).
"""

import asyncio
import os

import pytest

from tests.support.simcluster.environment import Environment
from tests.support.simcluster.proxy import Fault
from tests.support.simcluster.scenarios import SCENARIOS, Outcome, ScenarioSteps, run_scenario

pytestmark = pytest.mark.exclusive

ALL = os.environ.get("RESNEXT_FAULTS") == "all"

# More operators would only compete for two cores.
CONCURRENCY = 4


def injection_points(writes: int) -> list[tuple[Fault, int]]:
    """Faults and the numbers of the writes at which they are injected."""
    if ALL:
        return [(fault, number) for fault in Fault for number in range(1, writes + 1)]
    # Each fault at a different write, spread over the run.
    return [(fault, max(1, round(writes * (place + 1) / (len(Fault) + 1)))) for place, fault in enumerate(Fault)]


@pytest.mark.timeout(7200 if ALL else 300)
@pytest.mark.parametrize("steps", SCENARIOS, ids=lambda steps: steps.__name__)
def test_fault_at_any_write_does_not_change_outcome(environment: Environment, steps: ScenarioSteps):
    """The final state and the created objects are those of a run without faults."""
    failures, injected = environment.run(sweep(environment, steps))
    print(f"{steps.__name__}: {injected} faults")
    assert not failures, "\n".join(failures)


async def sweep(environment: Environment, steps: ScenarioSteps) -> tuple[list[str], int]:
    turn = asyncio.Semaphore(CONCURRENCY)

    async def one(fault: Fault | None = None, at_write: int = 0) -> Outcome:
        async with turn:
            return await run_scenario(steps, environment, fault, at_write)

    clean, again = await asyncio.gather(one(), one())
    # A difference between clean runs would hide the effect of a fault.
    failures = [f"between two runs without a fault: {each}" for each in again.differences(clean)]
    faults = injection_points(len(clean.writes))
    runs = await asyncio.gather(*(one(*each) for each in faults), return_exceptions=True)
    injected = 0
    for (fault, number), run in zip(faults, runs, strict=True):
        if isinstance(run, BaseException):
            failures.append(str(run))
            continue
        # A run with faster pods has fewer writes, so a fault may not be injected.
        injected += run.injected
        killed = run.injected and fault in (Fault.KILLED_AFTER, Fault.KILLED_BEFORE)
        failures += [f"{fault} {number} ({clean.writes[number - 1]}): {each}" for each in run.differences(clean)]
        if run.starts != 1 + killed:
            failures.append(f"{fault} {number}: the operator exited by itself:\n{run.log}")
    if injected < 0.9 * len(faults):
        failures.append(f"{injected} of {len(faults)} faults were injected: the other writes did not occur")
    return failures, injected
