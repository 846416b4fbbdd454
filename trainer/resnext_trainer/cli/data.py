"""`resnext-train data`: make, index and check data sets."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from resnext_trainer.cli.options import Commands, at_a_terminal, command, positive, share
from resnext_trainer.text import printable

if TYPE_CHECKING:
    from resnext_trainer.data.image_dataset import ImageDataset
    from resnext_trainer.data.problem_summary import Summary


def add(commands: Commands) -> None:
    """The commands under `data`."""
    data = command(commands, "data", "make, index and check data sets").add_subparsers(
        title="commands", required=True, metavar="COMMAND"
    )
    prepare = command(
        data,
        "prepare",
        "write a folder of class folders as shards with indexes",
        _prepare,
        "JPEGs are stored as they are, other images as JPEGs of quality 95, on all cores. Resumable: run it again "
        "after an interruption. Labels count from 1 in the order of the folders' names, which labels.txt keeps. The "
        "images are only read. Only files with a picture's extension are used; the others are counted and named, "
        "hidden ones ignored. 16 bits are scaled to 8, and transparency is composited on white.",
    )
    prepare.add_argument(
        "--input", type=Path, required=True, metavar="DIR", help="directory with one subdirectory per class"
    )
    prepare.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the shards")
    held = prepare.add_mutually_exclusive_group()
    held.add_argument(
        "--validation", type=Path, metavar="DIR", help="folder with class folders of images to validate with"
    )
    held.add_argument(
        "--validation-fraction",
        type=share,
        default=0.1,
        metavar="FRACTION",
        help="fraction of each class to validate with instead",
    )
    prepare.add_argument("--shard-images", type=positive, default=1250, metavar="N", help="images in a shard")
    prepare.add_argument(
        "--skip-bad",
        action="store_true",
        help="skip (and list) non-image files, broken links and unreadable files instead of failing",
    )

    digits = command(data, "digits", "write scikit-learn's 1,797 handwritten digits as a data set", _digits)
    digits.add_argument("--output", type=Path, required=True, help="folder to write; what is there is kept")

    index = command(data, "index", "write the index beside each shard, which tells where its records start", _index)
    validate = command(
        data,
        "validate",
        "read every record: checksums, labels, and whether its picture decodes",
        _validate,
        "Bad records are counted by cause, and the first 20 are listed by file and offset; exit code 3 if there is "
        "any.",
    )
    index.add_argument("--path", required=True, help="folder with the shards train-* and validation-*")
    validate.add_argument(
        "--path",
        required=True,
        help="folder with the shards train-* and validation-*, or with folders of pictures train/CLASS and "
        "validation/CLASS",
    )
    validate.add_argument(
        "--format", choices=("tfrecord", "folder"), help="what the folder holds; found out if omitted"
    )
    for with_shards in (index, validate):
        with_shards.add_argument("--index-path", help="directory for index files (default: next to the shards)")
        with_shards.add_argument(
            "--incomplete-shards",
            choices=("refuse", "allow"),
            default="refuse",
            help="what happens if shards of SPLIT-I-of-N are missing or empty",
        )
    validate.add_argument(
        "--classes", type=positive, metavar="N", help="number of classes; that of labels.txt, if there is one"
    )
    validate.add_argument("--first-label", type=int, choices=(0, 1), default=1, help="the label of the first class")
    validate.add_argument(
        "--image-feature", default="image/encoded", metavar="NAME", help="feature of a record that holds the JPEG"
    )
    validate.add_argument(
        "--label-feature", default="image/class/label", metavar="NAME", help="feature of a record that holds the label"
    )


@at_a_terminal
def _prepare(options: argparse.Namespace) -> int:
    from resnext_trainer.cli.progress_bar import progress
    from resnext_trainer.data import prepare
    from resnext_trainer.data.datasets import tfrecord

    output = options.output.resolve()
    for source in filter(None, (options.input, options.validation)):
        if output.is_relative_to(source.resolve()):
            raise tfrecord.data_error(
                f"--output {printable(options.output)} lies in {printable(source)}, which is only read: choose another"
            )
    plan = prepare.plan(options.input, options.validation, options.validation_fraction, options.shard_images)
    with progress("images", sum(map(len, plan.splits.values()))) as advance:
        done = prepare.carry_out(plan, options.input, options.output, skip_bad=options.skip_bad, advance=advance)
    _print_problems("skipped", done.skipped)
    _print_problems("not used", plan.unused)
    for split, records in done.records.items():
        print(f"{split}: {plan.shards(split)} shards, {records:,} records")
    print(f"{done.classes} classes, named in {printable(options.output / prepare.LABELS)}")
    return 0


@at_a_terminal
def _digits(options: argparse.Namespace) -> int:
    from resnext_trainer.data.datasets import digits

    made = digits.prepare(options.output)
    print(f"{printable(options.output)}: {'written' if made else 'already exists'}")
    return 0


@at_a_terminal
def _index(options: argparse.Namespace) -> int:
    from resnext_trainer.data.datasets import tfrecord

    incomplete = options.incomplete_shards == "allow"
    for name, records in tfrecord.index_folder(options.path, options.index_path, incomplete=incomplete).items():
        print(f"{printable(name)}: {records:,} records")
    return 0


def _named(file: Path) -> int:
    """How many classes a file names."""
    from resnext_trainer.data import labels
    from resnext_trainer.data.datasets import tfrecord

    try:
        count = len(labels.read(file))
    except ValueError as error:
        raise tfrecord.data_error(f"{printable(file)} {error}: correct it, or give --classes") from None
    if not count:
        raise tfrecord.data_error(f"{printable(file)} names no class: correct it, or give --classes")
    return count


@at_a_terminal
def _validate(options: argparse.Namespace) -> int:
    from resnext_trainer.cli.progress_bar import progress
    from resnext_trainer.contract import ExitStatus
    from resnext_trainer.data import shards
    from resnext_trainer.data.labels import LABELS
    from resnext_trainer.data.problem_summary import Summary
    from resnext_trainer.data.validate import validate

    splits = {split: _examples(options, split) for split in shards.SPLITS}
    classes = options.classes
    if classes is None and (names := Path(options.path, LABELS)).is_file():
        classes = _named(names)
    first, problems = options.first_label, Summary()
    with progress("records", sum(map(len, splits.values()))) as advance:
        found = {split: validate(records, first, classes, advance) for split, records in splits.items()}
    for split, findings in found.items():
        span = f", labels {min(findings.labels)} to {max(findings.labels)}" if findings.labels else ""
        print(f"{split}: {findings.shards} shards, {findings.records:,} records, {len(findings.labels)} classes{span}")
    for split, findings in found.items():
        problems.merge(findings.problems)
        if advice := findings.advice(first, classes):
            print(f"{split}: {advice}", file=sys.stderr)
    unused = _add_unread(splits, problems)
    _print_problems("bad", problems)
    _print_problems("not used", unused)
    if len(problems):
        print(f"{len(problems):,} bad records", file=sys.stderr)
        return ExitStatus.INVALID_DATA.value
    return 0


def _examples(options: argparse.Namespace, split: str) -> "ImageDataset":
    from resnext_trainer.data import shards
    from resnext_trainer.data.datasets import folder, tfrecord

    form = options.format
    if form is None:
        holds_shards = Path(options.path).is_dir() and shards.any_of(Path(options.path))
        form = "folder" if not holds_shards and folder.is_data_set(options.path) else "tfrecord"
    if form == "folder":
        return folder.find_any(options.path, split, options.first_label)
    return tfrecord.open_split(
        options.path,
        split,
        options.index_path,
        incomplete=options.incomplete_shards == "allow",
        features=tfrecord.Features(options.image_feature, options.label_feature),
    )


def _add_unread(splits: "dict[str, ImageDataset]", problems: "Summary") -> "Summary":
    """Adds a folder's files that cannot be used to the problems; returns those that are no part of the data set."""
    from resnext_trainer.data.datasets.folder import ImageFolder
    from resnext_trainer.data.problem_summary import Summary

    unused = Summary()
    for pictures in splits.values():
        if isinstance(pictures, ImageFolder):
            problems.merge(pictures.unusable)
            unused.merge(pictures.unused)
    return unused


def _print_problems(title: str, problems: "Summary") -> None:
    for line in problems.lines():
        print(f"{title}: {line.strip()}", file=sys.stderr)
