"""`resnext-train data`: create, index and validate datasets."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from resnext_trainer.cli.options import Commands, at_a_terminal, command, positive, share
from resnext_trainer.text import counted, printable

if TYPE_CHECKING:
    from resnext_trainer.data.image_dataset import ImageDataset
    from resnext_trainer.data.problem_summary import Summary


def add(commands: Commands) -> None:
    """Adds the commands under `data`."""
    data = command(commands, "data", "create, index and validate datasets").add_subparsers(
        title="commands", required=True, metavar="COMMAND"
    )
    prepare = command(
        data,
        "prepare",
        "convert a directory of class directories to shards with indexes",
        _prepare,
        "JPEGs are stored unchanged; other images are converted to JPEG with quality 95. 16-bit channels are scaled to "
        "8 bits, and transparency is composited on white. Labels start at 1 in the order of the class names, which "
        "are written to labels.txt. Only files with an image file extension are used; others are counted and listed, "
        "and hidden files are ignored. The input is not modified. To resume after an interruption, run the command "
        "again. Uses all cores.",
    )
    prepare.add_argument(
        "--input", type=Path, required=True, metavar="DIR", help="directory with one subdirectory per class"
    )
    prepare.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory for the shards")
    held = prepare.add_mutually_exclusive_group()
    held.add_argument(
        "--validation", type=Path, metavar="DIR", help="directory of validation images, one subdirectory per class"
    )
    held.add_argument(
        "--validation-fraction",
        type=share,
        default=0.1,
        metavar="FRACTION",
        help="fraction of each class to use for validation if --validation is omitted",
    )
    prepare.add_argument("--shard-images", type=positive, default=1250, metavar="N", help="images per shard")
    prepare.add_argument(
        "--skip-bad",
        action="store_true",
        help="skip and list non-image files, broken links and unreadable files instead of failing",
    )

    digits = command(data, "digits", "write scikit-learn's 1,797 handwritten digits as a dataset", _digits)
    digits.add_argument("--output", type=Path, required=True, help="output directory; existing shards are kept")

    index = command(
        data,
        "index",
        "index the records of all shards",
        _index,
        "Reads every record once and writes the position, label, size and checksum of each image to records.index, and "
        "the record offsets of each shard to NAME.idx, which DALI also reads. Uses all cores.",
    )
    validate = command(
        data,
        "validate",
        "check the checksums, label and image of every record",
        _validate,
        "Bad records are counted by cause, and the first 20 are listed by file and offset. The exit code is 3 if there "
        "are bad records.",
    )
    index.add_argument("--path", required=True, help="directory with the shards train-* and validation-*")
    validate.add_argument(
        "--path",
        required=True,
        help="directory with the shards train-* and validation-*, or with images in train/CLASS and validation/CLASS",
    )
    validate.add_argument("--format", choices=("tfrecord", "folder"), help="format of the dataset; detected if omitted")
    for with_shards in (index, validate):
        with_shards.add_argument(
            "--image-feature", default="image/encoded", metavar="NAME", help="feature that contains the JPEG"
        )
        with_shards.add_argument(
            "--label-feature", default="image/class/label", metavar="NAME", help="feature that contains the label"
        )
        with_shards.add_argument("--index-path", help="directory for index files (default: next to the shards)")
        with_shards.add_argument(
            "--incomplete-shards",
            choices=("refuse", "allow"),
            default="refuse",
            help="whether to fail or continue if numbered shards (SPLIT-I-of-N) are missing or empty",
        )
    validate.add_argument(
        "--classes",
        type=positive,
        metavar="N",
        help="number of classes (default: the number of names in labels.txt, if it exists)",
    )
    validate.add_argument("--first-label", type=int, choices=(0, 1), default=1, help="label of the first class")


@at_a_terminal
def _prepare(options: argparse.Namespace) -> int:
    from resnext_trainer.cli.progress_bar import progress
    from resnext_trainer.data import prepare
    from resnext_trainer.data.datasets import tfrecord

    output = options.output.resolve()
    for source in filter(None, (options.input, options.validation)):
        if output.is_relative_to(source.resolve()):
            raise tfrecord.data_error(
                f"--output {printable(options.output)} is inside the input {printable(source)}: choose another"
                " directory"
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
    features = tfrecord.Features(options.image_feature, options.label_feature)
    counts = tfrecord.index_folder(options.path, options.index_path, incomplete=incomplete, features=features)
    for name, records in counts.items():
        print(f"{printable(name)}: {records:,} records")
    return 0


def _named(file: Path) -> int:
    """Number of class names in a file."""
    from resnext_trainer.data import labels
    from resnext_trainer.data.datasets import tfrecord

    try:
        count = len(labels.read(file))
    except ValueError as error:
        raise tfrecord.data_error(f"{printable(file)} {error}: correct the file, or pass --classes") from None
    if not count:
        raise tfrecord.data_error(f"{printable(file)} contains no class names: correct the file, or pass --classes")
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
        print(
            f"{split}: {counted(findings.shards, 'shard')}, {counted(findings.records, 'record')}, "
            f"{len(findings.labels)} classes{span}"
        )
    for split, findings in found.items():
        problems.merge(findings.problems)
        if advice := findings.advice(first, classes):
            print(f"{split}: {advice}", file=sys.stderr)
    unused = _add_unread(splits, problems)
    _print_problems("bad", problems)
    _print_problems("not used", unused)
    if len(problems):
        print(counted(len(problems), "bad record"), file=sys.stderr)
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
    """Adds the unusable files of an image folder to `problems`; returns the unused ones."""
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
