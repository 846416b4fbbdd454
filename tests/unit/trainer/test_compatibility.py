"""Which configurations belong to a run, and with which settings it resumes."""

import json

import pytest

from resnext_trainer.checkpoint import compatibility
from resnext_trainer.checkpoint.provenance import dumped
from resnext_trainer.config import models as configuration
from resnext_trainer.config import presets
from resnext_trainer.config.models import RESUME
from resnext_trainer.config.validation import InvalidConfig, resolve

RUN = {"batchSize": 16, "optimizer": {"learningRate": 0.1}}
"""What the run's user wrote."""


def compared(now, before=RUN):
    return compatibility.compare(resolve(now), dumped(resolve(before)))


def of(kind):
    return {field for field, resume in RESUME.items() if resume and resume.name == kind}


def test_resume_class_declared_for_every_field():
    """A new field without a class would neither be compared nor kept."""
    assert [field for field, resume in RESUME.items() if resume is None] == []


def test_resume_classes_are_those_of_the_documentation():
    """The classes that users rely on."""
    recipe = {"seed", "mixup", "labelSmoothing", "emaDecay", "model.classes", "model.imageSize", "model.custom.blocks"}
    recipe |= {"optimizer.learningRate", "optimizer.warmupEpochs", "augmentation.flip", "data.firstLabel", "preset"}
    run = {"epochs", "batchSize", "gradientAccumulation", "precision.mode", "precision.lossScale", "xla", "device"}
    run |= {"data.pipeline", "data.path", "data.indexPath", "checkpoint.path", "checkpoint.keep", "stopAt.top1"}
    run |= {"checkpoint.everyEpochs", "evaluation.everyEpochs", "stallTimeoutSeconds", "checkpoint.onMismatch"}
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
def test_written_recipe_field_that_differs_is_a_difference(changed):
    """Each names its field, the run's value and the new one."""
    (difference,) = compared(changed).recipe
    field = next(iter(configuration.fields(changed)))
    assert str(difference).startswith(f"{field}: was ")
    assert json.dumps(difference.now) in str(difference)


@pytest.mark.parametrize("changed", RECIPES, ids=str)
def test_same_recipe_written_again_is_no_difference(changed):
    """Nor is a value that a run took from the defaults and the user writes now."""
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
        {"data": {"badRecords": 0.1}},
        {"checkpoint": {"everyEpochs": 5}},
        {"checkpoint": {"keep": 9}},
        {"evaluation": {"everyEpochs": 5}},
        {"stopAt": {"top1": 0.9}},
        {"maxRollbacks": 9},
    ],
    ids=str,
)
def test_written_run_field_that_differs_applies(changed):
    """The run resumes with the new value."""
    comparison = compared(changed)
    assert comparison.recipe == ()
    (difference,) = comparison.run
    assert compatibility._value(dumped(comparison.config()), difference.field) == difference.now


def test_changed_default_changes_no_run():
    """Of a later version: the run's values apply, and are listed."""
    before = dumped(resolve({"seed": 3}))
    before |= {"mixup": 0.4, "labelSmoothing": 0.3, "epochs": 77}
    before["model"] |= {"padding": "symmetric"}
    comparison = compatibility.compare(resolve({"seed": 3}), before)
    config = comparison.config()
    assert (comparison.recipe, comparison.run) == ((), ())
    assert (config.mixup, config.label_smoothing, config.epochs, config.model.padding) == (0.4, 0.3, 77, "symmetric")
    assert {each.field for each in comparison.kept} == {"mixup", "labelSmoothing", "epochs", "model.padding"}
    assert config.written == {"seed"}


def test_changed_preset_of_the_same_name_changes_no_run(monkeypatch):
    """The preset's fields are not the user's."""
    name = "resnext101-32x4d-250ep"
    before = dumped(resolve({"preset": name}))
    monkeypatch.setitem(presets.PRESETS, name, {**presets.PRESETS[name], "mixup": 0.5, "epochs": 300})
    comparison = compatibility.compare(resolve({"preset": name}), before)
    assert comparison.recipe == ()
    assert (comparison.config().mixup, comparison.config().epochs) == (0.2, 250)


def test_preset_of_another_name_is_compared_with_its_fields():
    """What another preset says is what the user wants."""
    comparison = compared({"preset": "resnext101-32x4d-250ep"}, {"preset": "resnext101-32x4d-90ep"})
    assert {each.field for each in comparison.recipe} == {"preset", "mixup"}
    assert {each.field for each in comparison.run} == {"epochs"}


@pytest.mark.parametrize("field", ["device", "data.path", "checkpoint.path", "checkpoint.onMismatch", "profileSteps"])
def test_place_and_attempt_are_never_the_runs(field):
    """A run that was trained elsewhere, on GPUs, resumes here."""
    other = {"device": "gpu", "data": {"path": "/x"}, "checkpoint": {"path": "/y", "onMismatch": "continue"}}
    comparison = compared(RUN, {**RUN, **other, "profileSteps": 3})
    assert compatibility._value(dumped(comparison.config()), field) == compatibility._value(dumped(resolve(RUN)), field)


def test_all_differences_are_listed_together():
    """One message is enough to correct them all."""
    comparison = compared({"seed": 9, "mixup": 0.1, "optimizer": {"learningRate": 0.3, "momentum": 0.5}})
    assert [each.field for each in comparison.recipe] == [
        "optimizer.learningRate",
        "optimizer.momentum",
        "mixup",
        "seed",
    ]


def test_custom_network_is_compared_field_by_field():
    """A default that changed within custom changes no run either."""
    custom = {"architecture": "custom", "custom": {"blocks": [1], "groups": 2}}
    before = dumped(resolve({"model": custom}))
    before["model"]["custom"]["stem"] = 32
    same = compatibility.compare(resolve({"model": custom}), before)
    assert (same.recipe, same.config().model.custom.stem) == ((), 32)
    other = compatibility.compare(resolve({"model": custom | {"custom": {"blocks": [2]}}}), before)
    assert [str(each) for each in other.recipe] == ["model.custom.blocks: was [1], is [2]"]
    named = compatibility.compare(resolve({"model": custom}), dumped(resolve({})))
    assert "model.custom.blocks: was unset, is [1]" in map(str, named.recipe)


def test_field_that_the_runs_version_lacked_had_its_default():
    """A new field that the user writes is a change; one that nobody writes is none."""
    before = dumped(resolve({}))
    del before["mixup"]
    assert compatibility.compare(resolve({}), before).recipe == ()
    assert [str(each) for each in compatibility.compare(resolve({"mixup": 0.2}), before).recipe] == [
        "mixup: was 0.0, is 0.2"
    ]


def test_field_of_a_later_version_is_named():
    """A run of a later version of the same format resumes without what this version does not know."""
    before = dumped(resolve({}))
    before["model"]["attention"] = True
    assert compatibility.compare(resolve({}), before).unknown == ("model.attention",)


def test_run_and_written_fields_that_break_a_rule_are_rejected():
    """The message says where the value comes from that nobody wrote."""
    with pytest.raises(InvalidConfig, match=r"lossScale: .*precision\.lossScale 128"):
        compared({"precision": {"mode": "bf16"}}, {"precision": {"lossScale": 128}}).config()


def test_fewer_epochs_shorten_a_warm_up_that_nobody_wrote():
    """As in a new training; a change of the recipe is not needed."""
    comparison = compared({"epochs": 3}, {"epochs": 90})
    assert (comparison.recipe, comparison.config().optimizer.warmup_epochs) == ((), 3)
