"""`resnext-train data`: make, index and check data sets."""

import argparse
import sys
from pathlib import Path

from resnext_trainer.commands import Commands, at_a_terminal, command, positive, share

_NAMED = 20
"""How many bad records are named one by one."""


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
        "JPEGs are stored as they are, other images as JPEGs of quality 95, on all cores. Killed, it goes on where it "
        "was when it is run again. Labels count from 1 in the order of the folders' names, which labels.txt keeps. "
        "The images are only read. Hidden files are ignored.",
    )
    prepare.add_argument("--input", type=Path, required=True, metavar="DIR", help="folder with a folder for each class")
    prepare.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the shards")
    held = prepare.add_mutually_exclusive_group()
    held.add_argument(
        "--validation", type=Path, metavar="DIR", help="folder with class folders of images to validate with"
    )
    held.add_argument(
        "--held-out", type=share, default=0.1, metavar="SHARE", help="share of each class to validate with instead"
    )
    prepare.add_argument("--shard-images", type=positive, default=1250, metavar="N", help="images in a shard")
    prepare.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out files that are no images, and name them, in place of refusing",
    )

    digits = command(data, "digits", "write scikit-learn's 1,797 handwritten digits as a data set", _digits)
    digits.add_argument("--output", type=Path, required=True, help="folder to write; what is there is kept")

    index = command(data, "index", "write the index beside each shard, which tells where its records start", _index)
    validate = command(
        data,
        "validate",
        "read every record: checksums, labels, and whether its JPEG decodes",
        _validate,
        f"Bad records are named by file and offset, {_NAMED} of them one by one; exit code 3 if there is any.",
    )
    for with_shards in (index, validate):
        with_shards.add_argument("--path", required=True, help="folder with the shards train-* and validation-*")
        with_shards.add_argument("--index-path", help="folder of the indexes, if it is another")
    validate.add_argument(
        "--classes", type=positive, metavar="N", help="number of classes; that of labels.txt, if there is one"
    )
    validate.add_argument("--first-label", type=int, choices=(0, 1), default=1, help="the label of the first class")


@at_a_terminal
def _prepare(options: argparse.Namespace) -> int:
    from resnext_trainer.data import prepare, tfrecord
    from resnext_trainer.terminal import progress

    output = options.output.resolve()
    for source in filter(None, (options.input, options.validation)):
        if output.is_relative_to(source.resolve()):
            raise tfrecord.refused(f"--output {options.output} lies in {source}, which is only read: choose another")
    plan = prepare.plan(options.input, options.validation, options.held_out, options.shard_images)
    with progress("images", sum(map(len, plan.splits.values()))) as advance:
        done = prepare.carry_out(plan, options.input, options.output, skip_bad=options.skip_bad, advance=advance)
    for sentence in sorted(done.skipped):
        print(f"left out: {sentence}", file=sys.stderr)
    for split, records in done.records.items():
        print(f"{split}: {plan.shards(split)} shards, {records:,} records")
    print(f"{done.classes} classes, named in {options.output / prepare.LABELS}")
    return 0


def _digits(options: argparse.Namespace) -> int:
    from resnext_trainer.data import digits

    made = digits.prepare(options.output)
    print(f"{options.output}: {'written' if made else 'is there already'}")
    return 0


@at_a_terminal
def _index(options: argparse.Namespace) -> int:
    from resnext_trainer.data import tfrecord

    for name, records in tfrecord.index_folder(options.path, options.index_path).items():
        print(f"{name}: {records:,} records")
    return 0


def _named(labels: Path) -> int:
    """How many classes a file names."""
    from resnext_trainer.data import tfrecord

    try:
        count = len(labels.read_text().splitlines())
    except UnicodeDecodeError as error:
        raise tfrecord.refused(f"{labels} is no text ({error}): mend it, or give --classes") from None
    if not count:
        raise tfrecord.refused(f"{labels} names no class: mend it, or give --classes")
    return count


@at_a_terminal
def _validate(options: argparse.Namespace) -> int:
    from resnext_trainer.data import tfrecord
    from resnext_trainer.data.prepare import LABELS
    from resnext_trainer.data.validate import validate
    from resnext_trainer.report import Verdict
    from resnext_trainer.terminal import progress

    splits = {split: tfrecord.find(options.path, split, options.index_path) for split in tfrecord.SPLITS}
    classes = options.classes
    if classes is None and (names := Path(options.path, LABELS)).is_file():
        classes = _named(names)
    allowed = range(options.first_label, options.first_label + classes) if classes else None
    problems = []
    with progress("records", sum(map(len, splits.values()))) as advance:
        found = {split: validate(records, allowed, advance) for split, records in splits.items()}
    for split, findings in found.items():
        problems += findings.problems
        labels = f", labels {min(findings.labels)} to {max(findings.labels)}" if findings.labels else ""
        print(
            f"{split}: {findings.shards} shards, {findings.records:,} records, {len(findings.labels)} classes{labels}"
        )
    for problem in problems[:_NAMED]:
        print(problem, file=sys.stderr)
    if problems:
        print(f"{len(problems):,} bad records", file=sys.stderr)
        return Verdict.DATA_REFUSED.value
    return 0
