"""One tenant creates and patches malformed objects while ordinary trainings run in another namespace.

`make test-soak` runs for half an hour, `make test` for three minutes next to the tests that need no cluster.
"""

import os

import pytest

from tests.support.simcluster.environment import Environment
from tests.support.simcluster.soak import soak

pytestmark = pytest.mark.exclusive

SECONDS = float(os.environ["RESNEXT_SOAK_SECONDS"])
SEED = int(os.environ.get("RESNEXT_SOAK_SEED", "1"))


@pytest.mark.timeout(SECONDS + 900)
def test_operator_with_odd_tenant_serves_other_tenant(environment: Environment):
    """All ordinary trainings succeed; the operator does not exit, and memory, caches and series do not grow."""
    outcome = environment.run(soak(environment, SEED, SECONDS))
    print(f"RESNEXT_SOAK_SEED={SEED}: {outcome}")
    for what, count in sorted(outcome.actions.items()):
        print(f"{count:6} {what}")
    problems = outcome.problems()
    assert not problems, "\n".join(problems)
