"""`resnext-train inspect`."""

import argparse

from resnext_trainer.cli.options import Commands, at_a_terminal, command, config_options, positive, read_config


def add(commands: Commands) -> None:
    """Adds the command."""
    inspect = command(
        commands,
        "inspect",
        "print the resolved configuration, model size and schedule",
        _run,
        "Prints every field of the resolved configuration, the stages of the model, the number of steps, the learning "
        "rate, and the environment variables that change the speed. If data.path does not exist and the model has 1000 "
        "classes, the image counts of ImageNet are used (1,281,167 for training, 50,000 for validation).",
    )
    config_options(inspect)
    inspect.add_argument("--world-size", type=positive, default=1, help="number of ranks")
    inspect.add_argument("--images", type=positive, help="override the number of training images")
    inspect.add_argument(
        "--at", type=_step, action="append", default=[], metavar="STEP", help="also print the learning rate at STEP"
    )
    inspect.add_argument("--json", action="store_true", help="print JSON")


def _step(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{number} is less than 0")
    return number


@at_a_terminal
def _run(options: argparse.Namespace) -> int:
    config = read_config(options)
    from resnext_trainer.cli import config_summary

    images = config_summary.count_images(config, options.images)
    config_summary.show(
        config_summary.summarize_config(config, options.world_size, images, options.at), as_json=options.json
    )
    return 0
