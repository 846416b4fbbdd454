"""Commands for a trained model: evaluate, predict, export, benchmark; all from one short training on digits."""

import io
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from resnext_trainer.checkpoint.runs import located
from resnext_trainer.cli.main import main
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.errors import TrainingError
from resnext_trainer.inference import export
from resnext_trainer.model.architectures import ARCHITECTURES
from resnext_trainer.model.resnext import ResNeXt
from tests.support.configurations import short_training
from tests.support.runs import trained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(digits_folder, tmp_path_factory):
    """A finished training, and its configuration as a file."""
    folder = tmp_path_factory.mktemp("run")
    settings = short_training(digits_folder, folder / "checkpoints")
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    progress = trained(settings).progress
    return SimpleNamespace(folder=folder, config=folder / "config.yaml", progress=progress, settings=settings)


def resnext_train(run, command, *more):
    return main([command, "--config", str(run.config), *map(str, more)])


def printed(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def an_image(digits_folder, number):
    return tfrecord.open_split(str(digits_folder), "validation").read(number)


def test_evaluate_accuracy_equals_reported(run, capsys):
    """`evaluate` measures the accuracy that the training reported."""
    assert resnext_train(run, "evaluate", "--json") == 0
    (facts,) = printed(capsys)
    assert facts["images"] == 359
    assert facts["top1"] == facts["right1"] / 359 == run.progress.top1
    assert facts["top5"] == facts["right5"] / 359 == run.progress.top5
    assert facts["checkpoint"].endswith("/best")


@pytest.mark.parametrize("batch", [7, 359, 400])
def test_evaluate_accuracy_independent_of_batch_size(run, capsys, batch):
    """Each image counts once, even if their number is not a multiple of the batch size."""
    resnext_train(run, "evaluate", "--json", "--set", f"batchSize={batch}")
    (facts,) = printed(capsys)
    assert (facts["images"], facts["top1"]) == (359, run.progress.top1)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--checkpoint", "/nowhere"), 9, "/nowhere is not a complete checkpoint"),
        (("--set", "checkpoint.path=/nowhere"), 9, "/nowhere contains no checkpoint"),
        (("--checkpoint", "newest", "--set", "checkpoint.path=/nowhere"), 9, "contains no checkpoint"),
        (("--set", "model.classes=11"), 2, "from a different model"),
        (("--set", "model.architecture=resnext26-32x4d"), 2, "from a different model"),
        (("--set", "data.path=/nowhere"), 3, "/nowhere"),
        (("--set", "data={format: synthetic}"), 2, "no validation images"),
        (("--set", "batchSize=0"), 2, "batchSize"),
        (("--set", "device=gpu"), 7, "no GPU is usable"),
    ],
)
def test_evaluate_error_exits_with_cause(run, capsys, options, code, words):
    """Each error has its exit code and its cause."""
    assert resnext_train(run, "evaluate", *options) == code
    assert words in capsys.readouterr().err


def test_evaluate_damaged_checkpoint_exits_9(run, tmp_path, capsys):
    """The message says that the checksum does not match."""
    damaged = shutil.copytree(located(run.folder / "checkpoints") / "best", tmp_path / "best")
    (damaged / "state.npz").write_bytes((damaged / "state.npz").read_bytes()[:-5])
    assert resnext_train(run, "evaluate", "--checkpoint", damaged) == 9
    assert "checksum mismatch" in capsys.readouterr().err


def test_predict_accuracy_equals_evaluate(run, digits_folder, tmp_path, capsys):
    """Predictions of all validation images give the accuracy of `evaluate`."""
    labels = {}
    for number in range(359):
        jpeg, label = an_image(digits_folder, number)
        labels[str(tmp_path / f"{number:03}.jpg")] = str(label - 1)
        (tmp_path / f"{number:03}.jpg").write_bytes(jpeg)
    assert resnext_train(run, "predict", tmp_path, "--top", 5) == 0
    lines = printed(capsys)
    assert [line["file"] for line in lines] == sorted(labels)
    right = [[guess["name"] for guess in line["classes"]].index(labels[line["file"]]) == 0
             for line in lines if labels[line["file"]] in {guess["name"] for guess in line["classes"]}]  # fmt: skip
    assert len(right) / 359 == run.progress.top5
    assert sum(right) / 359 == run.progress.top1
    for line in lines:
        chances = [guess["probability"] for guess in line["classes"]]
        assert chances == sorted(chances, reverse=True)
        assert 0 < sum(chances) <= 1 + 1e-6


def test_predict_reads_stdin_and_png(run, digits_folder, tmp_path, capsys, monkeypatch):
    """An image from standard input and the same one as PNG get the same class."""
    jpeg, _ = an_image(digits_folder, 0)
    picture = tmp_path / "digit.png"
    Image.open(io.BytesIO(jpeg)).save(picture)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(jpeg)))
    assert resnext_train(run, "predict", "-", picture, "--top", 20) == 0
    first, second = printed(capsys)
    assert (first["file"], second["file"]) == ("-", str(picture))
    assert len(first["classes"]) == 10
    assert sum(guess["probability"] for guess in first["classes"]) == pytest.approx(1)
    assert first["classes"][0]["number"] == second["classes"][0]["number"]


def test_predict_invalid_image_reported_and_skipped(run, digits_folder, tmp_path, capsys):
    """Invalid images have an error instead of classes, and the exit code is 3."""
    jpeg, _ = an_image(digits_folder, 0)
    contents = {"0.jpg": b"", "1.jpg": b"notes", "2.jpg": jpeg[:-30], "3.jpg": jpeg}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert resnext_train(run, "predict", tmp_path) == 3
    lines = printed(capsys)
    assert [set(line) for line in lines] == [{"file", "error"}] * 3 + [{"file", "classes"}]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("/nowhere.jpg",), 3, "/nowhere.jpg is neither"),
        (("{empty}",), 3, "contains no files"),
        (("{config}", "--labels", "/nowhere"), 2, "/nowhere cannot be read"),
        (("{config}", "--labels", "{config}"), 2, "class names, but spec.training.model.classes is 10"),
        (("{config}", "--checkpoint", "best", "--set", "checkpoint.path=/nowhere"), 9, "not a complete checkpoint"),
    ],
)
def test_predict_error_exits_with_cause(run, tmp_path, capsys, options, code, words):
    """Each error has its exit code and its cause."""
    options = [option.format(config=run.config, empty=tmp_path) for option in options]
    assert resnext_train(run, "predict", *options) == code
    assert words in capsys.readouterr().err


def test_export_saved_model_and_onnx_logits_equal(run, digits_folder, tmp_path, capsys):
    """The SavedModel and the ONNX model return the same logits for any batch, with the trained accuracy."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    import tensorflow as tf

    assert resnext_train(run, "export", "--output", tmp_path) == 0
    assert capsys.readouterr().out.count("max difference") == 2
    facts = json.loads((tmp_path / "model.json").read_text())
    assert facts["top1"] == run.progress.top1
    assert (tmp_path / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.txt", "model.json", "model.onnx", "saved_model"]

    pictures = [an_image(digits_folder, number) for number in range(100)]
    images = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg, _ in pictures])
    serve = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    ours = serve(images=tf.constant(images))["logits"].numpy()
    np.testing.assert_allclose(session.run(None, {"images": images})[0], ours, atol=1e-3)
    # The exported models also reach the accuracy of the training.
    assert np.mean(ours.argmax(axis=1) == [label - 1 for _, label in pictures]) > run.progress.top1 - 0.15


@pytest.mark.parametrize("form", ["saved-model", "onnx"])
def test_export_with_other_logits_rejected(tmp_path, monkeypatch, form):
    """An export whose logits differ is rejected and removed."""
    pytest.importorskip("tf2onnx")
    model = ResNeXt(ARCHITECTURES["resnext17-8x4d"], 10)
    name = f"_load_{form.replace('-', '_')}"
    load = getattr(export, name)
    monkeypatch.setattr(export, name, lambda path: lambda images: load(path)(images) * 1.01)
    with pytest.raises(TrainingError, match="its logits differ from the trainer's by"):
        export.write(model, 32, tmp_path, form)
    assert not list(tmp_path.iterdir())


def test_export_onnx_without_library_exits_2(run, tmp_path, capsys, monkeypatch):
    """The message names the extra to install."""
    monkeypatch.setattr(export, "_is_installed", lambda _: False)
    assert resnext_train(run, "export", "--output", tmp_path, "--format", "onnx") == 2
    assert "resnext-operator[onnx]" in capsys.readouterr().err


def test_export_output_is_file_exits_1(run, capsys):
    """The message names the file."""
    assert resnext_train(run, "export", "--output", run.config, "--format", "saved-model") == 1
    assert str(run.config) in capsys.readouterr().err


@pytest.mark.parametrize(("what", "more"), [("training", ["--synthetic"]), ("inference", []), ("input", [])])
def test_benchmark_counts_steps_after_warmup(run, capsys, what, more):
    """Each mode measures the steps after the warm-up and prints percentiles and versions."""
    assert (
        main(["benchmark", what, "--config", str(run.config), "--steps", "4", "--warm-up", "2", "--json", *more]) == 0
    )
    facts = json.loads(capsys.readouterr().out)
    latency = facts["latencySeconds"]
    assert facts["steps"] == 4
    assert facts["imagesPerSecond"] > 0
    assert latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["p99"]
    assert facts["data"] == ("synthetic" if more else "real")
    assert facts["dataWaitShare"] <= 1
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["hardware"]["cores"] > 0


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("training", "--set", "batchSize=5000"), 2, "lower batchSize"),
        (("training", "--set", "data.path=/nowhere"), 3, "/nowhere"),
    ],
)
def test_benchmark_error_exits_with_cause(run, capsys, options, code, words):
    """Each error has its exit code and its cause."""
    what, *more = options
    assert main(["benchmark", what, "--config", str(run.config), *more]) == code
    assert words in capsys.readouterr().err


def test_sweep_finds_largest_batch_and_input_time(run, capsys):
    """Real measurements in processes of their own: up to the limit with random images, and once with the dataset."""
    options = ("--steps", "2", "--warm-up", "1", "--largest-batch", "32", "--set", "batchSize=32", "--json")
    assert main(["benchmark", "training", "--config", str(run.config), "--sweep", *options]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["largestBatch"] == {"fp32": 32}
    synthetic, real = found["cells"]
    assert (synthetic["facts"]["data"], real["facts"]["data"]) == ("synthetic", "real")
    assert 0 <= real["inputIdleShare"] <= 1
    assert real["facts"]["flopsPerImage"] > 0
    assert real["facts"]["modelFlopUtilization"] is None  # The peak of a CPU is unknown.
    assert len(printed.err.splitlines()) == 2


@pytest.mark.parametrize("options", [("training", "--steps", "0"), ("nothing",), ("input", "--warm-up", "few")])
def test_benchmark_option_out_of_range_exits_2(options):
    """argparse rejects invalid options."""
    with pytest.raises(SystemExit) as caught:
        main(["benchmark", *options])
    assert caught.value.code == 2
