"""Command `inspect`: parameters, multiply-accumulates, learning rate and the printed tables."""

import json
import math

import pytest

from resnext_trainer.cli.main import main
from resnext_trainer.model.architectures import ARCHITECTURES
from resnext_trainer.model.cost import stages
from resnext_trainer.model.resnext import ResNeXt


def inspect(capsys, *options):
    assert main(["inspect", "--json", "--images", "1281167", *map(str, options)]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "giga", "mega"), [("resnext101-32x4d", 8.01, 21.23), ("resnext50-32x4d", 4.26, 14.40)]
)
def test_inspect_macs_and_activations_match_timm(capsys, name, giga, mega):
    """The values equal timm's results table at 224 pixels; timm counts two operations per batch norm output."""
    facts = inspect(capsys, "--set", f"model.architecture={name}")
    assert facts["activations"] / 1e6 == pytest.approx(mega, abs=0.005)
    assert (facts["macs"] + 2 * facts["activations"]) / 1e9 == pytest.approx(giga, abs=0.005)
    if name == "resnext50-32x4d":
        assert facts["macs"] / 1e9 == pytest.approx(4.23, abs=0.005)  # from torchvision, without batch norm
    assert facts["weights"] == sum(stage["weights"] for stage in facts["stages"])
    # Xie et al. 2017, table 1.
    outputs = {stage["name"]: stage["output"] for stage in facts["stages"]}
    assert outputs == {
        "stem": [112, 112, 64],
        "stage1": [56, 56, 256],
        "stage2": [28, 28, 512],
        "stage3": [14, 14, 1024],
        "stage4": [7, 7, 2048],
        "classifier": [1000],
    }


def test_stages_macs_scale_with_image_area():
    """Doubling the image size quadruples the multiply-accumulates."""
    model = ResNeXt(ARCHITECTURES["resnext17-8x4d"], 10, native_groups=True)
    small, large = (sum(stage.macs for stage in stages(model, size)[:-1]) for size in (32, 64))
    assert large == 4 * small


def test_inspect_at_step_prints_learning_rate(capsys):
    """--at prints the learning rate at the given steps."""
    options = ("--world-size", 8, "--set", "epochs=90", "--set", "batchSize=256")
    facts = inspect(capsys, *options, "--at", 0, "--at", 625, "--at", 625 * 45, "--at", 625 * 90)
    peak = 0.256 * 2048 / 256
    assert facts["stepsPerEpoch"] == 625
    rates = facts["learningRateAtStep"]
    assert rates["0"] == 0
    assert rates["625"] == pytest.approx(peak / 5)
    assert rates[str(625 * 45)] == pytest.approx(peak / 2)
    assert math.isclose(rates[str(625 * 90)], 0, abs_tol=1e-12)


def test_inspect_tables_list_every_stage(capsys):
    """The tables list the stages, the learning rate and the totals."""
    options = ("--set", "model={architecture: resnext17-8x4d, classes: 10, imageSize: 32}", "--at", "7")
    assert main(["inspect", "--images", "5000", *options]) == 0
    text = capsys.readouterr().out
    for word in ("stem", "stage3", "classifier", "learningRate at step 7", "decayedVariables", "macs"):
        assert word in text


def test_inspect_shows_variables_for_speed(capsys, monkeypatch):
    """Defaults of the trainer, and what the user sets."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=2")
    architecture = ("--set", "model.architecture=resnext17-8x4d")
    facts = inspect(capsys, *architecture)
    assert facts["environment"]["XLA_FLAGS"] == "--xla_gpu_autotune_level=2"
    assert "TF_ENABLE_ONEDNN_OPTS" in facts["environment"]
    assert facts["cpusPerRank"] >= 1
    assert main(["inspect", "--images", "5000", *architecture]) == 0
    assert "--xla_gpu_autotune_level=2" in capsys.readouterr().out


@pytest.mark.parametrize("options", [("--at", "-1"), ("--at", "soon"), ("--world-size", "0"), ("--images", "0")])
def test_inspect_option_out_of_range_exits_2(options):
    """argparse rejects numbers that are out of range."""
    with pytest.raises(SystemExit) as caught:
        main(["inspect", *options])
    assert caught.value.code == 2


NO_DATA = ("--set", "data.path=/no/such/dataset")


def test_inspect_without_dataset_assumes_imagenet(capsys):
    """The output says where the image counts come from."""
    assert main(["inspect", "--json", *NO_DATA]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["trainingImages"], facts["validationImages"]) == (1_281_167, 50_000)
    assert facts["imagesFrom"] == "ImageNet, because data.path /no/such/dataset does not exist"


def test_inspect_other_classes_without_dataset_exits_3(capsys):
    """Only ImageNet's image counts are known; the message names --images."""
    assert main(["inspect", *NO_DATA, "--set", "model.classes=10"]) == 3
    assert "pass --images" in capsys.readouterr().err


def test_inspect_tables_list_every_config_field(capsys):
    """Field names are spelled as in --set."""
    assert main(["inspect", "--images", "5000", "--set", "preset=resnext101-32x4d-250ep"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.split()}
    assert rows["mixup"] == ["0.2"]
    assert rows["optimizer.learningRate"] == ["0.256"]
    assert rows["checkpoint.path"] == ["/checkpoints"]
    assert rows["targetTop1"] == ["unset"]


@pytest.mark.parametrize(
    ("settings", "noted"),
    [
        ((), True),
        (("device=gpu", "data.pipeline=dali"), True),
        (("device=cpu",), False),
        (("data.pipeline=tfdata",), False),
        (("data.fastDecode=false",), False),
        (("data.format=synthetic",), False),
    ],
)
def test_inspect_notes_fast_decode_on_gpus(capsys, settings, noted):
    """nvJPEG has no fast DCT, so a part of data.fastDecode does not apply on GPUs."""
    words = [word for setting in ("model.architecture=resnext17-8x4d", *settings) for word in ("--set", setting)]
    notes = inspect(capsys, *words)["notes"]
    assert [("data.fastDecode" in note and "nvJPEG" in note) for note in notes] == [True] * noted
