"""Every setting of a training, declared once: the trainer's configuration and the resource's `spec.training`.

The sentence under a field is its description everywhere: `kubectl explain`, the reference tables, this file.
Only pydantic is needed here, so that the operator can import it without TensorFlow.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr

from resnext_trainer.config import presets
from resnext_trainer.config.rules import HERE, RECIPE, RUN, Config, Resume, Rule, resume_classes

Architecture = Literal[
    "resnext101-32x4d",
    "resnext101-32x8d",
    "resnext101-64x4d",
    "se-resnext101-32x4d",
    "resnext50-32x4d",
    "resnext26-32x4d",
    "resnext17-8x4d",
    "resnet50",
    "resnet101",
    "custom",
]
PrecisionMode = Literal["fp16", "bf16", "tf32", "fp32"]
Pipeline = Literal["auto", "dali", "tfdata"]

Share = Annotated[float, Field(ge=0, le=1)]

# Every value has an upper bound: sums of them must not overflow, and the API server bounds the cost of rules.
MOST_EPOCHS = 100_000
Epochs = Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
Path = Annotated[str, Field(min_length=1, max_length=1024)]


class Custom(Config):
    """A network of the family that has no name."""

    blocks: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=6)] = (3, 4, 6, 3)
    """Blocks in each stage; each stage doubles the channels and halves the image."""

    groups: Annotated[int, Field(ge=1, le=256)] = 32
    """Groups of the 3x3 convolutions; 1 makes a ResNet."""

    width: Annotated[int, Field(ge=1, le=256)] = 4
    """Channels of one group in the first stage."""

    channels: Annotated[int, Field(ge=8, le=4096)] = 256
    """Output channels of a block of the first stage."""

    squeeze: Annotated[int, Field(ge=1, le=64)] | None = None
    """Squeeze and excitation on the block's output, with this many times fewer channels; left out, none."""

    stem: Annotated[int, Field(ge=1, le=1024)] = 64
    """Output channels of the first convolution."""

    small_images: bool = False
    """A 3x3 first convolution in place of 7x7/2 and a max-pool, for images of about 32 pixels."""

    rules = (
        Rule(
            "!has(self.squeeze) || (has(self.channels) ? self.channels : 256) >= self.squeeze",
            lambda it: it.squeeze is None or it.channels >= it.squeeze,
            "squeeze",
            "no channel would be left: set it to at most channels",
        ),
    )


class Model(Config):
    """The network (Xie et al. 2017, arXiv:1611.05431)."""

    architecture: Architecture = "resnext101-32x4d"
    """The network: depth, groups x width of a group. resnext17-8x4d is for images of 32 pixels and for CPUs."""

    custom: Custom | None = None
    """The network when architecture is custom."""

    padding: Literal["same", "symmetric"] = "same"
    """How strided convolutions pad: same is TensorFlow's, symmetric is PyTorch's, for weights that come from there."""

    init_mode: Literal["fan_in", "fan_out"] = "fan_in"
    """Initialization mode: fan-in or fan-out (He)."""

    zero_init_gamma: bool = False
    """Zero-initialize the last gamma of each residual block."""

    classes: Annotated[int, Field(ge=2, le=100_000)] = 1000
    """Number of classes."""

    image_size: Annotated[int, Field(ge=16, le=1024)] = 224
    """Height and width of the images that the network sees, in pixels."""

    rules = (
        Rule(
            "(has(self.architecture) && self.architecture == 'custom') == has(self.custom)",
            lambda it: (it.architecture == "custom") == (it.custom is not None),
            "custom",
            "architecture custom and the fields of custom belong together: set both, or leave custom out",
        ),
    )


class Optimizer(Config):
    """SGD with momentum; learning rate scaled with the batch after Goyal et al. 2017 (arXiv:1706.02677)."""

    learning_rate: Annotated[float, Field(gt=0, le=1_000_000)] = 0.256
    """Peak learning rate for 256 images per step; the schedule scales it linearly with the global batch."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.875
    """Share of the velocity that each step keeps: v <- momentum * v + gradient, w <- w - rate * v."""

    weight_decay: Annotated[float, Field(ge=0, le=1000)] = 1 / 16384
    """Factor of the L2 term in the loss, over all weights but batch norm's scale and offset."""

    schedule: Literal["cosine", "step"] = "cosine"
    """How the rate falls: along half a cosine to zero, or by a factor of ten at each of stepEpochs."""

    step_epochs: Annotated[
        tuple[Annotated[float, Field(gt=0, le=MOST_EPOCHS)], ...], Field(min_length=1, max_length=16)
    ] = (30, 60, 80)
    """Epochs after which the rate of schedule step is divided by ten."""

    warmup_epochs: Annotated[float, Field(ge=0, le=MOST_EPOCHS)] = 5.0
    """Epochs of linear warm-up from zero to the scaled peak; at most epochs."""

    warmup_min_global_batch: Annotated[int, Field(ge=1, le=1_000_000_000)] = 512
    """Global batch from which on there is a warm-up; smaller ones start at the peak."""

    gradient_compression: Literal["none", "fp16"] = "none"
    """Gradient compression for all-reduce."""


class Augmentation(Config):
    """How a training image is cut from its picture."""

    crop_area: Annotated[tuple[Share, ...], Field(min_length=2, max_length=2)] = (0.08, 1.0)
    """Area range of a random resized crop, as fractions of the picture."""

    crop_ratio: Annotated[tuple[Annotated[float, Field(gt=0, le=1000)], ...], Field(min_length=2, max_length=2)] = (
        3 / 4,
        4 / 3,
    )
    """Aspect ratio range (width over height) of a random resized crop."""

    flip: bool = True
    """Random horizontal flip."""

    rules = (
        Rule(
            "!has(self.cropArea) || size(self.cropArea) < 2 || self.cropArea[0] <= self.cropArea[1]",
            lambda it: it.crop_area[0] <= it.crop_area[1],
            "cropArea",
            "the least area comes first: write [least, greatest]",
        ),
        Rule(
            "!has(self.cropRatio) || size(self.cropRatio) < 2 || self.cropRatio[0] <= self.cropRatio[1]",
            lambda it: it.crop_ratio[0] <= it.crop_ratio[1],
            "cropRatio",
            "the least ratio comes first: write [least, greatest]",
        ),
    )


class Precision(Config):
    """The arithmetic of forward and backward pass; weights and their updates are float32 always."""

    mode: PrecisionMode = "fp16"
    """fp16 and bf16 are mixed precision; tf32 is float32 with the tensor cores' shorter products; fp32 is exact."""

    loss_scale: Literal["dynamic"] | Annotated[int, Field(ge=1, le=2**31 - 1)] = "dynamic"
    """Factor on the fp16 loss: a number, or `dynamic`: 2^15, doubled after 2000 good steps, halved on overflow."""

    rules = (
        Rule(
            "!has(self.lossScale) || !has(self.mode) || self.mode == 'fp16'",
            lambda it: it.mode == "fp16" or "loss_scale" not in it.model_fields_set or it.loss_scale == "dynamic",
            "lossScale",
            "only fp16 scales the loss: leave lossScale out, or set mode to fp16",
        ),
    )


class Data(Config):
    """Where the images come from and who decodes them."""

    format: Literal["tfrecord", "folder", "synthetic"] = "tfrecord"
    """tfrecord: shards train-* and validation-*. folder: pictures as train/CLASS/* and validation/CLASS/*. synthetic:
    noise, to measure speed without a disk."""

    path: Annotated[Path, HERE] = "/data"
    """Folder with the shards, or with the folders train and validation (or val); it is never written to."""

    index_path: Annotated[Annotated[str, Field(max_length=1024)] | None, HERE] = None
    """Folder with one index a shard (NAME.idx, made by `resnext-train data index`); the shards' own if left out."""

    pipeline: Annotated[Pipeline, RUN] = "auto"
    """Who reads, decodes and augments: NVIDIA DALI, tf.data, or DALI where it loads and tf.data elsewhere (auto)."""

    first_label: Annotated[int, Field(ge=0, le=1)] = 1
    """The label in the records that means class 0; ImageNet's TFRecords count from 1, and so do ours."""

    image_feature: Annotated[str, Field(min_length=1, max_length=256)] = "image/encoded"
    """Feature of a record that holds the picture, as JPEG; TensorFlow Datasets call it image."""

    label_feature: Annotated[str, Field(min_length=1, max_length=256)] = "image/class/label"
    """Feature of a record that holds the label, as an integer; TensorFlow Datasets call it label."""

    incomplete_shards: Annotated[Literal["refuse", "allow"], RUN] = "refuse"
    """What happens if shards of SPLIT-I-of-N are missing or empty: the training is refused, or uses the others."""

    synthetic_images: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1_281_167
    """Training images in an epoch of synthetic data."""

    max_bad_record_fraction: Annotated[Share, RUN] = 0.0
    """Share of each split's records that may be unreadable, no JPEG or wrongly labelled: they are skipped and named."""

    rules = (
        Rule(
            "!(has(self.format) && self.format == 'synthetic' && has(self.pipeline) && self.pipeline == 'dali')",
            lambda it: not (it.format == "synthetic" and it.pipeline == "dali"),
            "pipeline",
            "synthetic data needs no pipeline: leave pipeline out, or set format to tfrecord or folder",
        ),
    )


class Evaluation(Config):
    """When and how accuracy is measured: on every image of the validation set, once."""

    interval_epochs: Epochs = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""

    crop_fraction: Annotated[float, Field(gt=0, le=1), RECIPE] = 0.875
    """Side of the centre crop over the shorter side of the resized picture: 0.875 is 224 of 256."""


class Checkpoint(Config):
    """What is kept on disk, and how often it is written."""

    path: Annotated[Path, HERE] = "/checkpoints"
    """Directory for checkpoints; only rank 0 reads and writes it. In a cluster /checkpoints or a directory below it."""

    on_mismatch: Annotated[Literal["refuse", "continue", "warmStart", "restart"], HERE] = "refuse"
    """What to do if the checkpoints are of another recipe or dataset. refuse: fail and list the differences. continue:
    resume and record them. warmStart: begin a new run with the weights of the old one. restart: begin a new run."""

    lock_timeout_seconds: Annotated[int, Field(ge=1, le=540), HERE] = 120
    """How long to wait for another training that writes to the same checkpoints, before this attempt fails."""

    interval_epochs: Epochs = 1
    """Epochs between two checkpoints; one is also written at the end and when asked to stop."""

    interval_minutes: Annotated[float, Field(ge=0, le=10_080)] = 15.0
    """Minutes after which a checkpoint is also written within an epoch, on all ranks at one step; 0 writes none."""

    save_timeout_seconds: Annotated[int, Field(ge=1, le=86_400), HERE] = 600
    """Time in which the last checkpoint is tried again if it cannot be written, at the end or when asked to stop; then
    the attempt ends with exit status 10. When asked to stop it also ends before the pod's termination grace period."""

    keep: Annotated[int, Field(ge=2, le=1_000_000)] = 3
    """Number of recent checkpoints to keep (min 2: the latest may be incomplete). The best by top-1 is kept apart."""


_EPOCHS_OF_PRESET = "".join(
    f"has(self.preset) && self.preset == '{name}' ? {preset['epochs']} : " for name, preset in presets.PRESETS.items()
)
_EPOCHS = f"has(self.epochs) ? self.epochs : {_EPOCHS_OF_PRESET}90"
"""In CEL: how many epochs a training has, also if the user writes none."""


class Training(Config):
    """One training of an image classifier; what is left out comes from the preset, else from the published recipe."""

    preset: Annotated[presets.Name | None, RECIPE] = None
    """A published recipe; every field below defaults from it."""

    model: Annotated[Model, RECIPE] = Model()
    """The network."""

    epochs: Annotated[Epochs, RUN] = 90
    """Passes over the training images."""

    batch_size: Annotated[int, Field(ge=1, le=1_000_000), RUN] = 256
    """Images per rank and step. Left out, it follows the precision: fp16 and bf16 256, tf32 128, fp32 64."""

    gradient_accumulation: Annotated[int, Field(ge=1, le=1024), RUN] = 1
    """Gradient-accumulation steps; multiplies the effective batch size."""

    optimizer: Annotated[Optimizer, RECIPE] = Optimizer()
    """SGD with momentum and its learning rate."""

    ema_decay: Annotated[float, Field(ge=0, lt=1), RECIPE] = 0.0
    """Decay per step of a moving average of the weights, which is then what accuracy and best go by; 0 keeps none."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1), RECIPE] = 0.1
    """Label-smoothing factor."""

    mixup: Annotated[float, Field(ge=0, le=1000), RECIPE] = 0.0
    """MixUp's alpha (Zhang et al. 2018, arXiv:1710.09412); 0 is off."""

    augmentation: Annotated[Augmentation, RECIPE] = Augmentation()
    """How training images are cropped and flipped."""

    precision: Annotated[Precision, RUN] = Precision()
    """The arithmetic."""

    xla: Annotated[bool, RUN] = True
    """Compile forward and backward pass into one XLA program."""

    device: Annotated[Literal["auto", "gpu", "cpu"], HERE] = "auto"
    """Where to compute. auto is gpu when the workers ask for GPUs, else cpu; gpu never falls back to cpu."""

    data: Annotated[Data, RECIPE] = Data()
    """The images."""

    evaluation: Annotated[Evaluation, RUN] = Evaluation()
    """When accuracy is measured."""

    checkpoint: Annotated[Checkpoint, RUN] = Checkpoint()
    """What is saved, and how often."""

    initial_checkpoint: Annotated[Path | None, RECIPE] = None
    """Checkpoint, run or checkpoint directory to initialize from; the head may have a different number of classes."""

    seed: Annotated[int, Field(ge=0, lt=2**31), RECIPE] = 0
    """Seed of the weights and of the order of images."""

    deterministic: Annotated[bool, RUN] = False
    """Use only algorithms that give the same bits each time, on GPUs as well; slower there."""

    max_rollbacks: Annotated[int, Field(ge=0, le=1_000_000), RUN] = 3
    """How often a loss that is not finite takes the training back to its last checkpoint before it ends as failed."""

    profile_steps: Annotated[int, Field(ge=1, le=1000), HERE] = 10
    """Steps that rank 0 profiles when it gets SIGUSR1, into the run's tensorboard directory."""

    target_top1: Annotated[Annotated[float, Field(gt=0, le=1)] | None, RUN] = None
    """End as completed once an evaluation's top-1 accuracy reaches this fraction."""

    stall_timeout_seconds: Annotated[int, Field(ge=10, le=2**31 - 1), HERE] = 600
    """A rank that finishes no step and no evaluation batch for this long ends the attempt as hung; before its first
    step it has ten minutes at least."""

    rules = (
        Rule(
            "!(has(self.optimizer) && has(self.optimizer.warmupEpochs)) "
            f"|| self.optimizer.warmupEpochs <= double({_EPOCHS})",
            lambda it: it.optimizer.warmup_epochs <= it.epochs,
            "optimizer.warmupEpochs",
            "warm-up must end within the training: set it to at most epochs",
        ),
        Rule(
            "!(has(self.device) && self.device == 'cpu' && has(self.precision) && has(self.precision.mode) "
            "&& self.precision.mode == 'tf32')",
            lambda it: not (it.device == "cpu" and it.precision.mode == "tf32"),
            "precision.mode",
            "tf32 needs an NVIDIA GPU: set precision.mode to fp32 or bf16, or device to gpu",
        ),
    )

    _written: frozenset[str] = PrivateAttr(frozenset())

    @property
    def written(self) -> frozenset[str]:
        """The fields that the user wrote, such as optimizer.learningRate; neither preset nor default gave them."""
        return self._written

    def as_written_by(self, settings: Mapping[str, Any]) -> Self:
        """The same training, of which the user wrote these settings."""
        training = self.model_copy()
        training._written = frozenset(fields(settings) & RESUME.keys())
        return training

    def global_batch(self, ranks: int) -> int:
        """Images of one update, over all ranks."""
        return self.batch_size * self.gradient_accumulation * ranks


RESUME: Mapping[str, Resume | None] = dict(resume_classes(Training))
"""The resume class of every field; None where it declares none, which a test rejects."""


def fields(settings: Mapping[str, Any], prefix: str = "") -> set[str]:
    """The fields that settings hold a value of, such as optimizer.learningRate."""
    found: set[str] = set()
    for key, value in settings.items():
        found |= fields(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}"}
    return found
