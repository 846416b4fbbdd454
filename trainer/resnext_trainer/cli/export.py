"""`resnext-train export`."""

import argparse
from pathlib import Path

from resnext_trainer.cli.options import (
    CHECKPOINT_SETTINGS,
    Commands,
    at_a_terminal,
    checkpoint_option,
    command,
    config_options,
    labels_option,
    read_config,
)

_FORMATS = ("saved-model", "onnx")


def add(commands: Commands) -> None:
    """Adds the command."""
    export = command(
        commands,
        "export",
        "export a trained model as SavedModel and ONNX",
        _run,
        "The export takes uint8 images [batch, size, size, 3], includes the normalization, computes in float32, and "
        "returns logits. Each export is reloaded and checked against the trainer's logits; the largest difference is "
        "printed. Also writes model.json, and labels.txt if the classes have names. " + CHECKPOINT_SETTINGS,
    )
    config_options(export, "that of the checkpoint")
    checkpoint_option(export)
    export.add_argument("--output", type=Path, required=True, metavar="DIR", help="output directory")
    export.add_argument(
        "--format", action="append", choices=_FORMATS, help="format to export; can be repeated (default: all)"
    )
    labels_option(export)


@at_a_terminal
def _run(options: argparse.Namespace) -> int:
    written = read_config(options)
    from resnext_trainer.inference import export, trained_model
    from resnext_trainer.runtime.bring_up import bring_up_alone

    found = trained_model.read(written, options.checkpoint).fp32()
    names = found.class_names(options.labels)
    config, position = found.config, found.position
    network = found.load_model(bring_up_alone(config).device)
    for form in dict.fromkeys(options.format or _FORMATS):
        done = export.write(network, config.model.image_size, options.output, form)
        print(f"{done.path}: max |logit| {done.greatest:.3g}, max difference {done.difference:.3g}")
    facts = {
        "architecture": config.model.architecture,
        "classes": config.model.classes,
        "imageSize": config.model.image_size,
        "cropFraction": config.evaluation.crop_fraction,
        "antialias": config.data.resize.antialias,
        "fastDecode": config.data.fast_decode,
        "checkpoint": found.saved.path,
        "step": position.step,
        "top1": position.top1,
        "input": "images: uint8 [batch, size, size, 3], RGB; resized so that imageSize is cropFraction of the shorter "
        f"side (bilinear, {'antialiased' if config.data.resize.antialias else 'not antialiased'}), then center crop",
        "output": "logits: float32 [batch, classes]",
    }
    export.describe(options.output, facts, names)
    return 0
