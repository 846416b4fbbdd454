"""Image and label of a serialized tf.train.Example."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from resnext_trainer.text import printable


@dataclass(frozen=True)
class Features:
    """Names of the features that contain the image and the label."""

    image: str = "image/encoded"
    label: str = "image/class/label"


IMAGENET = Features()
"""The names in the usual TFRecords of ImageNet."""


def example(stored: bytes, wanted: Features = IMAGENET) -> tuple[bytes, int]:
    """JPEG and label of a serialized tf.train.Example; raises ValueError for a missing or mistyped feature."""
    # Imported here, so that opening a dataset does not import TensorFlow.
    from google.protobuf.message import DecodeError
    from tensorflow.core.example.example_pb2 import Example

    try:
        features = Example.FromString(stored).features.feature
    except DecodeError as error:
        raise ValueError(f"the record is not a tf.train.Example ({error})") from None
    # Indexing a missing feature would add it.
    image: Sequence[bytes] = features[wanted.image].bytes_list.value if wanted.image in features else ()
    label: Sequence[int] = features[wanted.label].int64_list.value if wanted.label in features else ()
    if len(image) != 1 or len(label) != 1:
        kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
        raise ValueError(_other_features(wanted, tuple(sorted(kinds.items()))))
    return image[0], label[0]


_KINDS = {"bytes_list": "bytes", "int64_list": "integers", "float_list": "floats", None: "empty"}
_MOST_FEATURES = 12


@lru_cache(64)
def _other_features(wanted: Features, found: tuple[tuple[str, str | None], ...]) -> str:
    """Message that lists the features of a record and the settings to change."""
    kinds = dict(found)
    listed = ", ".join(f"{printable(name[:80])} ({_KINDS[kind]})" for name, kind in found[:_MOST_FEATURES])
    listed += ", ..." if len(found) > _MOST_FEATURES else ""
    advice = []
    for setting, name, kind, words in (
        ("imageFeature", wanted.image, "bytes_list", ("image", "jpeg", "png")),
        ("labelFeature", wanted.label, "int64_list", ("label", "class", "target")),
    ):
        if kinds.get(name) != kind:
            likely = [other for other in kinds if kinds[other] == kind and any(word in other.lower() for word in words)]
            advice.append(f"data.{setting} to {printable(min(likely, key=len)) if likely else 'its name'}")
    return (
        f"the record needs one {wanted.image} (bytes) and one {wanted.label} (integer), but has "
        f"{listed or 'no feature'}" + (f": set {' and '.join(advice)}" if advice and found else "")
    )


@dataclass(frozen=True)
class Located:
    """Position of the image in a serialized Example, in bytes, and its label."""

    start: int
    size: int
    label: int


_FEATURES, _ENTRY, _KEY, _FEATURE = 0x0A, 0x0A, 0x0A, 0x12
_BYTES_LIST, _INT64_LIST, _VALUE, _PACKED, _UNPACKED = 0x0A, 0x1A, 0x0A, 0x0A, 0x08
"""Tags of the protocol buffer messages (field number and wire type) in the order of Example's definition."""


def locate(stored: bytes, wanted: Features) -> Located | None:
    """Finds image and label in an Example that `example` can read.

    Returns None if the Example is not encoded as the protocol buffer libraries do: `example` also reads other encodings
    of the same message, such as repeated fields to be merged. Does not look at other features.
    """
    names = wanted.image.encode(), wanted.label.encode()
    spans: dict[bytes, tuple[int, int]] = {}
    try:
        at, end = _enter(stored, 0, len(stored), _FEATURES)
        if end != len(stored):
            return None
        while at < end:
            at, entry_end = _enter(stored, at, end, _ENTRY)
            key, key_end = _enter(stored, at, entry_end, _KEY)
            name = stored[key:key_end]
            if name in names:
                start, stop = _enter(stored, key_end, entry_end, _FEATURE)
                if name in spans or stop != entry_end:
                    return None
                spans[name] = start, stop
            at = entry_end
        image, label = (spans[name] for name in names)
        start, stop = _only(stored, *_only(stored, *image, _BYTES_LIST), _VALUE)
        return Located(start, stop - start, _label(stored, *_only(stored, *label, _INT64_LIST)))
    except (_Unusual, KeyError, IndexError):
        return None


class _Unusual(Exception):
    """Not the encoding that `locate` knows."""


def _varint(stored: bytes, at: int) -> tuple[int, int]:
    """A number and the position after it; at most ten bytes."""
    value = 0
    for shift in range(0, 70, 7):
        byte = stored[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Unusual


def _enter(stored: bytes, at: int, end: int, tag: int) -> tuple[int, int]:
    """Begin and end of the field with this tag at `at`, which must end at or before `end`."""
    if stored[at] != tag:
        raise _Unusual
    length, begin = _varint(stored, at + 1)
    if begin + length > end:
        raise _Unusual
    return begin, begin + length


def _only(stored: bytes, at: int, end: int, tag: int) -> tuple[int, int]:
    """Like `_enter`, for a field that fills the whole span."""
    begin, stop = _enter(stored, at, end, tag)
    if stop != end:
        raise _Unusual
    return begin, stop


def _label(stored: bytes, at: int, end: int) -> int:
    """The only number of an Int64List, packed or not."""
    if stored[at] == _PACKED:
        at, end = _only(stored, at, end, _PACKED)
    elif stored[at] == _UNPACKED:
        at += 1
    else:
        raise _Unusual
    value, stop = _varint(stored, at)
    if stop != end or value >= 1 << 64:
        raise _Unusual
    return value - (1 << 64) if value >= 1 << 63 else value
