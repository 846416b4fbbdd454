"""One measurement of feed.py, in a process of its own; prints JSON."""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext_trainer.config.models import Training
from resnext_trainer.config.validation import resolve
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.input_pipeline import Shard
from resnext_trainer.data.native_reader import NativeReader
from resnext_trainer.data.open_files import OpenFiles, PooledFile
from resnext_trainer.data.sampling import Batches
from resnext_trainer.runtime.malloc import retain_freed_memory

WARM_UP = 10


@dataclass
class Unlocked:
    """CPU time of calls that do not hold the GIL, in seconds."""

    cpu: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feed_reader", description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--index-path", type=Path)
    parser.add_argument("--start", action="store_true", help="measure the opening of the training split only")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the index of the split in this directory")
    parser.add_argument("--reader", choices=("native", "python"), default="native")
    parser.add_argument("--order", choices=("random", "blocks"), default="random")
    parser.add_argument("--prefetch", action="store_true", help="as in a training, with several threads on all cores")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds to add to each read")
    parser.add_argument(
        "--cached-by",
        choices=("sequential", "random"),
        help="first evict the shards from the page cache, and read them in this way: a sequential read fills the page "
        "cache with large folios, a random read with single pages",
    )
    parser.add_argument("--batches", type=int, default=50)
    options = parser.parse_args()
    print(json.dumps(started(options) if options.start else measured(options)))


def started(options: argparse.Namespace) -> dict[str, Any]:
    begin, cpu = time.perf_counter(), time.process_time()
    records = tfrecord.open_split(str(options.shards), "train", str(options.index_path), cache=options.keep)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {"seconds": seconds, "cpuSeconds": cpu, "records": len(records)}


def measured(options: argparse.Namespace) -> dict[str, Any]:
    if not options.prefetch:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    retain_freed_memory()
    if options.cached_by:
        fill_page_cache(options.shards, options.cached_by)
    batches = Batches(settings(options), Shard(0, 1))
    records = batches.examples["train"]
    assert isinstance(records, tfrecord.Records)
    if options.reader == "python":
        records.native = None
        records.read(0)  # imports TensorFlow
    elif records.native is None:
        raise SystemExit("the native reader is not installed: run `make` with a target that needs the trainer")
    unlocked = observe(records.native, options.latency)
    schedule = batches.train(0)
    source = schedule.prefetch() if options.prefetch else map(schedule.load, range(schedule.count))
    for _ in range(min(WARM_UP, options.batches)):
        next(source)
    unlocked.cpu, requests, size = 0.0, records.reads.requests, records.reads.bytes
    images, seconds, cpu = timed(source, options.batches)
    requests, size = records.reads.requests - requests, records.reads.bytes - size
    return {
        "imagesPerSecond": images / seconds,
        "imagesPerCpuSecond": images / cpu,
        "gilMilliseconds": 1000 * (cpu - unlocked.cpu) / images,
        "openFiles": open_shards(options.shards),
        "requestsPerSecond": requests / seconds,
        "requestsPerImage": requests / images,
        "bytesPerRequest": size / max(1, requests),
    }


def fill_page_cache(folder: Path, how: str) -> None:
    """Evicts the shards, and reads them sequentially or, with the advice that reads are random, without readahead."""
    advice = os.POSIX_FADV_SEQUENTIAL if how == "sequential" else os.POSIX_FADV_RANDOM
    for file in {shard.stat().st_ino: shard for shard in folder.glob("train-*-of-*") if not shard.suffix}.values():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # only clean pages are evicted
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(descriptor, 0, 0, advice)
            while os.read(descriptor, 1 << 20):
                pass
        finally:
            os.close(descriptor)


def settings(options: argparse.Namespace) -> Training:
    data = {"path": str(options.shards), "indexPath": str(options.shards / "index"), "order": options.order}
    return resolve({"batchSize": 128, "data": data, "device": "cpu"})


def timed(source: Iterator[Any], batches: int) -> tuple[int, float, float]:
    """Images read, and the wall time and CPU time for it, in seconds."""
    begin, cpu, images = time.perf_counter(), time.process_time(), 0
    for _ in range(batches):
        images += len(next(source).jpegs)
    return images, time.perf_counter() - begin, time.process_time() - cpu


def observe(native: NativeReader | None, latency: float) -> Unlocked:
    """Delays each read by `latency` seconds, and measures calls that do not hold the GIL."""
    found = Unlocked()
    if native is not None:
        read_natively = native.read

        def read(located: Any, offsets: Any, lengths: Any, layouts: Any) -> Any:
            time.sleep(latency * int((located.addresses == 0).sum()))
            return read_natively(located, offsets, lengths, layouts)

        setattr(native, "_read", measured_call(native._read, found))  # noqa: B010 (its type is that of ctypes)
        native.read = read  # type: ignore[method-assign]
    for name in ("open", "close", "fstat"):
        setattr(os, name, measured_call(getattr(os, name), found))
    read_into = OpenFiles.read_into

    def read_block(self: OpenFiles, file: PooledFile, length: int, offset: int) -> Any:
        time.sleep(latency)
        return read_into(self, file, length, offset)

    OpenFiles.read_into = read_block  # type: ignore[method-assign]
    return found


def measured_call(call: Callable[..., Any], found: Unlocked) -> Callable[..., Any]:
    """The same function, whose CPU time is added to `found`."""

    def timed_call(*arguments: Any) -> Any:
        begin = time.thread_time()
        result = call(*arguments)
        found.cpu += time.thread_time() - begin
        return result

    return timed_call


def open_shards(folder: Path) -> int:
    """Files of this directory that the process has open."""
    opened = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            opened += descriptor.readlink().is_relative_to(folder.resolve())
        except FileNotFoundError:
            continue
    return opened


if __name__ == "__main__":
    main()
