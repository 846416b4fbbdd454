"""Which part of a picture becomes the image: one rule for tf.data and for DALI, made of numbers alone."""

import math
from dataclasses import dataclass

import numpy as np

from resnext_trainer.config import Augmentation

_ATTEMPTS = 10


@dataclass(frozen=True)
class Cut:
    """A window of a picture, in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False


def random_cut(height: int, width: int, settings: Augmentation, random: np.random.Generator) -> Cut:
    """A random resized crop as torchvision draws it: area uniform, ratio log-uniform, ten attempts, then the centre."""
    flip = bool(settings.flip and random.random() < 0.5)
    least, greatest = settings.crop_ratio
    for _ in range(_ATTEMPTS):
        area = height * width * random.uniform(settings.crop_area[0], settings.crop_area[1])
        ratio = math.exp(random.uniform(math.log(least), math.log(greatest)))
        cut_width, cut_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < cut_width <= width and 0 < cut_height <= height:
            top = int(random.integers(0, height - cut_height + 1))
            left = int(random.integers(0, width - cut_width + 1))
            return Cut(top, left, cut_height, cut_width, flip)
    ratio = min(max(width / height, least), greatest)
    cut_width, cut_height = min(width, round(height * ratio)), min(height, round(width / ratio))
    return Cut((height - cut_height) // 2, (width - cut_width) // 2, cut_height, cut_width, flip)


def centre_cut(height: int, width: int, fraction: float) -> Cut:
    """The centre square; resizing the shorter side to 256 and cutting 224 is the fraction 0.875."""
    side = max(1, round(min(height, width) * fraction))
    return Cut((height - side) // 2, (width - side) // 2, side, side)


# Frames of a JPEG carry its size; of the codes C0 to CF, these three mean something else (ITU T.81, table B.1).
_NO_FRAMES = {0xC4, 0xC8, 0xCC}


_MOST_PIXELS = 178_956_970
"""Where Pillow, too, takes a picture for a trap: decoded it fills half a gigabyte."""


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """(height, width) from a JPEG's header; ValueError where there is none, or none that can be meant."""
    height, width = _size_in_header(jpeg)
    if not 0 < height * width <= _MOST_PIXELS:
        raise ValueError(f"its header says {width} x {height} pixels")
    return height, width


def _size_in_header(jpeg: bytes) -> tuple[int, int]:
    if jpeg[:2] != b"\xff\xd8":
        raise ValueError("it does not start like a JPEG")
    at = 2
    while at + 9 <= len(jpeg) and jpeg[at] == 0xFF:
        code = jpeg[at + 1]
        if code == 0xFF:  # padding
            at += 1
        elif 0xC0 <= code <= 0xCF and code not in _NO_FRAMES:
            return int.from_bytes(jpeg[at + 5 : at + 7]), int.from_bytes(jpeg[at + 7 : at + 9])
        else:
            at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    raise ValueError("its header ends before the size")
