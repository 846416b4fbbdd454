"""Shared libraries of resnext-train. The trainer works without them, more slowly."""

from pathlib import Path

IMAGE_DECODER = next(Path(__file__).parent.glob("image_decoder.*so"), None)
"""The library of image_decoder.c."""
