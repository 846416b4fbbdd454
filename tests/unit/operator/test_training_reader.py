"""A spec is parsed once; the result is that of parsing everything again."""

import copy

import pytest

from resnext_operator.api.objects import Manifest
from resnext_operator.api.operator_policy import OperatorPolicy
from resnext_operator.api.training import Training
from resnext_operator.api.validation import parse
from resnext_operator.runtime import training_reader
from resnext_operator.runtime.training_reader import TrainingReader, read
from tests.support.fake_cluster import SITE, resource

KEY = ("default", "resnext-digits")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the trainings whose spec is parsed."""
    names: list[str] = []

    def counting(body: Manifest, site: OperatorPolicy) -> Training:
        names.append(body["metadata"]["name"])
        return parse(body, site)

    monkeypatch.setattr(training_reader, "parse", counting)
    return names


def changed(body: Manifest, part: str, **fields: object) -> Manifest:
    """A copy with fields of one part replaced, as a watch event delivers it."""
    copied = copy.deepcopy(body)
    copied[part] = {**copied.get(part, {}), **fields}
    return copied


CHANGES: dict[str, tuple[str, Manifest]] = {
    "status": ("status", {"phase": "Running", "failures": 2}),
    "generation": ("metadata", {"generation": 2}),
    "recreated": ("metadata", {"uid": "another"}),
    "deletion": ("metadata", {"deletionTimestamp": "2026-01-01T00:00:00Z"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_unchanged_spec_is_parsed_once(parsed: list[str], change: str) -> None:
    """The fields outside the spec are those of the newest version."""
    reader, body = TrainingReader(SITE), resource()
    reader.read(body)
    part, fields = CHANGES[change]
    newer = changed(body, part, **fields)
    found = reader.read(newer)
    assert parsed == [KEY[1]]
    assert found == read(newer, SITE)
    assert found != read(body, SITE)


@pytest.mark.parametrize("fields", [{"suspend": True}, {"training": {"epochs": 3}}, {"workers": {"replicas": 0}}])
def test_changed_spec_is_parsed_again(parsed: list[str], fields: Manifest) -> None:
    """A spec that becomes invalid is noticed as well."""
    reader, body = TrainingReader(SITE), resource()
    before = reader.read(body)
    newer = changed(body, "spec", **fields)
    found = reader.read(newer)
    assert parsed == [KEY[1]] * 2
    assert found == read(newer, SITE) != before
    assert bool(found.invalid) is ("workers" in fields)


def test_invalid_spec_is_parsed_once(parsed: list[str]) -> None:
    """Its errors are kept, and it becomes valid when it changes."""
    reader, body = TrainingReader(SITE), resource(workers={"replicas": 0})
    reader.read(body)
    assert reader.read(changed(body, "status", phase="Pending")).invalid
    assert parsed == [KEY[1]]
    assert not reader.read(resource()).invalid


def test_forgotten_training_is_parsed_again(parsed: list[str]) -> None:
    """No memory is held for a training that ended."""
    reader, body = TrainingReader(SITE), resource()
    reader.read(body)
    reader.forget(KEY)
    reader.read(body)
    assert len(parsed) == 2
