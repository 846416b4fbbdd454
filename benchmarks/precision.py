"""Loss and gradients of one training step in each precision, compared with float32 without XLA on the same device.

    python -m benchmarks.precision [--device gpu] [--batch 64] [--minutes M] [--mode MODE] [--set FIELD=VALUE]

Prints one JSON object per line as soon as it is measured, the most important precision first. The network is
initialized with zero residual scales: otherwise rounding errors grow with its depth, in other implementations
as well.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MODES = ("fp16+xla", "tf32+xla", "bf16+xla", "fp32+xla", "fp16", "tf32", "bf16")
_HALVINGS = 15
"""Maximum number of halvings of the fp16 loss scale, from 2^15 to 1. Training also halves it after a step that
overflows."""


@dataclass(frozen=True)
class Step:
    """Result of one step."""

    loss: float
    gradients: np.ndarray
    """All gradients without the loss scale, float64 [weights]."""
    loss_scale: float


def compare(step: Step, exact: Step) -> dict[str, Any]:
    """Differences between a step and the float32 reference, for JSON."""
    norm, exact_norm = (float(np.linalg.norm(each.gradients)) for each in (step, exact))
    found = {
        "loss": step.loss,
        "lossDifference": step.loss - exact.loss,
        "cosine": float(step.gradients @ exact.gradients) / (norm * exact_norm),
        "ratioOfNorms": norm / exact_norm,
        "lossScale": step.loss_scale,
    }
    # JSON has no NaN.
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The result of each mode, with the seconds that it took, mostly to compile."""
    from resnext_trainer.runtime import environment

    environment.set_tensorflow_defaults()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from resnext_trainer.config import loading
    from resnext_trainer.runtime.bring_up import bring_up_alone
    from resnext_trainer.training.benchmark import hardware, versions

    deadline = time.monotonic() + 60 * options.minutes
    device = bring_up_alone(loading.read(None, [*options.assignments, f"device={options.device}"])).device
    yield {"device": device, "hardware": hardware(), "versions": versions()}
    exact: Step | None = None
    for mode in ("fp32", *options.modes):
        if time.monotonic() > deadline:
            print(f"no time left for {mode} and later modes: increase --minutes", file=sys.stderr)
            return
        precision, _, compiler = mode.partition("+")
        begin = time.monotonic()
        settings = [
            *("model.architecture=resnext101-32x4d", "model.zeroInitGamma=true", *options.assignments),
            *(f"batchSize={options.batch}", f"precision.mode={precision}", f"xla={'true' if compiler else 'false'}"),
        ]
        try:
            config = loading.read(None, settings)
            tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
            step = one_step(config, device)
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            yield {"mode": mode, "error": str(error)[:300]}
            continue
        exact = exact or step
        yield {"mode": mode, "seconds": time.monotonic() - begin, **compare(step, exact)}


def one_step(config: Any, device: str) -> Step:
    """Gradients of a batch of noise at the initial weights."""
    import tensorflow as tf

    from resnext_trainer.model.train_state import TrainState
    from resnext_trainer.model.train_step import forward_backward

    state, size = TrainState(config, device), config.model.image_size
    random = np.random.default_rng(0)
    images = tf.constant(random.integers(0, 256, (config.batch_size, size, size, 3), np.uint8))
    labels = tf.constant(random.integers(0, config.model.classes, config.batch_size, np.int32))
    for _ in range(_HALVINGS):
        found = forward_backward(state, images, labels, tf.ones([config.batch_size if config.mixup else 1]))
        scale = float(state.optimizer.scale.numpy())
        gradients = np.concatenate([each.numpy().astype(np.float64).ravel() for each in found.weights]) / scale
        if np.isfinite(gradients).all() or config.precision.mode != "fp16":
            break
        state.optimizer.scale.assign(scale / 2)
    return Step(float(found.loss.numpy()), gradients, scale)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--minutes", type=float, default=60.0, help="start no further mode after this many minutes")
    parser.add_argument("--mode", choices=MODES, action="append", dest="modes", help="default: all")
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="FIELD=VALUE")
    options = parser.parse_args(arguments)
    options.modes = options.modes or MODES
    for result in measure(options):
        print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
