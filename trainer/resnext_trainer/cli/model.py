"""Commands about a network and its run: what it is, how good, how fast, what it sees, how to take it elsewhere."""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from resnext_trainer.cli.options import Commands, at_a_terminal, command, config_options, positive, read_config

_FORMATS = ("saved-model", "onnx")

_SETTINGS = "The settings are those of the checkpoint, under what --config and --set say."


def add(commands: Commands) -> None:
    """`inspect`, `evaluate`, `predict`, `export`, `benchmark` and `report`."""
    _add_inspect(commands)
    evaluate = command(
        commands,
        "evaluate",
        "measure a checkpoint's accuracy on the validation images",
        _evaluate,
        "Every image counts once; under mpirun the ranks share them. Without --json a sentence, with it one object. "
        + _SETTINGS,
    )
    config_options(evaluate)
    _checkpoint_option(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print JSON")

    predict = command(
        commands,
        "predict",
        "print the likeliest classes of images as JSON lines",
        _predict,
        'One object an image, in order: {"file", "classes": [{"name", "number", "probability"}, …]}, or {"file", '
        '"error"} where it is none; then the exit code is 3. A class without a name has no "name". Images are cut as '
        "in evaluation, computed in float32. " + _SETTINGS,
    )
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder, or - for standard input")
    config_options(predict)
    _checkpoint_option(predict)
    predict.add_argument("--top", type=positive, default=5, metavar="K", help="classes named for each image")
    _labels_option(predict)

    export = command(
        commands,
        "export",
        "write a trained network as SavedModel and ONNX",
        _export,
        "uint8 images [batch, size, size, 3] in, logits out, the normalisation inside, float32. Each is loaded again "
        "and held against the trainer's own logits; the largest difference is printed. model.json lies beside them, "
        "and labels.txt if the classes have names. " + _SETTINGS,
    )
    config_options(export)
    _checkpoint_option(export)
    export.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    export.add_argument(
        "--format", action="append", choices=_FORMATS, help="a format; repeat for more, all if left out"
    )
    _labels_option(export)
    _add_benchmark(commands)

    report = command(
        commands,
        "report",
        "draw a run's loss, accuracy, speed and time shares on one HTML page",
        _report,
        "The page loads nothing from elsewhere. What it shows is the log.jsonl that a training keeps beside its "
        "checkpoints; a run that still goes on has one, too.",
    )
    report.add_argument("folder", type=Path, metavar="RUN", help="checkpoint.path, a run in it, or a log.jsonl")
    report.add_argument("--output", type=Path, default=Path("report.html"), metavar="FILE", help="the page to write")
    report.add_argument("--title", default=argparse.SUPPRESS, help="its heading; the folder's name if left out")


def _add_inspect(commands: Commands) -> None:
    inspect = command(
        commands,
        "inspect",
        "print what a configuration means, without training",
        _inspect,
        "Every field of the resolved configuration, the network, its steps and learning rates. If data.path does not "
        "exist, 1000 classes are taken for ImageNet's 1,281,167 training and 50,000 validation images.",
    )
    config_options(inspect)
    inspect.add_argument("--world", type=positive, default=1, help="number of ranks")
    inspect.add_argument("--images", type=positive, help="training images, instead of those in data.path")
    inspect.add_argument(
        "--at", type=_step, action="append", default=[], metavar="STEP", help="a step to tell the learning rate of"
    )
    inspect.add_argument("--json", action="store_true", help="print JSON")


def _add_benchmark(commands: Commands) -> None:
    benchmark = command(
        commands,
        "benchmark",
        "time steps of training, of inference, or of the input alone",
        _benchmark,
        "Percentiles are of the time of a step, waiting for its batch included. Under mpirun, all ranks' images count.",
    )
    benchmark.add_argument("what", choices=("training", "inference", "input"), help="what a step is")
    config_options(benchmark)
    benchmark.add_argument("--synthetic", action="store_true", help="noise in place of the images of data.path")
    benchmark.add_argument("--steps", type=positive, default=100, help="steps that are timed")
    benchmark.add_argument("--warm-up", type=positive, default=10, metavar="STEPS", help="steps before, not counted")
    benchmark.add_argument("--json", action="store_true", help="print JSON")


def _step(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{number} is less than 0")
    return number


def _checkpoint_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        metavar="best|newest|DIR",
        help="the one of checkpoint.path to take, or the folder of a checkpoint, of a run or of its runs; the best, or "
        "the newest where none is the best yet",
    )


def _labels_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="names of the classes, one a line, instead of those in the checkpoint",
    )


@at_a_terminal
def _inspect(options: argparse.Namespace) -> int:
    config = read_config(options)
    from resnext_trainer.cli import config_summary

    images = config_summary.count_images(config, options.images)
    config_summary.show(
        config_summary.summarize_config(config, options.world, images, options.at), as_json=options.json
    )
    return 0


@at_a_terminal
def _evaluate(options: argparse.Namespace) -> int:
    written = read_config(options)
    from resnext_trainer.checkpoint import inference
    from resnext_trainer.config.models import Training
    from resnext_trainer.contract import ExitStatus
    from resnext_trainer.data.input_pipeline import InputPipeline, open_for_ranks
    from resnext_trainer.errors import TrainingError
    from resnext_trainer.model.resnext import ResNeXt
    from resnext_trainer.runtime.bring_up import bring_up
    from resnext_trainer.runtime.distributed import Communicator, run_collectively
    from resnext_trainer.training.evaluate import evaluate

    found: inference.TrainedModel

    def read() -> Training:
        nonlocal found
        found = inference.read(written, options.checkpoint)
        return found.config

    def open_together(ranks: Communicator, config: Training) -> tuple[Training, tuple[ResNeXt, InputPipeline]]:
        network = run_collectively(ranks, lambda: found.load_model(config.device))
        return config, (network, open_for_ranks(ranks, config))

    with bring_up(read, open_together) as runtime:
        network, source = runtime.opened
        if not source.validation_images:
            raise TrainingError(
                ExitStatus.CONFIGURATION_REFUSED,
                "synthetic data has no validation images: set data.format",
                collective=True,
            )
        (accuracy,) = evaluate([network], source, runtime.ranks)
    if runtime.ranks.rank == 0:
        counts = {"images": accuracy.images, "right1": accuracy.right1, "right5": accuracy.right5}
        facts = {"top1": accuracy.top1, "top5": accuracy.top5, **counts}
        if options.json:
            print(json.dumps({"checkpoint": found.saved.path, "step": found.position.step, **facts}))
        else:
            print(
                f"{found.saved.path}, step {found.position.step}: top-1 {accuracy.top1:.4f}, top-5 {accuracy.top5:.4f} "
                f"({accuracy.right1:,} and {accuracy.right5:,} of {accuracy.images:,})"
            )
    return 0


@at_a_terminal
def _predict(options: argparse.Namespace) -> int:
    written = read_config(options)
    from resnext_trainer.checkpoint import inference
    from resnext_trainer.cli import predict
    from resnext_trainer.contract import ExitStatus
    from resnext_trainer.model.train_step import eval_step
    from resnext_trainer.runtime.bring_up import bring_up_alone

    files = predict.find(options.images)
    found = inference.read(written, options.checkpoint).fp32()
    names = found.class_names(options.labels)
    network = found.load_model(bring_up_alone(found.config).device)
    code = 0
    for file, guessed in predict.guesses(
        partial(eval_step, network), found.config, files, options.top, sys.stdin.buffer
    ):
        if isinstance(guessed, str):
            code = ExitStatus.DATA_REFUSED.value
            print(json.dumps({"file": file, "error": guessed}), flush=True)
        else:
            classes = [
                {
                    **({} if (name := names[guess.number]) is None else {"name": name}),
                    "number": guess.number,
                    "probability": guess.probability,
                }
                for guess in guessed
            ]
            print(json.dumps({"file": file, "classes": classes}), flush=True)
    return code


@at_a_terminal
def _export(options: argparse.Namespace) -> int:
    written = read_config(options)
    from resnext_trainer.checkpoint import inference
    from resnext_trainer.cli import export
    from resnext_trainer.runtime.bring_up import bring_up_alone

    found = inference.read(written, options.checkpoint).fp32()
    names = found.class_names(options.labels)
    config, position = found.config, found.position
    network = found.load_model(bring_up_alone(config).device)
    for form in dict.fromkeys(options.format or _FORMATS):
        done = export.write(network, config.model.image_size, options.output, form)
        print(f"{done.path}: logits up to {done.greatest:.3g}, largest difference {done.difference:.3g}")
    facts = {
        "architecture": config.model.architecture,
        "classes": config.model.classes,
        "imageSize": config.model.image_size,
        "cropFraction": config.evaluation.crop_fraction,
        "checkpoint": found.saved.path,
        "step": position.step,
        "top1": position.top1,
        "input": "images: uint8 [batch, size, size, 3], RGB: the centre square of cropFraction of the shorter side, "
        "resized to imageSize (bilinear, antialiased)",
        "output": "logits: float32 [batch, classes]",
    }
    export.describe(options.output, facts, names)
    return 0


@at_a_terminal
def _benchmark(options: argparse.Namespace) -> int:
    if options.synthetic:
        options.assignments = [*options.assignments, "data.format=synthetic", "data.pipeline=auto"]
    config = read_config(options)
    from resnext_trainer.cli import benchmark
    from resnext_trainer.cli.progress_bar import progress

    with progress("steps", options.warm_up + options.steps) as advance:
        facts = benchmark.run(config, options.what, steps=options.steps, warm_up=options.warm_up, advance=advance)
    if facts:
        benchmark.show(facts, as_json=options.json)
    return 0


@at_a_terminal
def _report(options: argparse.Namespace) -> int:
    from resnext_trainer.training import html_report

    log = html_report.read(options.folder)
    folder = options.folder.resolve() if options.folder.is_dir() else options.folder.resolve().parent
    options.output.write_text(html_report.render(log, getattr(options, "title", folder.name)), encoding="utf-8")
    print(f"{options.output}: {len(log.entries):,} entries up to step {log.entries[-1].step:,}")
    if log.unreadable:
        print(f"{log.unreadable:,} lines were no entries and are left out", file=sys.stderr)
    return 0
