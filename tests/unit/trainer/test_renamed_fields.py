"""Checkpoints and logs of earlier versions are read with the current field names."""

import json
from pathlib import Path
from typing import Any

import pytest

from resnext_trainer.checkpoint import compatibility, renamed_fields
from resnext_trainer.checkpoint.provenance import Provenance, dumped
from resnext_trainer.config.models import RESUME
from resnext_trainer.config.validation import resolve
from resnext_trainer.data.fingerprint import Fingerprint
from resnext_trainer.training import html_report

OLD_LOG = Path(__file__).parents[2] / "fixtures" / "checkpoint-format-1" / "run" / "log.jsonl"

NOW: dict[str, Any] = {
    "checkpoint": {"intervalEpochs": 5, "intervalMinutes": 2.0},
    "data": {"maxBadRecordFraction": 0.1},
    "evaluation": {"intervalEpochs": 4},
    "model": {"initMode": "fan_out"},
    "optimizer": {"warmupMinGlobalBatch": 64},
    "targetTop1": 0.9,
}


def stored_by_version_1(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as stored by v0.1."""
    config = dumped(resolve(settings))
    config["checkpoint"]["everyEpochs"] = config["checkpoint"].pop("intervalEpochs")
    config["checkpoint"]["everyMinutes"] = config["checkpoint"].pop("intervalMinutes")
    config["data"]["badRecords"] = config["data"].pop("maxBadRecordFraction")
    config["evaluation"]["everyEpochs"] = config["evaluation"].pop("intervalEpochs")
    config["model"]["initFan"] = {"fan_in": "in", "fan_out": "out"}[config["model"].pop("initMode")]
    config["optimizer"]["warmupFromBatch"] = config["optimizer"].pop("warmupMinGlobalBatch")
    config["stopAt"] = {"top1": config.pop("targetTop1")}
    written = ["batchSize", "data.badRecords", "model.initFan", "stopAt.top1"]
    return {"config": config, "written": written, "classNames": []}


@pytest.mark.parametrize("settings", [{}, NOW], ids=["defaults", "other values"])
def test_provenance_old_names_read_as_current(settings: dict[str, Any]) -> None:
    """The configuration and the user's fields equal those of a checkpoint of the current version."""
    read = renamed_fields.with_current_names(stored_by_version_1(settings))
    assert read["config"] == dumped(resolve(settings))
    assert read["written"] == ("batchSize", "data.maxBadRecordFraction", "model.initMode", "targetTop1")


def test_provenance_model_reads_old_names() -> None:
    """Every reader of the provenance of a checkpoint gets the current names."""
    read = Provenance.model_validate({**stored_by_version_1(NOW), "dataset": Fingerprint(format="tfrecord", splits={})})
    assert read.config == dumped(resolve(NOW))
    assert "targetTop1" in read.written


@pytest.mark.parametrize("settings", [{}, NOW], ids=["defaults", "other values"])
def test_renamed_fields_are_not_differences(settings: dict[str, Any]) -> None:
    """A run of an earlier version resumes with its recipe, and no field is reported as unknown."""
    before = renamed_fields.with_current_names(stored_by_version_1(settings))["config"]
    comparison = compatibility.compare(resolve(settings), before)
    assert (comparison.recipe, comparison.run, comparison.kept, comparison.unknown) == ((), (), (), ())


def test_unwritten_fields_keep_old_run_values() -> None:
    """Fields that the user does not set have the values of the run, under the new names."""
    before = renamed_fields.with_current_names(stored_by_version_1(NOW))["config"]
    config = compatibility.compare(resolve({}), before).config()
    assert (config.model.init_mode, config.target_top1, config.optimizer.warmup_min_global_batch) == (
        "fan_out",
        0.9,
        64,
    )


def test_renamed_fields_exist() -> None:
    """Each new name is a field of the configuration, and no old name is."""
    assert renamed_fields.RENAMED.keys().isdisjoint(RESUME)
    assert set(renamed_fields.RENAMED.values()) <= RESUME.keys()


def test_html_report_reads_old_log(tmp_path: Path) -> None:
    """Entries of earlier versions keep their phases and the accuracy without averaging."""
    old = {"step": 1, "epoch": 0.5, "plainTop1": 0.25, "plainTop5": 0.5, "shares": {"compute": 0.75}}
    new = {"step": 2, "epoch": 1.0, "rawTop1": 0.5, "rawTop5": 0.75, "phaseFractions": {"compute": 0.5}}
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (old, new)))
    log = html_report.read(tmp_path)
    assert log.points("rawTop1") == [(0.5, 0.25), (1.0, 0.5)]
    assert log.points("rawTop5") == [(0.5, 0.5), (1.0, 0.75)]
    assert [entry.phase_fractions for entry in log.entries] == [{"compute": 0.75}, {"compute": 0.5}]
    assert all(entry.phase_fractions for entry in html_report.read(OLD_LOG).entries)
