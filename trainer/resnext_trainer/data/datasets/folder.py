"""A folder of class folders as a data set, read as it lies: train/CLASS/*.jpg and validation/CLASS/*.jpg.

Convenient, and slower to open than shards: every rank lists all files when it starts. `resnext-train data prepare`
makes shards of the same folders. Only regular files (and links to them) with a picture's extension are used; all
others are counted and named.
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
from resnext_trainer.data.shards import data_error
from resnext_trainer.text import printable

log = logging.getLogger(__name__)

_TRAIN = "train"
_NAMES = {_TRAIN: (_TRAIN,), "validation": ("validation", "val")}
"""What a split's folder may be called; ImageNet is often unpacked into train and val."""


@dataclass(frozen=True)
class ImageFolder(ImageDataset):
    """The pictures of one split, numbered from 0 in the order of their classes and names."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: Mapping[int, str]
    """The names of the labels."""
    unusable: Summary = field(default_factory=Summary)
    """Pictures by name that are none: dead links, pipes, folders that cannot be listed."""
    unused: Summary = field(default_factory=Summary)
    """Files without a picture's extension."""

    def __len__(self) -> int:
        return len(self.files)

    def parts(self) -> list[Part]:
        """The class folders."""
        return [Part(self.classes[label], count) for label, count in Counter(self.labels).items()]

    @property
    def groups(self) -> list[np.ndarray]:
        """The numbers of each class's pictures."""
        numbers = np.array(self.labels)
        return np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers)) + 1)

    def location(self, number: int) -> str:
        """A picture's place, for a message."""
        return printable(self.files[number])

    def read_record(self, number: int) -> tuple[bytes, int]:
        """A picture as a JPEG, and its label; ValueError says what is wrong with the picture, not which it is."""
        content = files.read(self.files[number])
        return content if image_codec.is_jpeg(content) else image_codec.converted(content), self.labels[number]


@dataclass(frozen=True)
class Listing:
    """What the class folders of a folder hold."""

    classes: dict[str, list[Path]]
    """The pictures of each class by name, in the order of their paths."""
    unusable: Summary
    unused: Summary


def open_split(path: str, split: str, classes: int, first_label: int) -> ImageFolder:
    """The pictures of a split, labelled from `first_label` on in the order of the training classes' names."""
    names = class_names(path)
    if len(names) > classes:
        raise data_error(
            f"{printable(path)} holds {len(names)} class folders for training, and model.classes is {classes}: "
            f"set it to {len(names)}"
        )
    found = _pictures(path, split, names, first_label)
    for line in (*found.unusable.lines(), *found.unused.lines()):
        log.warning("%s: %s", split, line)
    return found


def find_any(path: str, split: str, first_label: int) -> ImageFolder:
    """The same, with as many classes as there are, and without a word in the log."""
    return _pictures(path, split, class_names(path), first_label)


def _pictures(path: str, split: str, names: list[str], first_label: int) -> ImageFolder:
    folder = _split(path, split)
    found = listing(folder)
    if unknown := sorted(set(found.classes) - set(names)):
        raise data_error(f"{printable(folder / unknown[0])} is a class that {printable(path)}/{_TRAIN} does not have")
    number_of = {name: number for number, name in enumerate(names, first_label)}
    pictures = [(file, number_of[name]) for name, of_class in found.classes.items() for file in of_class]
    paths, numbers = zip(*pictures, strict=True)
    return ImageFolder(paths, numbers, dict(enumerate(names, first_label)), found.unusable, found.unused)


def is_data_set(path: str) -> bool:
    """Whether a folder holds folders of training pictures."""
    return Path(path, _TRAIN).is_dir()


def class_names(path: str) -> list[str]:
    """The classes in the order of their numbers."""
    return list(_class_folders(_split(path, _TRAIN), Summary(), Summary()))


def listing(folder: Path) -> Listing:
    """The pictures of each class, at any depth; hidden files (.DS_Store) are no part of a data set."""
    unusable, unused = Summary(), Summary()
    classes = {
        name: sorted(_files(place, (), unusable, unused), key=_order)
        for name, place in _class_folders(folder, unusable, unused).items()
    }
    if empty := [name for name, found in classes.items() if not found]:
        raise data_error(
            f"{printable(folder / empty[0])} holds no file with a picture's extension: remove it, or add its images"
        )
    return Listing(classes, unusable, unused)


def _order(file: Path) -> list[bytes]:
    """Part by part and by bytes: the same order in every locale, and that of the names in UTF-8."""
    return os.fsencode(file).split(b"/")


def _split(path: str, split: str) -> Path:
    candidates = [Path(path, name) for name in _NAMES[split]]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise data_error(
        f"{printable(candidates[0])} is not a directory: data.format folder needs {printable(path)}/{split} with a "
        "folder for each class"
    )


def _class_folders(folder: Path, unusable: Summary, unused: Summary) -> dict[str, Path]:
    """The folders of a folder by the class that they are named after; all else in it is counted."""
    if not folder.is_dir():
        raise data_error(f"{printable(folder)} is not a directory: give the one that holds a folder for each class")
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=_name)
        places = []
        for entry in found:
            if _is(entry.is_dir, entry):
                places.append(folder / entry.name)
            else:
                _count_other(entry, unusable, unused, "files beside the class folders")
    except OSError as error:
        raise data_error(f"{printable(folder)} {files.failure(error, folder)}") from None
    if not places:
        raise data_error(f"{printable(folder)} holds no folder: the images of each class need a folder of their own")
    return {labels.class_name(place): place for place in places}


def _is(kind: Callable[[], bool], entry: os.DirEntry[str]) -> bool:
    """Whether an entry is of a kind; a link in a circle, and one that may not be followed, is of none."""
    try:
        return kind()
    except OSError as error:
        files.failure(error, entry.path)  # raises TrainingError for a fault of the storage
        return False


def _name(entry: os.DirEntry[str]) -> bytes:
    return os.fsencode(entry.name)


def _files(folder: Path, above: tuple[tuple[int, int], ...], unusable: Summary, unused: Summary) -> list[Path]:
    """The pictures in a folder and those below it; `above` are the folders that lead to it."""
    found: list[Path] = []
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            unusable.add("links to a folder that holds them", printable(folder))
            return []
        with os.scandir(folder) as entries:
            for entry in sorted((entry for entry in entries if not entry.name.startswith(".")), key=_name):
                if _is(entry.is_dir, entry):
                    found += _files(folder / entry.name, (*above, here), unusable, unused)
                elif Path(entry.name).suffix.lower() in image_codec.EXTENSIONS and _is(entry.is_file, entry):
                    found.append(folder / entry.name)
                else:
                    _count_other(entry, unusable, unused, "files without a picture's extension")
    except OSError as error:
        unusable.add("folders that cannot be listed", f"{printable(folder)}: {files.failure(error, folder)}")
    return found


def _count_other(entry: os.DirEntry[str], unusable: Summary, unused: Summary, why_unused: str) -> None:
    """Counts what is no picture: regular files of other kinds are not used, all else cannot be."""
    if (why := files.problem(entry.path)) is None:
        unused.add(why_unused, printable(entry.path))
    else:
        unusable.add("files that are no regular files", f"{printable(entry.path)}: {why}")
