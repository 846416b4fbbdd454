"""How a crop window of a JPEG becomes an image, the same in training, evaluation and prediction."""

from dataclasses import dataclass
from typing import Self

from resnext_trainer.config.models import Training


@dataclass(frozen=True)
class Decoding:
    """Settings that every decoder implements with the same result."""

    size: int
    """Height and width of the result in pixels."""
    antialias: bool
    """Bilinear resize with a filter as wide as the reduction, or between neighboring pixels only."""
    fast: bool
    """libjpeg's fast DCT, or the accurate one. On GPUs, replicated chroma, or interpolated as on CPUs."""

    @classmethod
    def of(cls, config: Training) -> Self:
        """The settings of a training."""
        return cls(config.model.image_size, config.data.resize.antialias, config.data.fast_decode)
