"""Random resized crops of many images at once.

Each window is a function of (seed, epoch, record): the random numbers of a record are the outputs of a counter-based
generator (SplitMix64). It keeps no state between records, so the order in which the numbers are drawn does not matter.
"""

import numpy as np

from resnext_trainer.config.data import Augmentation

_ATTEMPTS = 10
_DRAWS = 1 + 2 * _ATTEMPTS + 2
"""Random numbers per image: flip, area and ratio of each attempt, and position."""

_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def random_resized_crops(
    seed: int, epoch: int, numbers: np.ndarray, heights: np.ndarray, widths: np.ndarray, settings: Augmentation
) -> np.ndarray:
    """Windows of these records: int64 [images, 5], rows (top, left, height, width, flip).

    As in torchvision: uniform area and log-uniform ratio; a center crop after ten attempts that do not fit.
    heights, widths: sizes of the images in pixels.
    """
    draws = _uniform(seed, epoch, numbers)
    flips = (draws[:, 0] < 0.5) & settings.flip
    heights, widths = heights.astype(np.int64), widths.astype(np.int64)
    (least_area, most_area), (least, greatest) = settings.crop_area, settings.crop_ratio
    areas = (heights * widths)[:, None] * (least_area + (most_area - least_area) * draws[:, 1 : 1 + _ATTEMPTS])
    low, high = np.log(least), np.log(greatest)
    ratios = np.exp(low + (high - low) * draws[:, 1 + _ATTEMPTS : 1 + 2 * _ATTEMPTS])
    cut_widths = np.rint(np.sqrt(areas * ratios)).astype(np.int64)
    cut_heights = np.rint(np.sqrt(areas / ratios)).astype(np.int64)
    fits = (cut_widths > 0) & (cut_widths <= widths[:, None]) & (cut_heights > 0) & (cut_heights <= heights[:, None])
    chosen = (np.arange(len(numbers)), fits.argmax(axis=1))
    height, width = cut_heights[chosen], cut_widths[chosen]
    top = (draws[:, -2] * (heights - height + 1)).astype(np.int64)
    left = (draws[:, -1] * (widths - width + 1)).astype(np.int64)
    if not (fitting := fits[chosen]).all():
        ratio = np.clip(widths / heights, least, greatest)
        height = np.where(fitting, height, np.minimum(heights, np.rint(widths / ratio)).astype(np.int64))
        width = np.where(fitting, width, np.minimum(widths, np.rint(heights * ratio)).astype(np.int64))
        top = np.where(fitting, top, (heights - height) // 2)
        left = np.where(fitting, left, (widths - width) // 2)
    return np.stack([top, left, height, width, flips], axis=1)


def _uniform(seed: int, epoch: int, numbers: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1): float64 [images, _DRAWS]."""
    key = _mixed(_mixed(np.array([seed], np.uint64)) + np.uint64(epoch))
    streams = _mixed(numbers.astype(np.uint64) * np.uint64(_STEP) + key)
    counters = np.array([(draw + 1) * _STEP & _MASK for draw in range(_DRAWS)], np.uint64)
    return (_mixed(streams[:, None] + counters) >> np.uint64(11)) * 2.0**-53


def _mixed(values: np.ndarray) -> np.ndarray:
    """Finalizer of SplitMix64, a bijection of 64-bit numbers (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed
