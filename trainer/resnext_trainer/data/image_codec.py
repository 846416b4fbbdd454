"""Pictures in any format as JPEGs of 8-bit RGB: one rule for `data prepare`, `predict` and folders of pictures.

JPEGs stay as they are. Other formats are converted by Pillow, by mode: 16 bits are scaled to 8, transparency is
composited on white. Pictures whose 8-bit RGB is not defined (floating-point and 32-bit pixels, CMYK without its
profile, several frames) are rejected. Exif's orientation is ignored, as the reference trainings ignore it.
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
"""Files whose names end otherwise are no part of a folder of pictures."""

_FORMATS = ("PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
"""What Pillow may read: its other readers start programs, or read what is no picture."""

_QUALITY = 95
"""Of JPEGs made from other formats, with colours at full resolution: a loss that is not seen."""

_WHITE = (255, 255, 255, 255)


def as_jpeg(content: bytes) -> bytes:
    """A file's content as a JPEG: JPEGs as they are, other formats converted; ValueError where it is no image."""
    if not is_jpeg(content):
        return converted(content)
    check(content)
    return content


def is_jpeg(content: bytes) -> bool:
    """Whether a file's content begins like a JPEG's."""
    return content.startswith(b"\xff\xd8")


def check(jpeg: bytes) -> None:
    """Decodes a JPEG and forgets the picture; ValueError where training could not decode it."""
    import tensorflow as tf

    jpeg_size(jpeg)
    try:
        tf.io.decode_jpeg(regular(jpeg), channels=3)
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(error.message) from None
    except tf.errors.OpError:
        # TensorFlow's own sentence names the operation and the device, and nothing about the image.
        raise ValueError("its header is a JPEG's, and its content does not decode: it is cut or damaged") from None


def format_name(content: bytes) -> str | None:
    """What Pillow calls the format of a picture that is no JPEG; None if it is no picture."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            return picture.format
    except MemoryError:
        raise
    except Exception:
        return None


def converted(content: bytes) -> bytes:
    """A picture in another format as a JPEG; ValueError where it is no image, or none that 8-bit RGB can show."""
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
        raise ValueError("it is no image in a format that Pillow knows") from None
    # Pillow's readers raise what their format's code meets: SyntaxError and struct.error among them.
    except Exception as error:
        raise ValueError(f"it does not decode: {error}") from None
    return stream.getvalue()


class _NotConvertible(ValueError):
    """A picture that decodes, and whose pixels have no 8-bit RGB."""


def _rgb(picture: "Image") -> "Image":
    from PIL import Image

    if (frames := _frames(picture)) > 1:
        raise _NotConvertible(f"it holds {frames} frames or pages: save the one to use as a picture of its own")
    raw, transparent = _raw_mode(picture), picture.info.get("transparency")
    match picture.mode:
        case "F":
            raise _NotConvertible("its pixels are floating-point numbers without a defined range: convert it to 8 bits")
        case "CMYK":
            raise _NotConvertible("its colours are CMYK, which need a colour profile to show: convert it to RGB")
        case mode if mode.startswith("I"):
            return _from_integers(picture, raw, transparent)
        case "1" | "L" if transparent is not None:
            # Pillow keeps the transparent grey as the file has it, and scales the pixels.
            picture.info["transparency"] = transparent if picture.mode == "1" else transparent * _GREY_STEP.get(raw, 1)
        case "RGB" if transparent is not None and ";16" in raw:
            raise _NotConvertible("one of its 16-bit colours is transparent: save it with an alpha channel, or without")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer).convert("RGB")


_GREY_STEP = {"L;2": 85, "L;4": 17}
"""How much one level of grey of two and four bits is of 255."""


def _from_integers(picture: "Image", raw: str, transparent: Any) -> "Image":
    """A picture of one channel with more than 8 bits."""
    from PIL import Image

    if picture.mode == "I" and not (picture.format == "PPM" or raw in {"I;16B", "I;16"}):
        raise _NotConvertible("its pixels are 32-bit or signed numbers without a defined range: convert it to 8 bits")
    greatest = 4095 if raw == "I;12" else 65_535
    inverted = picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
    values = np.asarray(picture).astype(np.uint32)
    grey = ((values.clip(0, greatest) * 255 + greatest // 2) // greatest).astype(np.uint8)
    if inverted:  # white is zero, which Pillow heeds for 8 bits alone
        grey = 255 - grey
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


_PHOTOMETRIC, _SUBFILE_TYPE, _REDUCED = 262, 254, 1


def _frames(picture: "Image") -> int:
    """Frames of an animation, or pages; a TIFF's previews of its own page are none."""
    frames: int = getattr(picture, "n_frames", 1)
    if picture.format != "TIFF" or frames == 1:
        return frames
    pages = 0
    for number in reversed(range(frames)):
        picture.seek(number)
        pages += number == 0 or not picture.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED  # type: ignore[attr-defined]
    return pages


def _raw_mode(picture: "Image") -> str:
    """How the pixels lie in the file, as Pillow calls it, such as L;2 or RGB;16B."""
    tiles = getattr(picture, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""
