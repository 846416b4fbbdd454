"""One tenant creates and patches odd objects while ordinary trainings run in another namespace.

`make test-soak` runs for half an hour, `make test` for three minutes next to the tests that need no cluster.
"""

import os

import pytest
from played.soak import soak
from played.theatre import Theatre

SECONDS = float(os.environ["RESNEXT_SOAK_SECONDS"])
SEED = int(os.environ.get("RESNEXT_SOAK_SEED", "1"))


@pytest.mark.timeout(SECONDS + 900)
def test_operator_with_odd_tenant_serves_the_other(theatre: Theatre):
    """All ordinary trainings succeed, the operator never ends, and its memory, caches and series do not grow."""
    outcome = theatre.run(soak(theatre, SEED, SECONDS))
    print(f"RESNEXT_SOAK_SEED={SEED}: {outcome}")
    for what, count in sorted(outcome.actions.items()):
        print(f"{count:6} {what}")
    problems = outcome.problems()
    assert not problems, "\n".join(problems)
