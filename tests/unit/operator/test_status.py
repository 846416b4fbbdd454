"""A stored status of which any part is missing or invalid."""

import copy
from dataclasses import replace
from typing import Any

from resnext_operator.api.status import Status
from resnext_operator.domain.reconciler import decide
from resnext_trainer.contract import ExitStatus
from tests.support.fake_cluster import Cluster

ODD: tuple[Any, ...] = (
    None,
    "x",
    -1,
    2**62,
    1.5,
    True,
    [],
    {},
    ["x"],
    {"x": "x"},
    "2026-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
)


class Recorded(Cluster):
    """A cluster that keeps the input of each decision."""

    def __init__(self, **spec):
        super().__init__(**spec)
        self.decisions = []

    def decide(self):
        self.decisions.append((self.training, self.seen, self.now))
        return super().decide()


def life():
    """Decisions of a training with attempts, a stall, a failed start, suspension, resumption and success."""
    cluster = Recorded(runPolicy={"pendingDeadlineSeconds": 3600, "activeDeadlineSeconds": 36000})
    cluster.run()
    for step in (40, 60, 80, 100):
        cluster.wait(seconds=5)
        cluster.train(step, step)
        cluster.settle()
    cluster.wait(minutes=20)
    cluster.settle()
    cluster.train(120, 120)
    cluster.settle()
    cluster.end(ExitStatus.CRASHED)
    cluster.wait(minutes=2)
    cluster.settle()
    cluster.vanish(cluster.pods("worker")[0]["metadata"]["name"])
    cluster.settle()
    cluster.end_pod(cluster.pods("worker")[0], 1, "no such image")
    cluster.settle()
    for suspend in (True, False):
        cluster.body["spec"]["suspend"] = suspend
        cluster.settle()
        cluster.wait(minutes=10)
    cluster.run()
    cluster.end(ExitStatus.COMPLETED)
    cluster.settle()
    return cluster.decisions


def without_each_part(status):
    """The status without each of its parts, and with odd values instead; without each pair of top-level fields."""

    def paths(value, path=()):
        if path:
            yield path
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(inner, dict | list):
                yield from paths(inner, (*path, key))
            else:
                yield (*path, key)

    for number, path in enumerate(paths(status)):
        for odd in ("omitted", ODD[number % len(ODD)]):
            changed = copy.deepcopy(status)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            if odd == "omitted":
                del parent[path[-1]]
            else:
                parent[path[-1]] = odd
            yield f"{path}: {odd}", changed
    for first in status:
        for second in status:
            yield f"without {first}, {second}", {key: status[key] for key in status if key not in (first, second)}


def test_decision_without_any_part_of_status():
    """If any part of the stored status is missing or invalid, the operator decides and can write the status."""
    tried, decisions = 0, {}
    for training, state, now in life():
        decisions[training.status.phase, training.status.reason, len(training.status.attempts)] = training, state, now
    assert len(decisions) > 10
    for training, state, now in decisions.values():
        for what, stored in without_each_part(dict(training.stored)):
            try:
                plan = decide(replace(training, stored=stored, status=Status.parse(stored)), state, now)
                written = plan.status.to_json()
                assert Status.parse(written).to_json() == written
            except Exception as error:
                raise AssertionError(f"{what} of {training.stored}") from error
            tried += 1
    assert tried > 1000
