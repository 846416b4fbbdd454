"""Classification of unlabeled images, cropped and resized as in evaluation."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf

from resnext_trainer.config.models import Training
from resnext_trainer.data import files
from resnext_trainer.data.crops import center_crop, jpeg_size, regular
from resnext_trainer.data.datasets.tfrecord import data_error
from resnext_trainer.data.decoding import Decoding
from resnext_trainer.data.image_codec import as_jpeg
from resnext_trainer.data.pipelines import tfdata
from resnext_trainer.errors import system_errors
from resnext_trainer.runtime import cpus

STDIN = "-"


@dataclass(frozen=True)
class Guess:
    """A predicted class."""

    number: int
    """Class number, from 0."""
    probability: float


def find(names: Sequence[str]) -> list[str]:
    """Expands folders to their files at any depth, without hidden files; raises TrainingError for missing names."""
    found: list[str] = []
    for name in names:
        path = Path(name)
        if name == STDIN or path.is_file():
            found.append(name)
        elif path.is_dir():
            # Broken links and pipes are included: `guesses` reports them as errors.
            inside = (file for file in path.rglob("*") if not file.is_dir())
            found += sorted(
                str(file) for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)
            )
        else:
            raise data_error(f"{name} is neither a file nor a directory")
    if not found:
        raise data_error(f"{', '.join(names)} contains no files")
    return found


def guesses(
    logits: Callable[[Any], Any], config: Training, names: Sequence[str], top: int, stdin: BinaryIO
) -> Iterator[tuple[str, list[Guess] | str]]:
    """Yields each name, in order, with its `top` most probable classes in descending order, or with an error message.

    logits: function from images, uint8 [batch, size, size, 3], to logits, float32 [batch, classes].
    """

    decoding = Decoding.of(config)

    def image(name: str) -> Any:
        try:
            with system_errors(name):
                jpeg = regular(as_jpeg(stdin.read() if name == STDIN else files.read(name)))
            cut = center_crop(*jpeg_size(jpeg), config.evaluation.crop_fraction, decoding.size)
            return tfdata.decoded(jpeg, tf.constant(cut.numbers, tf.float32), decoding)
        except (OSError, ValueError) as error:
            return str(error)

    waiting = iter(names)
    with ThreadPoolExecutor(cpus.per_rank(), thread_name_prefix="image") as pool:
        while batch := list(islice(waiting, config.batch_size)):
            images = list(pool.map(image, batch))
            good = [made for made in images if not isinstance(made, str)]
            found = iter(_likeliest(logits(tf.stack(good)), top) if good else ())
            for name, made in zip(batch, images, strict=True):
                yield name, made if isinstance(made, str) else next(found)


def _likeliest(logits: Any, top: int) -> list[list[Guess]]:
    probabilities = tf.nn.softmax(logits).numpy()
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        [Guess(int(number), float(row[number])) for number in numbers]
        for row, numbers in zip(probabilities, order, strict=True)
    ]
