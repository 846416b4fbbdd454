"""Reading, checking and cropping records, before any decoding: 100 kB JPEGs in 1,024 shards, from the page cache."""

import os
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import synthetic_jpegs
from benchmarks.interleave import Command, facts, interleave, speed
from benchmarks.results import Ratio, Result

SHARDS, RECORDS = 1024, 1251
"""As in ImageNet: 1.28 million records."""

DISTINCT = 4
"""Files with different content; the other shards are hard links to them. 500 MB exceed every cache of a CPU."""

ROUNDS = 3
LATENCY = 0.005


def run(folder: Path) -> Result:
    """folder: directory of the generated shards."""
    shards = prepare(folder)
    found = interleave(ROUNDS, commands(shards))
    facts(starts(shards)["kept"])  # keeps the index
    started = {name: facts(command) for name, command in starts(shards).items()}
    native = found["native"]
    slow_blocks, slow_random = (speed(found[f"slow {order}"]) / speed(found[order]) for order in ("blocks", "random"))
    open_files = max(each["openFiles"] for each in native)
    ratios = (
        Ratio("images/s of one core, native reader, random order", speed(native), 30_000),
        Ratio(
            "images/s of one core, native reader, pages that were cached one at a time",
            speed(found["native, single pages"]),
        ),
        Ratio("time for which the GIL is held, per image in ms", _median(native, "gilMilliseconds"), at_most=0.01),
        Ratio("open shards", open_files, at_most=256),
        Ratio("seconds until the training split is open, records.index", started["index"]["seconds"], at_most=5),
        Ratio("seconds until the training split is open, one index per shard", started["idx"]["seconds"], at_most=5),
        Ratio("seconds until the training split is open, kept index", started["kept"]["seconds"], at_most=5),
        Ratio("images/s of the native reader relative to the Python reader", speed(native) / speed(found["python"])),
        Ratio("images/s with a delay of 5 ms per read, order blocks, relative to no delay", slow_blocks, 0.9),
        Ratio("images/s with a delay of 5 ms per read, order random, relative to no delay", slow_random),
        *(
            Ratio(f"{words}, order {order}{how}", _median(found[f"{prefix}{order}"], name))
            for order in ("random", "blocks")
            for name, words, prefix, how in (
                ("bytesPerRequest", "bytes per request", "", ""),
                ("requestsPerImage", "requests per image", "", ""),
                ("requestsPerSecond", "requests/s", "", ""),
                ("requestsPerSecond", "requests/s", "slow ", ", delay of 5 ms per read"),
            )
        ),
    )
    return Result("feed", ratios, {**found, "start": started})


def commands(shards: Path) -> dict[str, Command]:
    def measured(*options: str) -> Command:
        return [sys.executable, "-m", "benchmarks.feed_reader", shards, *options]

    slow = ("--latency", str(LATENCY))
    return {
        "native, single pages": measured("--cached-by", "random", "--batches", "240"),
        "native": measured("--cached-by", "sequential", "--batches", "240"),
        "python": measured("--reader", "python", "--batches", "10"),
        "random": measured("--prefetch", "--batches", "120"),
        "blocks": measured("--prefetch", "--order", "blocks", "--batches", "120"),
        "slow blocks": measured("--prefetch", "--order", "blocks", "--batches", "120", *slow),
        "slow random": measured("--prefetch", "--batches", "10", *slow),
    }


def starts(shards: Path) -> dict[str, Command]:
    def start(*options: str | Path) -> Command:
        return [sys.executable, "-m", "benchmarks.feed_reader", shards, "--start", *options]

    return {
        "index": start("--index-path", shards / "index"),
        "idx": start("--index-path", shards / "idx"),
        "kept": start("--index-path", shards / "idx", "--keep", shards / "kept"),
    }


def _median(rounds: list[dict[str, Any]], name: str) -> float:
    return float(median(each[name] for each in rounds))


def prepare(folder: Path) -> Path:
    """Directory of the shards, with indexes in two directories; an existing one is reused."""
    from resnext_trainer.data.datasets import record_index, tfrecord
    from resnext_trainer.data.datasets.example import IMAGENET

    index, idx = folder / "index", folder / "idx"
    if (index / record_index.NAME).exists():
        return folder
    for each in (folder, index, idx):
        each.mkdir(parents=True, exist_ok=True)
    jpegs = [synthetic_jpegs.picture(number) for number in range(synthetic_jpegs.DISTINCT)]
    names = [tfrecord.shard_name("train", number, SHARDS) for number in range(SHARDS)]
    parts = {}
    for number, name in enumerate(names):
        first = names[number % DISTINCT]
        if number < DISTINCT:
            records = [(number * RECORDS + record) % len(jpegs) for record in range(RECORDS)]
            tfrecord.write_shard(folder / name, ((jpegs[record], 1 + record) for record in records))
            (folder / f"{name}.idx").unlink()
            parts[name] = tfrecord.index_shard(folder / name, idx / f"{name}.idx", IMAGENET)
        else:
            for directory, end in ((folder, ""), (idx, ".idx")):
                (directory / f"{name}{end}").unlink(missing_ok=True)
                os.link(directory / f"{first}{end}", directory / f"{name}{end}")
            parts[name] = parts[first]
    validation = tfrecord.shard_name("validation", 0, 1)
    tfrecord.write_shard(folder / validation, [(jpegs[0], 1)])
    for directory in (index, idx):
        (directory / f"{validation}.idx").write_bytes((folder / f"{validation}.idx").read_bytes())
    record_index.save(index / record_index.NAME, parts, IMAGENET)
    return folder
