"""A folder of class folders as a data set, read as it lies: train/CLASS/*.jpg and validation/CLASS/*.jpg.

Convenient, and slower to open than shards: every rank lists all files when it starts. `resnext-train data prepare`
makes shards of the same folders.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from resnext_trainer.data import images
from resnext_trainer.data.tfrecord import refused
from resnext_trainer.fingerprint import Part

_TRAIN = "train"
_NAMES = {_TRAIN: (_TRAIN,), "validation": ("validation", "val")}
"""What a split's folder may be called; ImageNet is often unpacked into train and val."""


@dataclass(frozen=True)
class Pictures:
    """The pictures of one split, numbered from 0 in the order of their classes and names."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: Mapping[int, str]
    """The names of the labels."""

    def __len__(self) -> int:
        return len(self.files)

    def parts(self) -> list[Part]:
        """The class folders."""
        return [Part(self.classes[label], count) for label, count in Counter(self.labels).items()]

    def where(self, number: int) -> str:
        """A picture's place, for a message."""
        return str(self.files[number])

    def read(self, number: int) -> tuple[bytes, int]:
        """A picture as a JPEG, and its label; raises Refused where it is no image."""
        try:
            content = self.files[number].read_bytes()
            return content if images.is_jpeg(content) else images.converted(content), self.labels[number]
        except OSError as error:
            raise refused(f"{self.where(number)}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise refused(f"{self.where(number)}: {error}") from None


def find(path: str, split: str, classes: int, first_label: int) -> Pictures:
    """The pictures of a split, labelled from `first_label` on in the order of the training classes' names."""
    names = class_names(path)
    if len(names) > classes:
        raise refused(
            f"{path} holds {len(names)} class folders for training, and model.classes is {classes}: "
            f"set it to {len(names)}"
        )
    folder = _split(path, split)
    found = class_folders(folder)
    if unknown := sorted(set(found) - set(names)):
        raise refused(f"{folder}/{unknown[0]} is a class that {path}/{_TRAIN} does not have")
    labels = {name: number for number, name in enumerate(names, first_label)}
    pictures = [(file, labels[name]) for name, files in found.items() for file in files]
    files, numbers = zip(*pictures, strict=True)
    return Pictures(files, numbers, dict(enumerate(names, first_label)))


def class_names(path: str) -> list[str]:
    """The classes in the order of their numbers."""
    return _folders(_split(path, _TRAIN))


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """The files of each class, at any depth, by name; hidden ones (.DS_Store) are no part of a data set."""
    found = {name: sorted(_files(folder / name)) for name in _folders(folder)}
    if empty := [name for name, files in found.items() if not files]:
        raise refused(f"{folder}/{empty[0]} holds no file: remove it, or put its images there")
    return found


def _split(path: str, split: str) -> Path:
    candidates = [Path(path, name) for name in _NAMES[split]]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise refused(f"{candidates[0]} is no folder: data.format folder needs {path}/{split} with a folder for each class")


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise refused(f"{folder} is no folder: give the one that holds a folder for each class")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise refused(f"{folder} holds no folder: the images of each class need a folder of their own")
    return names


def _files(folder: Path) -> Iterator[Path]:
    def failed(error: OSError) -> None:
        raise error

    # A link in a circle ends as an error, too, once the path has too many levels.
    for at, folders, names in os.walk(folder, followlinks=True, onerror=failed):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(at, name) for name in names if not name.startswith("."))
