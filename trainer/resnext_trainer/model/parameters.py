"""Variables of a model: names, shapes and initial values."""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from resnext_trainer.model.architectures import ArchitectureSpec, BlockSpec

# Standard deviation of a standard normal distribution truncated at two; dividing by it yields the requested variance.
_TRUNCATED_DEVIATION = 0.87962566103423978


@dataclass(frozen=True)
class ParameterSpec:
    """One float32 variable."""

    name: str
    shape: tuple[int, ...]
    """Convolution kernels: [height, width, input channels per group, output channels]; dense kernels: [in, out]."""
    fan: int | None = None
    """Fan-in or fan-out of random initial values; None for constants."""
    constant: float = 0.0
    """Initial value without a fan."""
    trained: bool = True
    """Whether the variable has gradients; the moving statistics of batch norm do not."""

    def initial_value(self, seed: int) -> np.ndarray:
        """Array of `shape`, float32: a function of the seed and the name."""
        if self.fan is None:
            return np.full(self.shape, self.constant, np.float32)
        return _truncated_normal(seed, self.name, self.shape, self.fan)


def parameter_specs(
    architecture: ArchitectureSpec, classes: int, *, fan_out: bool = False, zero_gamma: bool = False
) -> Iterator[ParameterSpec]:
    """All variables of a model, in the order of the forward pass.

    fan_out: initialize convolutions by fan-out instead of fan-in. zero_gamma: initialize gamma of the last batch norm
    of each residual block to zero.
    """
    stem_size = 3 if architecture.small_images else 7
    yield from _convolution("stem", stem_size, 3, architecture.stem, fan_out=fan_out)
    channels = architecture.stem
    for block in architecture.block_specs():
        yield from _block(block, architecture, fan_out=fan_out, zero_gamma=zero_gamma)
        channels = block.channels_out
    yield from _dense("classifier", channels, classes)


def _block(
    block: BlockSpec, architecture: ArchitectureSpec, *, fan_out: bool, zero_gamma: bool
) -> Iterator[ParameterSpec]:
    name, width, channels = block.name, block.width, block.channels_out
    yield from _convolution(f"{name}/reduce", 1, block.channels_in, width, fan_out=fan_out)
    yield from _convolution(f"{name}/grouped", 3, width, width, groups=architecture.groups, fan_out=fan_out)
    yield from _convolution(f"{name}/expand", 1, width, channels, scale=0.0 if zero_gamma else 1.0, fan_out=fan_out)
    if architecture.squeeze:
        squeezed = channels // architecture.squeeze
        yield from _dense(f"{name}/squeeze", channels, squeezed)
        yield from _dense(f"{name}/excite", squeezed, channels)
    if block.shortcut:
        yield from _convolution(f"{name}/shortcut", 1, block.channels_in, channels, fan_out=fan_out)


def _convolution(
    name: str,
    size: int,
    channels_in: int,
    channels_out: int,
    *,
    groups: int = 1,
    scale: float = 1.0,
    fan_out: bool,
) -> Iterator[ParameterSpec]:
    """Kernel and batch norm. The fan of a grouped kernel is that of one group."""
    fan = size * size * (channels_out if fan_out else channels_in) // groups
    yield ParameterSpec(f"{name}/kernel", (size, size, channels_in // groups, channels_out), fan)
    yield ParameterSpec(f"{name}/scale", (channels_out,), constant=scale)
    yield ParameterSpec(f"{name}/offset", (channels_out,))
    yield ParameterSpec(f"{name}/mean", (channels_out,), trained=False)
    yield ParameterSpec(f"{name}/variance", (channels_out,), constant=1.0, trained=False)


def _dense(name: str, size_in: int, size_out: int) -> Iterator[ParameterSpec]:
    """Kernel and bias; the fan is always the fan-in."""
    yield ParameterSpec(f"{name}/kernel", (size_in, size_out), size_in)
    yield ParameterSpec(f"{name}/bias", (size_out,))


def _truncated_normal(seed: int, name: str, shape: tuple[int, ...], fan: int) -> np.ndarray:
    """Truncated normal distribution with variance 2 / fan (He et al. 2015)."""
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = random.standard_normal(shape, dtype=np.float32)
    while (outside := np.abs(values) > 2).any():
        values[outside] = random.standard_normal(int(outside.sum()), dtype=np.float32)
    values *= math.sqrt(2 / fan) / _TRUNCATED_DEVIATION
    return values
