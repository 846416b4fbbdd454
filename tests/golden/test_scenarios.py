"""Everything that users can observe in the main scenarios, step by step: events, conditions, phase, columns, status."""

import pytest

from tests.golden.goldens import FOLDER, check, dump
from tests.golden.scenarios import SCENARIOS, exit_statuses


@pytest.mark.parametrize("name", SCENARIOS)
def test_transcript_matches_golden(name: str) -> None:
    """Every step of the scenario, and at the end status, metrics and objects."""
    check(f"scenarios/{name}.yaml", dump({"scenario": SCENARIOS[name].__doc__, **SCENARIOS[name]()}))


def test_exit_statuses_match_golden() -> None:
    """Exit status of the launcher, cause, reason, message, and whether it counts as a failure."""
    check("scenarios/exit-statuses.yaml", dump({"scenario": exit_statuses.__doc__, "exit statuses": exit_statuses()}))


def test_every_golden_has_scenario() -> None:
    """A golden file without a scenario is deleted."""
    found = {path.stem for path in (FOLDER / "scenarios").glob("*.yaml")}
    assert found == {*SCENARIOS, "exit-statuses"}
