"""`resnext-train predict`."""

import argparse
import json
import sys
from functools import partial

from resnext_trainer.cli.options import (
    CHECKPOINT_SETTINGS,
    Commands,
    at_a_terminal,
    checkpoint_option,
    command,
    config_options,
    labels_option,
    positive,
    read_config,
)


def add(commands: Commands) -> None:
    """Adds the command."""
    predict = command(
        commands,
        "predict",
        "print the top-k classes of images as JSON lines",
        _run,
        'Prints one object per image, in order: {"file", "classes": [{"name", "number", "probability"}, …]}, or '
        '{"file", "error"} if it is not an image; the exit code is then 3. A class without a name has no "name". '
        "Images are cropped as in evaluation, and the model computes in float32. " + CHECKPOINT_SETTINGS,
    )
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="file, directory, or - for standard input")
    config_options(predict, "that of the checkpoint")
    checkpoint_option(predict)
    predict.add_argument("--top", type=positive, default=5, metavar="K", help="number of classes per image")
    labels_option(predict)


@at_a_terminal
def _run(options: argparse.Namespace) -> int:
    written = read_config(options)
    from resnext_trainer.contract import ExitStatus
    from resnext_trainer.inference import predict, trained_model
    from resnext_trainer.model.train_step import eval_step
    from resnext_trainer.runtime.bring_up import bring_up_alone

    files = predict.find(options.images)
    found = trained_model.read(written, options.checkpoint).fp32()
    names = found.class_names(options.labels)
    network = found.load_model(bring_up_alone(found.config).device)
    code = 0
    for file, guessed in predict.guesses(
        partial(eval_step, network), found.config, files, options.top, sys.stdin.buffer
    ):
        if isinstance(guessed, str):
            code = ExitStatus.INVALID_DATA.value
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
