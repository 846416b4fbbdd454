"""Crop windows, computed from image sizes only, so that all pipelines use the same windows."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CropWindow:
    """The pixels of an image to decode, the part of them to resize, and whether to flip the result horizontally."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False
    part: tuple[float, float, float, float] | None = None
    """(top, left, bottom, right) of the part to resize, in pixels from the top left corner of the window; None for the
    whole window. The filter also reads pixels of the window outside the part."""

    @property
    def roi(self) -> tuple[float, float, float, float]:
        """`part`, or the whole window."""
        return self.part or (0.0, 0.0, float(self.height), float(self.width))

    @property
    def numbers(self) -> tuple[float, ...]:
        """Window, `roi` and flip as nine numbers, which float32 represents closely enough."""
        return (self.top, self.left, self.height, self.width, *self.roi, self.flip)


def center_crop(height: int, width: int, fraction: float, size: int) -> CropWindow:
    """Exact center of the image resized so that `size` pixels are `fraction` of its shorter side.

    height, width: size of the image in pixels; size: side of the result. A fraction of 0.875 and 224 pixels are a
    resize to 256 and a center crop. The window includes the pixels around the crop that the filter reads, because the
    whole image is resized.
    """
    side = min(height, width) * fraction
    margin = math.ceil(max(1.0, side / size))
    (top, bottom), (left, right) = (_center_span(length, side, margin) for length in (height, width))
    y, x = (height - side) / 2 - top, (width - side) / 2 - left
    return CropWindow(top, left, bottom - top, right - left, part=(y, x, y + side, x + side))


def _center_span(length: int, side: float, margin: int) -> tuple[int, int]:
    """First and last pixel (exclusive) of the center `side` pixels and a margin, within the image."""
    begin = (length - side) / 2
    return max(0, math.floor(begin) - margin), min(length, math.ceil(begin + side) + margin)


_MOST_PIXELS = 178_956_970
"""Pillow's limit for decompression bombs; 8-bit RGB of this size takes 512 MiB."""

# JPEG marker codes (ITU T.81, table B.1) as libjpeg reads them. C0 to CF, except for three, are frame headers, which
# contain the size.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEGMENTS = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE} | frozenset(range(0xE0, 0xF0))
_NO_CONTENT = frozenset(range(0xD0, 0xD8)) | {0x01}
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """(height, width) from a JPEG header; raises ValueError if it has no size, or an implausible one."""
    height, width = _size_of_regular(jpeg) or _read_header(jpeg)[0]
    if not 0 < height * width <= _MOST_PIXELS:
        raise ValueError(f"its header declares {width} x {height} pixels; the limit is {_MOST_PIXELS:,} pixels")
    return height, width


def regular(jpeg: bytes) -> bytes:
    """Removes stray bytes between the header segments, which libjpeg skips and other decoders reject.

    Returns a regular JPEG unchanged; raises ValueError if libjpeg would not find a size.
    """
    return jpeg if _size_of_regular(jpeg) else _read_header(jpeg)[1]


def _size_of_regular(jpeg: bytes) -> tuple[int, int] | None:
    """(height, width) if the header has no stray bytes, else None. Takes 3 us for a JPEG from a camera."""
    at = 2
    while at + 9 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[:2] == b"\xff\xd8":
        code, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4])
        if code not in _SEGMENTS or length < 2:
            return None
        if code in _FRAMES:
            return (
                (int.from_bytes(jpeg[at + 5 : at + 7]), int.from_bytes(jpeg[at + 7 : at + 9]))
                if _is_regular_up_to_scan(jpeg, at + 2 + length)
                else None
            )
        at += 2 + length
    return None


def _is_regular_up_to_scan(jpeg: bytes, at: int) -> bool:
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        code = jpeg[at + 1]
        if code == _SCAN:
            return True
        length = int.from_bytes(jpeg[at + 2 : at + 4])
        if code not in _SEGMENTS or length < 2:
            return False
        at += 2 + length
    return False


def _read_header(jpeg: bytes) -> tuple[tuple[int, int], bytes]:
    """(height, width) and the JPEG without stray bytes, by the rules of libjpeg's read_markers.

    libjpeg skips all bytes up to the next marker, fill bytes, stuffed zeros and markers without content, and treats a
    length below two as an empty segment.
    """
    if jpeg[:2] != b"\xff\xd8":
        raise ValueError("it does not start with a JPEG marker")
    size, kept, at = None, [jpeg[:2]], 2
    while (at := jpeg.find(b"\xff", at)) >= 0 and at + 1 < len(jpeg):
        code = jpeg[at + 1]
        if code == 0xFF:
            at += 1
        elif code == 0x00 or code in _NO_CONTENT:
            at += 2
        elif code == _SCAN:
            if size is None:
                break
            return size, b"".join([*kept, jpeg[at:]])
        elif code not in _SEGMENTS:
            break
        else:
            length = int.from_bytes(jpeg[at + 2 : at + 4])
            if code in _FRAMES:
                if size is not None or at + 9 > len(jpeg):
                    break
                size = int.from_bytes(jpeg[at + 5 : at + 7]), int.from_bytes(jpeg[at + 7 : at + 9])
            if length >= 2:
                kept.append(jpeg[at : at + 2 + length])
            at += 2 + max(2, length)
    if size is None:
        raise ValueError("its header ends before the size")
    return size, jpeg  # truncated before the pixels or not a JPEG: the decoder reports it
