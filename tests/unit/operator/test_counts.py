"""Numbers with their noun."""

import pytest

from resnext_operator.domain.counts import counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 workers"), (1, "1 worker"), (2, "2 workers")])
def test_counted_noun_agrees_with_number(number: int, text: str) -> None:
    """One is singular."""
    assert counted(number, "worker") == text
