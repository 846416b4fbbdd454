"""Converts images of any format to 8-bit RGB JPEGs, for `data prepare`, `predict` and image folders.

JPEGs are kept unchanged. Pillow converts other formats: 16-bit channels are scaled to 8 bits, and transparency is
composited on white. Images without a defined 8-bit RGB form (floating-point and 32-bit pixels, CMYK, several frames)
are rejected. The Exif orientation is ignored, as in the reference trainings.
"""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from resnext_trainer.data.crops import jpeg_size, regular

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
        *(".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"),
    )
)
"""Image file extensions; an image folder skips all other files."""

_FORMATS = ("PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
"""Formats that Pillow may open; its other plugins start external programs or read files that are not images."""

_QUALITY = 95
"""Quality of converted images; chroma is not subsampled."""

_WHITE = (255, 255, 255, 255)


def as_jpeg(content: bytes) -> bytes:
    """Returns JPEGs unchanged and converts other formats; raises ValueError if the content is not an image."""
    if not is_jpeg(content):
        return converted(content)
    check(content)
    return content


def is_jpeg(content: bytes) -> bool:
    """Whether the content starts with a JPEG marker."""
    return content.startswith(b"\xff\xd8")


def check(jpeg: bytes) -> None:
    """Decodes a JPEG as training does and discards the result; raises ValueError if it cannot be decoded."""
    import tensorflow as tf

    jpeg_size(jpeg)
    try:
        tf.io.decode_jpeg(regular(jpeg), channels=3)
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(error.message) from None
    except tf.errors.OpError:
        # TensorFlow's message names the operation and the device, but says nothing about the image.
        raise ValueError("it has a JPEG header, but cannot be decoded: it is truncated or damaged") from None


def format_name(content: bytes) -> str | None:
    """Pillow's name for the format of an image that is not a JPEG; None if the content is not an image."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            return picture.format
    except MemoryError:
        raise
    except Exception:
        return None


def converted(content: bytes) -> bytes:
    """Converts an image to JPEG; raises ValueError if it is not an image or has no defined 8-bit RGB form."""
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise ValueError("it is empty")
    stream = io.BytesIO()
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            _rgb(picture).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    except (MemoryError, _NotConvertible):
        raise
    except UnidentifiedImageError:
        raise ValueError("it is not an image in a supported format") from None
    # Pillow's plugins raise arbitrary exceptions, SyntaxError and struct.error among them.
    except Exception as error:
        raise ValueError(f"it cannot be decoded: {error}") from None
    return stream.getvalue()


class _NotConvertible(ValueError):
    """The image can be decoded, but its pixels have no defined 8-bit RGB form."""


def _rgb(picture: "Image") -> "Image":
    from PIL import Image

    if (frames := _frames(picture)) > 1:
        raise _NotConvertible(f"it has {frames} frames or pages: save the one to use as a separate image")
    raw, transparent = _raw_mode(picture), picture.info.get("transparency")
    match picture.mode:
        case "F":
            raise _NotConvertible(
                "its pixels are floating-point numbers without a defined range: convert it to 8 bits per channel"
            )
        case "CMYK":
            raise _NotConvertible("it is CMYK, which needs a color profile: convert it to RGB")
        case mode if mode.startswith("I"):
            return _from_integers(picture, raw, transparent)
        case "1" | "L" if transparent is not None:
            # Pillow scales the pixels to 8 bits, but not the transparent gray level.
            picture.info["transparency"] = transparent if picture.mode == "1" else transparent * _GRAY_STEP.get(raw, 1)
        case "RGB" if transparent is not None and ";16" in raw:
            raise _NotConvertible(
                "it marks one 16-bit color as transparent: save it with an alpha channel or without transparency"
            )
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer).convert("RGB")


_GRAY_STEP = {"L;2": 85, "L;4": 17}
"""Factor from 2-bit and 4-bit gray levels to 8 bits."""


def _from_integers(picture: "Image", raw: str, transparent: Any) -> "Image":
    """Converts a single-channel image with more than 8 bits."""
    from PIL import Image

    if picture.mode == "I" and not (picture.format == "PPM" or raw in {"I;16B", "I;16"}):
        raise _NotConvertible(
            "its pixels are 32-bit or signed integers without a defined range: convert it to 8 bits per channel"
        )
    greatest = 4095 if raw == "I;12" else 65_535
    inverted = picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
    values = np.asarray(picture).astype(np.uint32)
    gray = ((values.clip(0, greatest) * 255 + greatest // 2) // greatest).astype(np.uint8)
    if inverted:  # zero is white; Pillow handles this for 8 bits only
        gray = 255 - gray
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    return Image.fromarray(gray).convert("RGB")


_PHOTOMETRIC, _SUBFILE_TYPE, _REDUCED = 262, 254, 1


def _frames(picture: "Image") -> int:
    """Number of frames or pages, excluding the reduced-resolution previews of a TIFF."""
    frames: int = getattr(picture, "n_frames", 1)
    if picture.format != "TIFF" or frames == 1:
        return frames
    pages = 0
    for number in reversed(range(frames)):
        picture.seek(number)
        pages += number == 0 or not picture.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED  # type: ignore[attr-defined]
    return pages


def _raw_mode(picture: "Image") -> str:
    """Pillow's name for the pixel layout in the file, such as L;2 or RGB;16B."""
    tiles = getattr(picture, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""
