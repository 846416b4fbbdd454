"""Settings of a training, declared once: the trainer's configuration and `spec.training` of the resource.

The docstring under a field is its description in `kubectl explain` and in the reference. This module requires only
pydantic, so the operator can import it without TensorFlow.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr

from resnext_trainer.config import presets
from resnext_trainer.config.architecture import Model
from resnext_trainer.config.bounds import MOST_EPOCHS, Epochs, Path
from resnext_trainer.config.data import Augmentation, Data
from resnext_trainer.config.rules import HERE, RECIPE, RUN, Config, Resume, Rule, resume_classes

PrecisionMode = Literal["fp16", "bf16", "tf32", "fp32"]


class Optimizer(Config):
    """SGD with momentum. The learning rate scales linearly with the global batch (Goyal et al. 2017,
    arXiv:1706.02677)."""

    learning_rate: Annotated[float, Field(gt=0, le=1_000_000)] = 0.256
    """Peak learning rate for a global batch of 256 images. It scales linearly with the global batch."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.875
    """Momentum factor: v <- momentum * v + gradient, w <- w - lr * v."""

    weight_decay: Annotated[float, Field(ge=0, le=1000)] = 1 / 16384
    """Weight decay (L2 penalty) on all weights except the scale and offset of batch norm."""

    schedule: Literal["cosine", "step"] = "cosine"
    """Learning rate schedule: cosine decay to zero, or division by ten at each of stepEpochs."""

    step_epochs: Annotated[
        tuple[Annotated[float, Field(gt=0, le=MOST_EPOCHS)], ...], Field(min_length=1, max_length=16)
    ] = (30, 60, 80)
    """Epochs after which the schedule step divides the learning rate by ten."""

    warmup_epochs: Annotated[float, Field(ge=0, le=MOST_EPOCHS)] = 5.0
    """Epochs of linear warm-up from zero to the scaled peak. Must not exceed epochs."""

    warmup_min_global_batch: Annotated[int, Field(ge=1, le=1_000_000_000)] = 512
    """Minimum global batch for warm-up. Trainings with a smaller global batch start at the peak learning rate."""

    gradient_compression: Literal["none", "fp16"] = "none"
    """Compression of gradients for the all-reduce: none, or fp16."""


class Precision(Config):
    """Numerical precision of the forward and backward pass. Weights and updates are always float32."""

    mode: PrecisionMode = "fp16"
    """fp16 and bf16 are mixed precision. tf32 is float32 with TensorFloat-32 on tensor cores. fp32 is full
    precision."""

    loss_scale: Literal["dynamic"] | Annotated[int, Field(ge=1, le=2**31 - 1)] = "dynamic"
    """Loss scale for fp16: a fixed number, or dynamic (starts at 2^15, doubles after 2000 steps without overflow,
    halves after an overflow, down to 1)."""

    rules = (
        Rule(
            "!has(self.lossScale) || !has(self.mode) || self.mode == 'fp16'",
            lambda it: it.mode == "fp16" or "loss_scale" not in it.model_fields_set or it.loss_scale == "dynamic",
            "lossScale",
            "requires mode fp16: remove lossScale or set mode to fp16",
        ),
    )


class Evaluation(Config):
    """Evaluation of the accuracy on all images of the validation set."""

    interval_epochs: Epochs = 1
    """Number of epochs between evaluations. The last epoch is always evaluated."""

    crop_fraction: Annotated[float, Field(gt=0, le=1), RECIPE] = 0.875
    """Side of the center crop as a fraction of the shorter side of the resized image: 0.875 is 224 of 256 pixels."""


class Checkpoint(Config):
    """Checkpoints: directory, interval, and how many to keep."""

    path: Annotated[Path, HERE] = "/checkpoints"
    """Directory for checkpoints. Only rank 0 reads and writes it. In a cluster, /checkpoints or a directory below
    it."""

    on_mismatch: Annotated[Literal["refuse", "continue", "warmStart", "restart"], HERE] = "refuse"
    """What to do if the recipe or the dataset differs from that of the checkpoints. refuse: fail and list the
    differences. continue: resume and record the differences. warmStart: start a new run with the weights of the old
    one. restart: start a new run."""

    lock_timeout_seconds: Annotated[int, Field(ge=1, le=540), HERE] = 120
    """Time to wait for the lock if another training writes to the same directory, before the attempt fails."""

    interval_epochs: Epochs = 1
    """Number of epochs between checkpoints. A checkpoint is also saved at the end and on a stop request."""

    interval_minutes: Annotated[float, Field(ge=0, le=10_080)] = 15.0
    """Maximum time in minutes between checkpoints within an epoch. 0 disables checkpoints within an epoch."""

    save_timeout_seconds: Annotated[int, Field(ge=1, le=86_400), HERE] = 600
    """Time to retry saving the last checkpoint, at the end or on a stop request, before the attempt fails with exit
    status 10. On a stop request, the termination grace period of the pod also limits it."""

    keep: Annotated[int, Field(ge=2, le=1_000_000)] = 3
    """Number of most recent checkpoints to keep, at least 2 because the newest may be damaged. The checkpoint with
    the best top-1 accuracy is kept in addition."""


_EPOCHS_OF_PRESET = "".join(
    f"has(self.preset) && self.preset == '{name}' ? {preset['epochs']} : " for name, preset in presets.PRESETS.items()
)
_EPOCHS = f"has(self.epochs) ? self.epochs : {_EPOCHS_OF_PRESET}90"
"""CEL expression: number of epochs, even if the user does not set epochs."""


class Training(Config):
    """Configuration of the training. Defaults come from the preset, or else from the published recipe."""

    preset: Annotated[presets.Name | None, RECIPE] = None
    """Published recipe that sets the defaults of the other fields."""

    model: Annotated[Model, RECIPE] = Model()
    """Model architecture and input size."""

    epochs: Annotated[Epochs, RUN] = 90
    """Number of passes over the training images."""

    batch_size: Annotated[int, Field(ge=1, le=1_000_000), RUN] = 256
    """Number of images per rank and forward pass. If unset, it is 256 for fp16 and bf16, 128 for tf32, and
    64 for fp32."""

    gradient_accumulation: Annotated[int, Field(ge=1, le=1024), RUN] = 1
    """Number of batches whose gradients are accumulated before an update. Multiplies the global batch."""

    optimizer: Annotated[Optimizer, RECIPE] = Optimizer()
    """SGD with momentum, and the learning rate schedule."""

    ema_decay: Annotated[float, Field(ge=0, lt=1), RECIPE] = 0.0
    """Decay of the exponential moving average of the weights. If greater than 0, the averaged weights are evaluated and
    determine the best checkpoint. 0 disables the average."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1), RECIPE] = 0.1
    """Label-smoothing factor."""

    mixup: Annotated[float, Field(ge=0, le=1000), RECIPE] = 0.0
    """Alpha of mixup (Zhang et al. 2018, arXiv:1710.09412). 0 disables mixup."""

    augmentation: Annotated[Augmentation, RECIPE] = Augmentation()
    """Augmentation of training images."""

    precision: Annotated[Precision, RUN] = Precision()
    """Numerical precision."""

    xla: Annotated[bool, RUN] = True
    """Compile the training step, except the all-reduce, and the evaluation step with XLA."""

    device: Annotated[Literal["auto", "gpu", "cpu"], HERE] = "auto"
    """Device to train on. auto selects gpu if the workers request GPUs (outside a cluster, if the machine
    has GPUs), otherwise cpu. gpu does not fall back to cpu."""

    data: Annotated[Data, RECIPE] = Data()
    """Dataset and input pipeline."""

    evaluation: Annotated[Evaluation, RUN] = Evaluation()
    """Evaluation of the accuracy."""

    checkpoint: Annotated[Checkpoint, RUN] = Checkpoint()
    """Directory, interval and retention of checkpoints."""

    initial_checkpoint: Annotated[Path | None, RECIPE] = None
    """Path of a checkpoint, run or checkpoint directory to initialize the weights from. The number of classes may
    differ."""

    seed: Annotated[int, Field(ge=0, lt=2**31), RECIPE] = 0
    """Random seed of the initial weights, the order of images and the augmentation."""

    deterministic: Annotated[bool, RUN] = False
    """Use only deterministic algorithms. Slower on GPUs."""

    max_rollbacks: Annotated[int, Field(ge=0, le=1_000_000), RUN] = 3
    """Number of rollbacks to the last checkpoint after a non-finite loss, before the training fails."""

    profile_steps: Annotated[int, Field(ge=1, le=1000), HERE] = 10
    """Number of steps that rank 0 profiles after SIGUSR1. The profile is written to the directory tensorboard of the
    run."""

    target_top1: Annotated[Annotated[float, Field(gt=0, le=1)] | None, RUN] = None
    """Top-1 accuracy (0 to 1) at which the training completes early."""

    stall_timeout_seconds: Annotated[int, Field(ge=10, le=2**31 - 1), HERE] = 600
    """Time after which a rank that completes no step and no evaluation batch ends the attempt as hung. Before its first
    step a rank has at least ten minutes."""

    rules = (
        Rule(
            "!(has(self.optimizer) && has(self.optimizer.warmupEpochs)) "
            f"|| self.optimizer.warmupEpochs <= double({_EPOCHS})",
            lambda it: it.optimizer.warmup_epochs <= it.epochs,
            "optimizer.warmupEpochs",
            "must be at most epochs: lower it or raise epochs",
        ),
        Rule(
            "!(has(self.device) && self.device == 'cpu' && has(self.precision) && has(self.precision.mode) "
            "&& self.precision.mode == 'tf32')",
            lambda it: not (it.device == "cpu" and it.precision.mode == "tf32"),
            "precision.mode",
            "tf32 requires an NVIDIA GPU: set precision.mode to fp32 or bf16, or device to gpu",
        ),
    )

    _written: frozenset[str] = PrivateAttr(frozenset())

    @property
    def written(self) -> frozenset[str]:
        """The fields that the user set, such as optimizer.learningRate, without those from a preset or default."""
        return self._written

    def as_written_by(self, settings: Mapping[str, Any]) -> Self:
        """The same training, with the fields of these settings as `written`."""
        training = self.model_copy()
        training._written = frozenset(fields(settings) & RESUME.keys())
        return training

    def global_batch(self, ranks: int) -> int:
        """Number of images per update, over all ranks."""
        return self.batch_size * self.gradient_accumulation * ranks


RESUME: Mapping[str, Resume | None] = dict(resume_classes(Training))
"""The resume class of each field; None if the field has no class, which a test rejects."""


def fields(settings: Mapping[str, Any], prefix: str = "") -> set[str]:
    """The fields that have a value in `settings`, such as optimizer.learningRate."""
    found: set[str] = set()
    for key, value in settings.items():
        found |= fields(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}"}
    return found
