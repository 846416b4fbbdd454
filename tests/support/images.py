"""Encoded images for tests of the input data."""

import io
from typing import Any

import numpy as np
from PIL import Image


def encode(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    """The image encoded in a format of Pillow."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def uniform(color: str | tuple[int, int, int], size: tuple[int, int], form: str = "JPEG") -> bytes:
    """An image of one color; size is (width, height)."""
    return encode(Image.new("RGB", size, color), form)


def noise(seed: int, size: tuple[int, int], form: str = "JPEG") -> bytes:
    """An image of random pixels; size is (width, height)."""
    width, height = size
    return encode(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)), form)
