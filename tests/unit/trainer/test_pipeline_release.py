"""Memory and files of a finished epoch are released: a training of many epochs would otherwise exhaust them."""

import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from resnext_trainer.config.validation import resolve
from resnext_trainer.data.input_pipeline import InputPipeline, Shard, open_input_pipeline
from resnext_trainer.data.sampling import Batches, BatchSchedule
from tests.support.descriptors import open_under
from tests.support.pipelines import ORDERS, TRANSFERRED, select
from tests.support.pods import wait_for

DEADLINE = 20
"""Seconds; the threads of an abandoned epoch end after their current batch."""


@pytest.fixture(params=["tfdata", *TRANSFERRED])
def pipeline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return select(request.param, monkeypatch)


def opened(folder: Path, pipeline: str, order: str = "random") -> InputPipeline:
    data = {"path": str(folder), "pipeline": pipeline, "order": order}
    return open_input_pipeline(
        resolve({"model": {"classes": 10, "imageSize": 24}, "batchSize": 8, "data": data, "device": "cpu"}), Shard(0, 1)
    )


def released(holds: Callable[[], bool]) -> bool:
    """Whether a condition holds after a garbage collection."""
    gc.collect()
    return holds()


@pytest.mark.parametrize("ended", ["consumed", "closed", "dropped"])
@pytest.mark.parametrize("order", ORDERS)
def test_pipeline_releases_plan_of_ended_epoch(
    few_digits: Path, monkeypatch: pytest.MonkeyPatch, pipeline: str, order: str, ended: str
) -> None:
    """The plan has the order of all records: 10 MB for ImageNet, for each epoch."""
    plans: list[weakref.ref[BatchSchedule]] = []
    schedule = Batches._schedule

    def watched(self: Batches, *given: object) -> BatchSchedule:
        plan = schedule(self, *given)  # type: ignore[arg-type]
        plans.append(weakref.ref(plan))
        return plan

    monkeypatch.setattr(Batches, "_schedule", watched)
    source = opened(few_digits, pipeline, order)
    for epoch in range(2):
        for batches in (source.train(epoch), source.validate()):
            next(batches)
            if ended == "consumed":
                assert sum(1 for _ in batches) > 0
            elif ended == "closed":
                batches.close()  # type: ignore[attr-defined]
            del batches
    assert len(plans) == 4
    wait_for(lambda: released(lambda: all(plan() is None for plan in plans)), DEADLINE)


def test_pipeline_dropped_closes_its_files(few_digits: Path, tmp_path: Path, pipeline: str) -> None:
    """A reader that is no longer used has no file open."""
    folder = shutil.copytree(few_digits, tmp_path / "data")
    source = opened(folder, pipeline)
    assert sum(1 for _ in source.train(0)) > 0
    assert open_under(folder) > 0
    del source
    wait_for(lambda: released(lambda: open_under(folder) == 0), DEADLINE)
