"""Shows whether TensorFlow's persistent compilation cache saves the compilation of a restarted training.

    python -m benchmarks.compilation_cache [--device cpu|gpu] [--set PATH=VALUE ...]

Prints the seconds of the first step, which includes tracing and compilation, of five processes one after the other.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.interleave import TRAIN, facts

BATCH = 32


def first_step(cache: Path | None, device: str, batch: int, settings: Sequence[str]) -> dict[str, Any]:
    """Duration of the first step of a new process, and the cache after it. cache: directory; None disables it."""
    command: list[str | Path] = [TRAIN, "benchmark", "training", "--synthetic", "--json", "--steps", "1"]
    command += ["--warm-up", "1"]
    for setting in ("model.architecture=resnext17-8x4d", "model.imageSize=32", f"device={device}", "xla=true"):
        command += ["--set", setting]
    for setting in (f"batchSize={batch}", "precision.mode=fp32", *settings):
        command += ["--set", setting]
    flags = f"--tf_xla_persistent_cache_directory={cache}" if cache else ""
    found = facts(command, TF_XLA_FLAGS=flags)
    files = [file for file in cache.rglob("*") if file.is_file()] if cache else []
    return {
        "seconds": round(found["warmUpSeconds"], 2),
        "entries": len(files),
        "MiB": round(sum(file.stat().st_size for file in files) / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PATH=VALUE")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)

        def measure(name: str, cache: Path | None = cache, batch: int = BATCH) -> None:
            found[name] = first_step(cache, options.device, batch, options.settings)

        measure("no cache", None)
        measure("empty cache")
        measure("same program")
        measure("another batch size", batch=BATCH // 2)
        for entry in cache.iterdir():
            entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
        try:
            measure("damaged entries")
        except Exception as error:
            found["damaged entries"] = {"error": str(error)[-1000:]}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
