"""`resnext-train evaluate`."""

import argparse
import json
from functools import partial

from resnext_trainer.cli.options import (
    CHECKPOINT_SETTINGS,
    Commands,
    at_a_terminal,
    checkpoint_option,
    command,
    config_options,
    read_config,
)


def add(commands: Commands) -> None:
    """Adds the command."""
    evaluate = command(
        commands,
        "evaluate",
        "measure a checkpoint's accuracy on the validation images",
        _run,
        "Every image counts once; under mpirun the images are divided among the ranks. " + CHECKPOINT_SETTINGS,
    )
    config_options(evaluate, "that of the checkpoint")
    checkpoint_option(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print JSON")


@at_a_terminal
def _run(options: argparse.Namespace) -> int:
    written = read_config(options)
    from resnext_trainer.config.models import Training
    from resnext_trainer.contract import ExitStatus
    from resnext_trainer.data.input_pipeline import InputPipeline, open_for_ranks
    from resnext_trainer.errors import TrainingError
    from resnext_trainer.inference import trained_model
    from resnext_trainer.model.resnext import ResNeXt
    from resnext_trainer.model.train_step import eval_step
    from resnext_trainer.runtime.bring_up import bring_up
    from resnext_trainer.runtime.distributed import Communicator, run_collectively
    from resnext_trainer.training.evaluate import evaluate

    found: trained_model.TrainedModel

    def read() -> Training:
        nonlocal found
        found = trained_model.read(written, options.checkpoint)
        return found.config

    def open_together(communicator: Communicator, config: Training) -> tuple[Training, tuple[ResNeXt, InputPipeline]]:
        network = run_collectively(communicator, lambda: found.load_model(config.device))
        return config, (network, open_for_ranks(communicator, config))

    with bring_up(read, open_together) as runtime:
        network, source = runtime.opened
        if not source.validation_images:
            raise TrainingError(
                ExitStatus.INVALID_CONFIGURATION,
                "synthetic data has no validation images: set data.format",
                collective=True,
            )
        (accuracy,) = evaluate([partial(eval_step, network)], source, runtime.communicator)
    if runtime.communicator.rank == 0:
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
