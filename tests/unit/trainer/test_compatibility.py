"""Comparison of a configuration with that of a run: which fields must match, and with which values a run resumes."""

import json

import pytest

from resnext_trainer.checkpoint import compatibility
from resnext_trainer.checkpoint.provenance import dumped
from resnext_trainer.config import models as configuration
from resnext_trainer.config import presets
from resnext_trainer.config.models import RESUME
from resnext_trainer.config.validation import InvalidConfig, resolve

RUN = {"batchSize": 16, "optimizer": {"learningRate": 0.1}}
"""Fields that the user of the run set."""


def compared(now, before=RUN):
    return compatibility.compare(resolve(now), dumped(resolve(before)))


def of(kind):
    return {field for field, resume in RESUME.items() if resume and resume.name == kind}


def test_resume_class_declared_for_every_field():
    """A new field without a class would be neither compared nor kept."""
    assert [field for field, resume in RESUME.items() if resume is None] == []


def test_resume_classes_match_documentation():
    """The documentation lists these fields as recipe fields and run fields."""
    recipe = {"seed", "mixup", "labelSmoothing", "emaDecay", "model.classes", "model.imageSize", "model.custom.blocks"}
    recipe |= {"optimizer.learningRate", "optimizer.warmupEpochs", "augmentation.flip", "data.firstLabel", "preset"}
    run = {"epochs", "batchSize", "gradientAccumulation", "precision.mode", "precision.lossScale", "xla", "device"}
    run |= {"data.pipeline", "data.path", "data.indexPath", "checkpoint.path", "checkpoint.keep", "targetTop1"}
    run |= {"checkpoint.intervalEpochs", "evaluation.intervalEpochs", "stallTimeoutSeconds", "checkpoint.onMismatch"}
    assert recipe <= of("recipe")
    assert run <= of("run")


RECIPES = [
    {"optimizer": {"learningRate": 0.2}},
    {"optimizer": {"stepEpochs": [10]}},
    {"seed": 1},
    {"mixup": 0.2},
    {"labelSmoothing": 0.0},
    {"emaDecay": 0.9},
    {"augmentation": {"cropArea": [0.5, 1.0]}},
    {"model": {"classes": 10}},
    {"model": {"padding": "symmetric"}},
    {"evaluation": {"cropFraction": 1.0}},
    {"data": {"firstLabel": 0}},
    {"initialCheckpoint": "/other"},
]


@pytest.mark.parametrize("changed", RECIPES, ids=str)
def test_compare_changed_recipe_field_is_difference(changed):
    """A difference names the field, the run's value and the new value."""
    (difference,) = compared(changed).recipe
    field = next(iter(configuration.fields(changed)))
    assert str(difference).startswith(f"{field}: was ")
    assert json.dumps(difference.now) in str(difference)


@pytest.mark.parametrize("changed", RECIPES, ids=str)
def test_compare_same_recipe_has_no_difference(changed):
    """A default of the run equals the same value set by the user."""
    assert compared(changed, changed).recipe == ()
    assert compared(dumped(resolve({})) | {"batchSize": 16}, {"batchSize": 16}).recipe == ()


@pytest.mark.parametrize(
    "changed",
    [
        {"epochs": 100},
        {"batchSize": 8},
        {"gradientAccumulation": 4},
        {"precision": {"mode": "fp32"}},
        {"xla": False},
        {"data": {"pipeline": "tfdata"}},
        {"data": {"maxBadRecordFraction": 0.1}},
        {"checkpoint": {"intervalEpochs": 5}},
        {"checkpoint": {"keep": 9}},
        {"evaluation": {"intervalEpochs": 5}},
        {"targetTop1": 0.9},
        {"maxRollbacks": 9},
    ],
    ids=str,
)
def test_compare_changed_run_field_applies(changed):
    """The run resumes with the new value."""
    comparison = compared(changed)
    assert comparison.recipe == ()
    (difference,) = comparison.run
    assert compatibility._value(dumped(comparison.config()), difference.field) == difference.now


def test_compare_changed_default_keeps_run_values():
    """If a later version changes defaults, the run's values apply and are listed."""
    before = dumped(resolve({"seed": 3}))
    before |= {"mixup": 0.4, "labelSmoothing": 0.3, "epochs": 77}
    before["model"] |= {"padding": "symmetric"}
    comparison = compatibility.compare(resolve({"seed": 3}), before)
    config = comparison.config()
    assert (comparison.recipe, comparison.run) == ((), ())
    assert (config.mixup, config.label_smoothing, config.epochs, config.model.padding) == (0.4, 0.3, 77, "symmetric")
    assert {each.field for each in comparison.kept} == {"mixup", "labelSmoothing", "epochs", "model.padding"}
    assert config.written == {"seed"}


def test_compare_changed_preset_keeps_run_values(monkeypatch):
    """If a later version changes a preset, the run keeps its values."""
    name = "resnext101-32x4d-250ep"
    before = dumped(resolve({"preset": name}))
    monkeypatch.setitem(presets.PRESETS, name, {**presets.PRESETS[name], "mixup": 0.5, "epochs": 300})
    comparison = compatibility.compare(resolve({"preset": name}), before)
    assert comparison.recipe == ()
    assert (comparison.config().mixup, comparison.config().epochs) == (0.2, 250)


def test_compare_other_preset_compares_its_fields():
    """The fields of a preset that the user selects count as set by the user."""
    comparison = compared({"preset": "resnext101-32x4d-250ep"}, {"preset": "resnext101-32x4d-90ep"})
    assert {each.field for each in comparison.recipe} == {"preset", "mixup"}
    assert {each.field for each in comparison.run} == {"epochs"}


@pytest.mark.parametrize("field", ["device", "data.path", "checkpoint.path", "checkpoint.onMismatch", "profileSteps"])
def test_compare_paths_and_device_taken_from_config(field):
    """Paths, device and options of the attempt come from the configuration, never from the run."""
    other = {"device": "gpu", "data": {"path": "/x"}, "checkpoint": {"path": "/y", "onMismatch": "continue"}}
    comparison = compared(RUN, {**RUN, **other, "profileSteps": 3})
    assert compatibility._value(dumped(comparison.config()), field) == compatibility._value(dumped(resolve(RUN)), field)


def test_compare_lists_all_differences():
    """One message lists all differences, so that they can be corrected together."""
    comparison = compared({"seed": 9, "mixup": 0.1, "optimizer": {"learningRate": 0.3, "momentum": 0.5}})
    assert [each.field for each in comparison.recipe] == [
        "optimizer.learningRate",
        "optimizer.momentum",
        "mixup",
        "seed",
    ]


def test_compare_custom_model_field_by_field():
    """If a default within model.custom changes, the run keeps its value."""
    custom = {"architecture": "custom", "custom": {"blocks": [1], "groups": 2}}
    before = dumped(resolve({"model": custom}))
    before["model"]["custom"]["stem"] = 32
    same = compatibility.compare(resolve({"model": custom}), before)
    kept = same.config().model.custom
    assert kept is not None
    assert (same.recipe, kept.stem) == ((), 32)
    other = compatibility.compare(resolve({"model": custom | {"custom": {"blocks": [2]}}}), before)
    assert [str(each) for each in other.recipe] == ["model.custom.blocks: was [1], is [2]"]
    named = compatibility.compare(resolve({"model": custom}), dumped(resolve({})))
    assert "model.custom.blocks: was unset, is [1]" in map(str, named.recipe)


def test_compare_field_unknown_to_run_had_default():
    """A new field is a difference only if the user sets it to a value other than its default."""
    before = dumped(resolve({}))
    del before["mixup"]
    assert compatibility.compare(resolve({}), before).recipe == ()
    assert [str(each) for each in compatibility.compare(resolve({"mixup": 0.2}), before).recipe] == [
        "mixup: was 0.0, is 0.2"
    ]


def test_compare_field_of_later_version_listed():
    """A run of a later version with the same format resumes without the fields unknown to this version."""
    before = dumped(resolve({}))
    before["model"]["attention"] = True
    assert compatibility.compare(resolve({}), before).unknown == ("model.attention",)


def test_compare_invalid_combination_rejected():
    """The message names the run's value that conflicts with the user's."""
    with pytest.raises(InvalidConfig, match=r"lossScale: .*precision\.lossScale 128"):
        compared({"precision": {"mode": "bf16"}}, {"precision": {"lossScale": 128}}).config()


def test_compare_fewer_epochs_shorten_default_warmup():
    """As in a new training, fewer epochs shorten a default warm-up; the recipe stays the same."""
    comparison = compared({"epochs": 3}, {"epochs": 90})
    assert (comparison.recipe, comparison.config().optimizer.warmup_epochs) == ((), 3)
