"""Architectures of the ResNeXt family (Xie et al. 2017, arXiv:1611.05431).

ResNet (He et al. 2016, arXiv:1512.03385, with the stride on the 3x3 convolution) has a single group. SE-ResNeXt (Hu et
al. 2018, arXiv:1709.01507) adds squeeze-and-excitation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from resnext_trainer.config.architecture import Architecture, Model


@dataclass(frozen=True)
class BlockSpec:
    """A residual block: 1x1, grouped 3x3 and 1x1 convolutions in parallel with a shortcut."""

    name: str
    """Prefix of the names of its variables, such as stage1/block1."""
    stride: int
    """Stride of the 3x3 convolution."""
    channels_in: int
    width: int
    """Channels of the 3x3 convolution over all groups."""
    channels_out: int
    shortcut: bool
    """Whether the shortcut is a 1x1 convolution instead of the identity."""


@dataclass(frozen=True)
class ArchitectureSpec:
    """Depth, width and options of an architecture."""

    blocks: tuple[int, ...]
    """Blocks per stage. Each stage doubles the width and halves the resolution, except the first one after a
    max-pool."""
    groups: int
    width: int
    """Channels per group in the first stage."""
    channels: int = 256
    """Output channels of a block in the first stage."""
    squeeze: int | None = None
    """Reduction ratio of squeeze-and-excitation; None disables it."""
    stem: int = 64
    small_images: bool = False
    """A 3x3 stem instead of 7x7 with stride 2 and a max-pool: a total stride of 8 instead of 32."""

    def block_specs(self) -> list[BlockSpec]:
        """The residual blocks, in the order of the forward pass."""
        blocks = []
        channels_in = self.stem
        for stage, count in enumerate(self.blocks):
            channels_out = self.channels << stage
            for block in range(count):
                stride = 2 if not block and (stage or self.small_images) else 1
                width = (self.groups * self.width) << stage
                name = f"stage{stage + 1}/block{block + 1}"
                blocks.append(BlockSpec(name, stride, channels_in, width, channels_out, shortcut=not block))
                channels_in = channels_out
        return blocks


_STAGES_50, _STAGES_101 = (3, 4, 6, 3), (3, 4, 23, 3)

ARCHITECTURES: Mapping[Architecture, ArchitectureSpec] = {
    "resnext101-32x4d": ArchitectureSpec(_STAGES_101, groups=32, width=4),
    "resnext101-32x8d": ArchitectureSpec(_STAGES_101, groups=32, width=8),
    "resnext101-64x4d": ArchitectureSpec(_STAGES_101, groups=64, width=4),
    "se-resnext101-32x4d": ArchitectureSpec(_STAGES_101, groups=32, width=4, squeeze=16),
    "resnext50-32x4d": ArchitectureSpec(_STAGES_50, groups=32, width=4),
    "resnext26-32x4d": ArchitectureSpec((2, 2, 2, 2), groups=32, width=4),
    "resnext17-8x4d": ArchitectureSpec((1, 2, 2), groups=8, width=4, channels=64, stem=32, small_images=True),
    "resnet50": ArchitectureSpec(_STAGES_50, groups=1, width=64),
    "resnet101": ArchitectureSpec(_STAGES_101, groups=1, width=64),
}


def architecture_spec(model: Model) -> ArchitectureSpec:
    """The architecture of a configuration."""
    if model.custom is None:
        return ARCHITECTURES[model.architecture]
    custom = model.custom
    return ArchitectureSpec(
        custom.blocks,
        custom.groups,
        custom.width,
        custom.channels,
        custom.squeeze,
        custom.stem,
        small_images=custom.small_images,
    )
