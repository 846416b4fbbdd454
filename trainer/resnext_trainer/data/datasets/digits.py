"""A real dataset without a download: scikit-learn's 1,797 handwritten digits as JPEG shards."""

import io
from pathlib import Path

import numpy as np

from resnext_trainer.data import labels
from resnext_trainer.data.datasets import tfrecord

_SIZE = 32
_SHARDS = {"train": 4, "validation": 2}


def prepare(output: Path) -> bool:
    """Writes the shards; returns False if all of them exist already."""
    if all(
        (output / f"{split}-{shard:05d}-of-{shards:05d}").is_file()
        for split, shards in _SHARDS.items()
        for shard in range(shards)
    ):
        return False
    output.mkdir(parents=True, exist_ok=True)
    for split, images in digits().items():
        tfrecord.write(output, split, images, _SHARDS[split])
    (output / labels.LABELS).write_text(labels.text([str(digit) for digit in range(10)]), encoding="utf-8")
    return True


def digits() -> dict[str, list[tuple[bytes, int]]]:
    """(JPEG, label) pairs by split, labels 1 to 10; a fixed fifth is used for validation."""
    from PIL import Image
    from sklearn.datasets import load_digits

    loaded = load_digits()
    order = np.random.default_rng(0).permutation(len(loaded.target))
    pairs = []
    for number in order:
        # The digits are 8x8 pixels with values 0 to 16.
        picture = Image.fromarray((loaded.images[number] * 255 / 16).round().astype(np.uint8))
        stream = io.BytesIO()
        picture.resize((_SIZE, _SIZE), Image.Resampling.BILINEAR).convert("RGB").save(stream, "JPEG", quality=95)
        pairs.append((stream.getvalue(), int(loaded.target[number]) + 1))
    held_out = len(pairs) // 5
    return {"train": pairs[held_out:], "validation": pairs[:held_out]}
