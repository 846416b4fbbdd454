"""Runs of versions without the settings of the resize keep the images of those versions."""

import pytest

from resnext_trainer.checkpoint import added_fields, compatibility
from resnext_trainer.checkpoint.provenance import Provenance, dumped
from resnext_trainer.config.models import RESUME
from resnext_trainer.config.rules import RECIPE
from resnext_trainer.config.validation import resolve
from resnext_trainer.data.fingerprint import Fingerprint

PRESET = {"preset": "resnext101-32x4d-90ep"}


def old_run(settings):
    """The configuration of a run of a version without these fields, as read from its checkpoint."""
    config = dumped(resolve(settings))
    del config["data"]["resize"], config["data"]["fastDecode"]
    stored = {"config": config, "written": [], "classNames": [], "dataset": Fingerprint(format="tfrecord", splits={})}
    return Provenance.model_validate(stored).config


@pytest.mark.parametrize("settings", [{}, PRESET], ids=["default", "preset"])
def test_old_run_unwritten_fields_keep_old_images(settings):
    """A run of an earlier version resumes with antialiasing and accurate decoding, even if it has a preset."""
    comparison = compatibility.compare(resolve(settings), old_run(settings))
    assert (comparison.recipe, comparison.run, comparison.unknown) == ((), (), ())
    data = comparison.config().data
    assert (data.resize.antialias, data.fast_decode) == (True, False)


@pytest.mark.parametrize("settings", [{}, PRESET], ids=["default", "preset"])
def test_new_training_uses_published_resize(settings):
    """The defaults and the presets are the published recipe's values."""
    data = resolve(settings).data
    assert (data.resize.antialias, data.fast_decode) == (False, True)


def test_old_run_written_other_value_is_recipe_difference():
    """Changing the resize of a run is a change to its recipe."""
    written = resolve({"data": {"resize": {"antialias": False}, "fastDecode": False}})
    (difference,) = compatibility.compare(written, old_run({})).recipe
    assert str(difference) == "data.resize.antialias: was true, is false"


def test_run_with_fields_keeps_its_values():
    """Values that a run stored are not replaced."""
    settings = {"data": {"resize": {"antialias": False}, "fastDecode": True}}
    stored = {"config": dumped(resolve(settings))}
    assert added_fields.with_added_fields(stored) == stored


def test_added_fields_are_recipe_fields():
    """Only fields of the recipe need a value for earlier versions."""
    assert all(RESUME[field] == RECIPE for field in added_fields.ADDED)
