"""Image folder datasets: train/CLASS/*.jpg and validation/CLASS/*.jpg.

They open more slowly than shards, because every rank lists all files at start. `resnext-train data prepare` converts
them to shards. Only regular files (and links to them) with an image file extension are used; all others are counted
and reported.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resnext_trainer.data import files, image_codec, labels
from resnext_trainer.data.fingerprint import Part
from resnext_trainer.data.image_dataset import ImageDataset
from resnext_trainer.data.problem_summary import Summary
from resnext_trainer.data.read_count import ReadCount
from resnext_trainer.data.shards import data_error
from resnext_trainer.text import printable

log = logging.getLogger(__name__)

_TRAIN = "train"
_NAMES = {_TRAIN: (_TRAIN,), "validation": ("validation", "val")}
"""Accepted folder names per split; ImageNet is often unpacked into train and val."""


@dataclass(frozen=True)
class ImageFolder(ImageDataset):
    """The images of one split, numbered from 0 in the order of classes and names."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: Mapping[int, str]
    """Class name by label."""
    unusable: Summary = field(default_factory=Summary)
    """Entries that cannot be read: broken links, pipes, folders that cannot be listed."""
    unused: Summary = field(default_factory=Summary)
    """Files without an image file extension."""
    reads: ReadCount = field(default_factory=ReadCount, compare=False)

    def __len__(self) -> int:
        return len(self.files)

    def parts(self) -> list[Part]:
        """The class folders."""
        return [Part(self.classes[label], count) for label, count in Counter(self.labels).items()]

    @property
    def groups(self) -> list[np.ndarray]:
        """Image numbers by class."""
        numbers = np.array(self.labels)
        return np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers)) + 1)

    def location(self, number: int) -> str:
        """Path of an image, for messages."""
        return printable(self.files[number])

    def read_record(self, number: int) -> tuple[bytes, int]:
        """Image as JPEG, and its label; raises ValueError, whose message does not contain the path."""
        content = files.read(self.files[number])
        self.reads.add(1, len(content))
        return content if image_codec.is_jpeg(content) else image_codec.converted(content), self.labels[number]


@dataclass(frozen=True)
class Listing:
    """Contents of the class folders of a folder."""

    classes: dict[str, list[Path]]
    """Images by class name, ordered by path."""
    unusable: Summary
    unused: Summary


def open_split(path: str, split: str, classes: int, first_label: int) -> ImageFolder:
    """Opens a split; labels start at `first_label` in the order of the training class names.

    Raises TrainingError if there are more class folders than `classes`, or if a folder is missing or empty.
    """
    names = class_names(path)
    if len(names) > classes:
        raise data_error(
            f"{printable(path)} contains {len(names)} class directories for training, but model.classes is {classes}: "
            f"set model.classes to {len(names)}"
        )
    found = _pictures(path, split, names, first_label)
    for line in (*found.unusable.lines(), *found.unused.lines()):
        log.warning("%s: %s", split, line)
    return found


def find_any(path: str, split: str, first_label: int) -> ImageFolder:
    """Like `open_split`, but accepts any number of classes and logs nothing."""
    return _pictures(path, split, class_names(path), first_label)


def _pictures(path: str, split: str, names: list[str], first_label: int) -> ImageFolder:
    folder = _split(path, split)
    found = listing(folder)
    if unknown := sorted(set(found.classes) - set(names)):
        raise data_error(
            f"{printable(folder / unknown[0])}: {printable(path)}/{_TRAIN} has no such class: rename or remove "
            "the directory"
        )
    number_of = {name: number for number, name in enumerate(names, first_label)}
    pictures = [(file, number_of[name]) for name, of_class in found.classes.items() for file in of_class]
    paths, numbers = zip(*pictures, strict=True)
    return ImageFolder(paths, numbers, dict(enumerate(names, first_label)), found.unusable, found.unused)


def is_data_set(path: str) -> bool:
    """Whether the path contains a folder of training images."""
    return Path(path, _TRAIN).is_dir()


def class_names(path: str) -> list[str]:
    """Class names in the order of their labels."""
    return list(_class_folders(_split(path, _TRAIN), Summary(), Summary()))


def listing(folder: Path) -> Listing:
    """Images of each class, at any depth; hidden files such as .DS_Store are ignored."""
    unusable, unused = Summary(), Summary()
    classes = {
        name: sorted(_files(place, (), unusable, unused), key=_order)
        for name, place in _class_folders(folder, unusable, unused).items()
    }
    if empty := [name for name, found in classes.items() if not found]:
        raise data_error(
            f"{printable(folder / empty[0])} contains no file with an image file extension: remove the directory or "
            "add images"
        )
    return Listing(classes, unusable, unused)


def _order(file: Path) -> list[bytes]:
    """Sort key: bytes of each path component, which gives the same order in every locale."""
    return os.fsencode(file).split(b"/")


def _split(path: str, split: str) -> Path:
    candidates = [Path(path, name) for name in _NAMES[split]]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise data_error(
        f"{printable(candidates[0])} is not a directory: data.format folder requires {printable(path)}/{split} with "
        "one subdirectory per class"
    )


def _class_folders(folder: Path, unusable: Summary, unused: Summary) -> dict[str, Path]:
    """Subfolders by class name; all other entries are counted."""
    if not folder.is_dir():
        raise data_error(f"{printable(folder)} is not a directory: pass a directory with one subdirectory per class")
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=_name)
        places = []
        for entry in found:
            if _is(entry.is_dir, entry):
                places.append(folder / entry.name)
            else:
                _count_other(entry, unusable, unused, "files next to the class directories")
    except OSError as error:
        raise data_error(f"{printable(folder)} {files.failure(error, folder)}") from None
    if not places:
        raise data_error(f"{printable(folder)} contains no subdirectory: create one per class and put its images there")
    return {labels.class_name(place): place for place in places}


def _is(kind: Callable[[], bool], entry: os.DirEntry[str]) -> bool:
    """Whether an entry is of the given kind; False for a link loop or a link that cannot be followed."""
    try:
        return kind()
    except OSError as error:
        files.failure(error, entry.path)  # raises TrainingError for a storage fault
        return False


def _name(entry: os.DirEntry[str]) -> bytes:
    return os.fsencode(entry.name)


def _files(folder: Path, above: tuple[tuple[int, int], ...], unusable: Summary, unused: Summary) -> list[Path]:
    """Images in a folder and its subfolders; `above` are (device, inode) of its parents, to detect link loops."""
    found: list[Path] = []
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            unusable.add("links to a parent directory", printable(folder))
            return []
        with os.scandir(folder) as entries:
            for entry in sorted((entry for entry in entries if not entry.name.startswith(".")), key=_name):
                if _is(entry.is_dir, entry):
                    found += _files(folder / entry.name, (*above, here), unusable, unused)
                elif Path(entry.name).suffix.lower() in image_codec.EXTENSIONS and _is(entry.is_file, entry):
                    found.append(folder / entry.name)
                else:
                    _count_other(entry, unusable, unused, "files without an image file extension")
    except OSError as error:
        unusable.add("directories that cannot be listed", f"{printable(folder)}: {files.failure(error, folder)}")
    return found


def _count_other(entry: os.DirEntry[str], unusable: Summary, unused: Summary, why_unused: str) -> None:
    """Counts an entry that is not an image: a regular file is unused, anything else is unusable."""
    if (why := files.problem(entry.path)) is None:
        unused.add(why_unused, printable(entry.path))
    else:
        unusable.add("files that are not regular files", f"{printable(entry.path)}: {why}")
