"""Converts a folder of class folders to shards, resumably.

The plan is a function of the names and sizes of the files, and its hash is stored next to the shards. A shard that
exists is complete, so an interrupted run continues with the missing ones; a different plan for the same output is
rejected. Only the output folder is modified.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resnext_trainer.data import files, labels
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.datasets.folder import Listing, listing
from resnext_trainer.data.image_codec import as_jpeg
from resnext_trainer.data.problem_summary import Summary
from resnext_trainer.errors import TrainingError, system_errors
from resnext_trainer.runtime import cpus
from resnext_trainer.text import counted, printable

LABELS = labels.LABELS
_PLAN = "prepare.json"


@dataclass(frozen=True)
class Picture:
    """A file and its label; labels start at 1."""

    file: Path
    label: int


@dataclass(frozen=True)
class Plan:
    """Assignment of the images to splits and shards."""

    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Picture]]
    shard_images: int
    unusable: Summary = field(default_factory=Summary)
    """Files that are not regular files, and folders that cannot be listed."""
    unused: Summary = field(default_factory=Summary)
    """Files without an image file extension."""

    def shards(self, split: str) -> int:
        """Number of shards of a split."""
        return -(-len(self.splits[split]) // self.shard_images)

    def digest(self, root: Path) -> str:
        """SHA-256 over the classes and every image's split, path relative to `root`, and size."""
        summary = hashlib.sha256(json.dumps([self.shard_images, *self.classes]).encode())
        for split, pictures in self.splits.items():
            for picture in pictures:
                name = os.fsencode(os.path.relpath(picture.file, root)).decode("utf-8", "surrogateescape")
                summary.update(json.dumps([split, name, _size(picture.file)]).encode())
        return summary.hexdigest()


def _size(file: Path) -> int:
    with system_errors(file):
        try:
            return file.stat().st_size
        except FileNotFoundError:
            return 0  # deleted after listing: reading the file reports it


@dataclass
class Prepared:
    """Result of a run, including the shards of earlier runs."""

    classes: int
    records: dict[str, int] = field(default_factory=dict)
    """Number of records by split."""
    skipped: Summary = field(default_factory=Summary)
    """Files that are not images and were skipped."""


def plan(source: Path, validation: Path | None, validation_fraction: float, shard_images: int) -> Plan:
    """Plans the shards: labels in the order of the class folder names, images shuffled with a fixed seed.

    If `validation` is None, `validation_fraction` of each class, at least one image, is used for validation. Raises
    TrainingError if there are fewer than two classes, too few images, or unknown classes in `validation`.
    """
    found = listing(source)
    training, others = found.classes, [found]
    classes = tuple(training)
    if len(classes) < 2:
        raise tfrecord.data_error(
            f"{printable(source)} contains only one class directory, {classes[0]}: at least two classes are required"
        )
    random = np.random.default_rng(0)
    shuffled = {name: [files[at] for at in random.permutation(len(files))] for name, files in training.items()}
    if validation is None:
        count = {name: max(1, round(validation_fraction * len(files))) for name, files in shuffled.items()}
        if few := [name for name, files in shuffled.items() if len(files) < 2]:
            raise tfrecord.data_error(
                f"{printable(source / few[0])} contains only one image, but one is needed for validation: add images "
                "or pass --validation"
            )
        held = {name: files[: count[name]] for name, files in shuffled.items()}
        shuffled = {name: files[count[name] :] for name, files in shuffled.items()}
    else:
        others.append(listing(validation))
        held = others[-1].classes
        if unknown := sorted(set(held) - set(classes)):
            raise tfrecord.data_error(
                f"{printable(validation / unknown[0])}: {printable(source)} has no such class: rename or remove the "
                "directory"
            )
    number_of = {name: number for number, name in enumerate(classes, 1)}
    splits = {}
    for split, by_class in (("train", shuffled), ("validation", held)):
        pictures = [Picture(file, number_of[name]) for name, files in by_class.items() for file in files]
        splits[split] = [pictures[at] for at in random.permutation(len(pictures))]
    return Plan(classes, splits, shard_images, *_joined(others))


def _joined(listings: Sequence[Listing]) -> tuple[Summary, Summary]:
    unusable, unused = Summary(), Summary()
    for each in listings:
        unusable.merge(each.unusable)
        unused.merge(each.unused)
    return unusable, unused


def carry_out(
    wanted: Plan, source: Path, output: Path, *, skip_bad: bool, advance: Callable[[int], None] = lambda _: None
) -> Prepared:
    """Writes the missing shards on all cores; calls `advance` with the number of images processed.

    Unless `skip_bad` is set, raises TrainingError listing the files that are not images, after reading all files.
    """
    if len(wanted.unusable) and not skip_bad:
        raise _bad_files(wanted.unusable)
    _claim(output, wanted, source)
    done, rejected = Prepared(len(wanted.classes)), Summary()
    done.skipped.merge(wanted.unusable)
    stop, lock = threading.Event(), threading.Lock()

    def pictures(share: Sequence[Picture]) -> Iterator[tuple[bytes, int]]:
        bad = Summary()
        for picture in share:
            if stop.is_set():
                raise InterruptedError("interrupted: run the command again to continue")
            try:
                with system_errors(picture.file):
                    jpeg = as_jpeg(files.read(picture.file))
            except ValueError as error:
                bad.add("files that are not images", f"{printable(picture.file)}: {error}")
            else:
                yield jpeg, picture.label
            advance(1)
        if len(bad) and not skip_bad:
            raise _NoImages(bad)
        with lock:
            done.skipped.merge(bad)

    with ThreadPoolExecutor(cpus.per_rank(), thread_name_prefix="shard") as pool:
        try:
            futures = []
            for split, whole in wanted.splits.items():
                for shard in range(wanted.shards(split)):
                    file, share = (
                        output / tfrecord.shard_name(split, shard, wanted.shards(split)),
                        _share(wanted, whole, shard),
                    )
                    if file.is_file():
                        advance(len(share))
                    else:
                        futures.append(pool.submit(tfrecord.write_shard, file, pictures(share)))
            for future in as_completed(futures):
                try:
                    future.result()
                except _NoImages as found:
                    rejected.merge(found.summary)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if len(rejected):
        raise _bad_files(rejected)
    names = [
        output / tfrecord.shard_name(split, shard, wanted.shards(split))
        for split in wanted.splits
        for shard in range(wanted.shards(split))
    ]
    tfrecord.index_together(names, output)
    done.records = {split: len(tfrecord.open_split(str(output), split)) for split in tfrecord.SPLITS}
    return done


class _NoImages(Exception):
    def __init__(self, summary: Summary) -> None:
        super().__init__()
        self.summary = summary


def _bad_files(found: Summary) -> TrainingError:
    return tfrecord.data_error(
        f"{counted(len(found), 'file')} cannot be used, and the shards that need them were not written:\n"
        + "\n".join(found.lines())
        + "\nRemove these files, or pass --skip-bad to skip them."
    )


def _share(wanted: Plan, pictures: Sequence[Picture], shard: int) -> Sequence[Picture]:
    return pictures[shard * wanted.shard_images : (shard + 1) * wanted.shard_images]


def _claim(output: Path, wanted: Plan, source: Path) -> None:
    """Writes the plan and the labels to the output folder; raises TrainingError if it contains another dataset."""
    here = {"sha256": wanted.digest(source), "classes": len(wanted.classes)}
    note = output / _PLAN
    try:
        there = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there = here
        if any(output.glob("train-*")) or any(output.glob("validation-*")):
            raise tfrecord.data_error(
                f"{printable(output)} contains shards from another source: choose another output directory"
            ) from None
    except ValueError:
        there = None
    if there != here:
        raise tfrecord.data_error(
            f"{printable(output)} contains shards of different images or with different options: choose another "
            "output directory, or empty this one"
        )
    output.mkdir(parents=True, exist_ok=True)
    for file, text in (
        (output / LABELS, labels.text(wanted.classes)),
        (note, json.dumps(here)),
    ):
        aside = file.with_suffix(".tmp")
        aside.write_text(text, encoding="utf-8", newline="\n")
        aside.rename(file)
