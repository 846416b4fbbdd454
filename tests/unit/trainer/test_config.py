"""Resolution of a configuration: defaults, presets and validation messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext_trainer.config import presets
from resnext_trainer.config.validation import InvalidConfig, resolve

MODES = ["fp16", "bf16", "tf32", "fp32"]


def test_resolve_empty_config_is_published_recipe():
    """An empty configuration is the published recipe of ResNeXt-101 32x4d."""
    training = resolve({})
    assert training.model.architecture == "resnext101-32x4d"
    assert (training.optimizer.learning_rate, training.optimizer.momentum) == (0.256, 0.875)
    assert training.optimizer.weight_decay == 1 / 16384
    assert (training.epochs, training.label_smoothing, training.mixup) == (90, 0.1, 0.0)


def test_resolve_250_epoch_preset_enables_mixup():
    """The preset of 250 epochs uses mixup, as published."""
    training = resolve({"preset": "resnext101-32x4d-250ep"})
    assert (training.epochs, training.mixup) == (250, 0.2)


@pytest.mark.parametrize("mode", MODES)
def test_resolve_batch_size_defaults_by_precision(mode):
    """The default batch size depends on the precision; a batch size of the user overrides it."""
    assert resolve({"precision": {"mode": mode}}).batch_size == presets.BATCH_SIZE[mode]
    assert resolve({"precision": {"mode": mode}, "batchSize": 7}).batch_size == 7


@given(
    preset=st.sampled_from([None, *presets.PRESETS]),
    epochs=st.none() | st.integers(1, 400),
    mode=st.none() | st.sampled_from(MODES),
    batch=st.none() | st.integers(1, 4096),
)
def test_resolve_is_idempotent(preset, epochs, mode, batch):
    """Resolving a resolved configuration changes nothing."""
    written = {"preset": preset, "epochs": epochs, "batchSize": batch, "precision": {"mode": mode} if mode else None}
    training = resolve({key: value for key, value in written.items() if value is not None})
    settings = training.model_dump(mode="json", by_alias=True)
    assert resolve(settings).model_dump(mode="json", by_alias=True) == settings


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_resolve_user_values_override_preset(preset):
    """Fields set by the user override those of the preset; the others are kept."""
    training = resolve({"preset": preset, "epochs": 3, "optimizer": {"momentum": 0.5}})
    assert (training.epochs, training.optimizer.momentum, training.optimizer.learning_rate) == (3, 0.5, 0.256)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"epochs": 0}, "spec.training.epochs: Invalid value: 0: should be greater than or equal to 1"),
        ({"epoch": 3}, 'unknown field "spec.training.epoch"'),
        ({"batchSize": "5"}, 'spec.training.batchSize: Invalid value: "5": should be a valid integer'),
        (
            {"precision": {"mode": "fp64"}},
            'spec.training.precision.mode: Unsupported value: "fp64": supported values: "fp16", "bf16", "tf32", "fp32"',
        ),
        (
            {"precision": {"mode": "bf16", "lossScale": 8}},
            "spec.training.precision.lossScale: Invalid value: requires mode fp16: "
            "remove lossScale or set mode to fp16",
        ),
        (
            {"optimizer": {"warmupEpochs": 10}, "epochs": 3},
            "spec.training.optimizer.warmupEpochs: Invalid value: must be at most epochs: lower it or raise epochs",
        ),
        (
            {"augmentation": {"cropArea": [0.9, 0.1]}},
            "spec.training.augmentation.cropArea: Invalid value: must be [minimum, maximum]",
        ),
        (
            {"data": {"format": "synthetic", "pipeline": "dali"}},
            "spec.training.data.pipeline: Invalid value: synthetic data does not support dali: "
            "remove pipeline or set format to tfrecord or folder",
        ),
    ],
)
def test_resolve_invalid_field_message_has_remedy(written, sentence):
    """The message names the field, the invalid value and the remedy."""
    with pytest.raises(InvalidConfig) as refusal:
        resolve(written)
    assert str(refusal.value) == sentence


def test_resolve_reports_all_errors_together():
    """Every invalid field has a line in one message."""
    with pytest.raises(InvalidConfig) as refusal:
        resolve({"epochs": 0, "seed": -1})
    assert len(str(refusal.value).splitlines()) == 2
