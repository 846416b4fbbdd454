"""Settings of the model: architecture, initialization and input size."""

from typing import Annotated, Literal

from pydantic import Field

from resnext_trainer.config.rules import Config, Rule

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


class Custom(Config):
    """Custom architecture of the ResNeXt family."""

    blocks: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=6)] = (3, 4, 6, 3)
    """Number of residual blocks per stage. Each stage doubles the channels and halves the resolution."""

    groups: Annotated[int, Field(ge=1, le=256)] = 32
    """Cardinality: groups of the 3x3 convolutions. 1 is a ResNet."""

    width: Annotated[int, Field(ge=1, le=256)] = 4
    """Channels per group in the first stage."""

    channels: Annotated[int, Field(ge=8, le=4096)] = 256
    """Output channels of a block of the first stage."""

    squeeze: Annotated[int, Field(ge=1, le=64)] | None = None
    """Reduction ratio of squeeze-and-excitation. If unset, the blocks have no squeeze-and-excitation."""

    stem: Annotated[int, Field(ge=1, le=1024)] = 64
    """Output channels of the first convolution."""

    small_images: bool = False
    """Use a 3x3 first convolution instead of a 7x7 convolution of stride 2 and a max-pool, for images of about 32
    pixels."""

    rules = (
        Rule(
            "!has(self.squeeze) || (has(self.channels) ? self.channels : 256) >= self.squeeze",
            lambda it: it.squeeze is None or it.channels >= it.squeeze,
            "squeeze",
            "must be at most channels: lower it or raise channels",
        ),
    )


class Model(Config):
    """Model (Xie et al. 2017, arXiv:1611.05431)."""

    architecture: Architecture = "resnext101-32x4d"
    """Architecture: name, depth, and groups x channels per group. resnext17-8x4d is for images of 32 pixels on CPUs."""

    custom: Custom | None = None
    """Parameters of the architecture custom."""

    padding: Literal["same", "symmetric"] = "same"
    """Padding of strided convolutions: same as in TensorFlow, or symmetric as in PyTorch (for converted weights)."""

    init_mode: Literal["fan_in", "fan_out"] = "fan_in"
    """Mode of the He (Kaiming) normal initialization of the convolutions."""

    zero_init_gamma: bool = False
    """Initialize gamma of the last batch norm of each residual block to zero (Goyal et al. 2017)."""

    classes: Annotated[int, Field(ge=2, le=100_000)] = 1000
    """Number of classes."""

    image_size: Annotated[int, Field(ge=16, le=1024)] = 224
    """Height and width of the input images in pixels."""

    rules = (
        Rule(
            "(has(self.architecture) && self.architecture == 'custom') == has(self.custom)",
            lambda it: (it.architecture == "custom") == (it.custom is not None),
            "custom",
            "must be set if and only if architecture is custom: set both or remove custom",
        ),
    )
