"""Generated requests of the soak test: reproducible, serializable, and valid where they are meant to be."""

import json
from itertools import islice
from random import Random

import pytest

from resnext_operator.api.operator_policy import OperatorPolicy
from resnext_operator.api.validation import parse
from tests.support.simcluster.odd_objects import ADDRESS_OF_ODD_RANKS, SPARE, Action, actions, addressed, answer

MANY = 1000


def some(seed: int) -> list[Action]:
    return list(islice(actions(seed, "tenant"), MANY))


def test_actions_of_same_seed_are_equal():
    """A failure can be reproduced with the printed seed."""
    assert some(5) == some(5)
    assert some(5) != some(6)


@pytest.mark.parametrize("seed", range(3))
def test_actions_are_json_serializable(seed):
    """An action that cannot be serialized never reaches the API server."""
    for action in some(seed):
        json.dumps(action.body, allow_nan=False).encode()


def test_actions_stay_in_tenant_namespaces():
    """The other tenant's objects are never modified."""
    paths = {action.path for action in some(1)}
    assert all("/namespaces/tenant" in path or path == "/api/v1/namespaces" for path in paths)
    assert any(f"/namespaces/tenant{SPARE}/" in path for path in paths)


def test_actions_create_bounded_number_of_objects():
    """Otherwise the operator's memory would grow."""
    made = {
        (action.path, action.body["metadata"]["name"]) for action in some(2) if action.method == "POST" and action.body
    }
    assert len(made) < 150


@pytest.mark.parametrize("seed", range(3))
def test_valid_trainings_are_parsed(seed):
    """The operator parses what the schema accepts."""
    valid = [action.body for action in some(seed) if action.valid and action.body]
    assert len(valid) > 50
    for body in valid:
        parse({**body, "metadata": {"namespace": "tenant", "uid": "1", **body["metadata"]}}, OperatorPolicy("trainer"))


def test_rank_address_placeholder_is_replaced():
    """The generator does not know the machine's addresses."""
    action = next(each for each in some(1) if ADDRESS_OF_ODD_RANKS in json.dumps(each.body))
    assert ADDRESS_OF_ODD_RANKS not in json.dumps(addressed(action, "10.0.0.1").body)


def test_rank_answers_are_bytes_and_time_bounded():
    """A slow answer ends before the test does."""
    random = Random(1)
    for part, pause, times in (answer(random) for _ in range(500)):
        assert isinstance(part, bytes)
        assert pause * times <= 60
