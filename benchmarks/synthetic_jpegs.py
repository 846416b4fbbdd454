"""Synthetic JPEGs with the size and level of detail of ImageNet's images: noise at several scales."""

import io
import multiprocessing
from pathlib import Path

import numpy as np

HEIGHT, WIDTH = 375, 500
DISTINCT = 512
REPEATS = 16
"""Links to the same shard, for a long epoch (8,192 images) that takes little disk space."""


def prepare(folder: Path) -> tuple[Path, Path]:
    """Directories of the shards and of the JPEG files. Existing ones are reused."""
    shards, files = folder / "shards", folder / "files"
    if (shards / "validation-00000-of-00001").exists():
        return shards, files
    from resnext_trainer.data.datasets import tfrecord

    shards.mkdir(parents=True, exist_ok=True)
    files.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool() as pool:
        jpegs = pool.map(picture, range(DISTINCT))
    for number, jpeg in enumerate(jpegs):
        (files / f"{number:05d}.jpg").write_bytes(jpeg)
    first = tfrecord.shard_name("train", 0, REPEATS)
    tfrecord.write_shard(shards / first, ((jpeg, 1 + number) for number, jpeg in enumerate(jpegs)))
    for repeat in range(1, REPEATS):
        name = tfrecord.shard_name("train", repeat, REPEATS)
        for end in ("", ".idx"):
            (shards / f"{name}{end}").unlink(missing_ok=True)
            (shards / f"{name}{end}").symlink_to(f"{first}{end}")
    tfrecord.write(shards, "validation", [(jpegs[0], 1)], 1)
    return shards, files


def picture(number: int) -> bytes:
    """Noise whose amplitude decreases with frequency, as in natural images; about 100 kB at quality 90."""
    from PIL import Image

    random = np.random.default_rng(number)
    total = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for octave in range(8):
        height, width = (max(2, -(-side >> (7 - octave))) for side in (HEIGHT, WIDTH))
        noise = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        total += (np.asarray(noise.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32) - 128) * 0.85**octave
    stream = io.BytesIO()
    Image.fromarray(np.clip(total * 0.5 + 128, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()
