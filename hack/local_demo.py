"""`make try`: trains `spec.training` of the digits sample without a cluster, as two ranks under mpirun."""

import os
import subprocess
import sys
import time
from pathlib import Path

from resnext_trainer.runtime.launcher import parse_report

RANKS = 2
ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "manifests" / "samples" / "resnext-digits.yaml"
TRAIN = Path(sys.executable).with_name("resnext-train")
SETUP = ROOT / "hack" / "devenv"


def command(folder: Path) -> list[str | Path]:
    """The mpirun command; data and checkpoints are stored in `folder`."""
    # Without -bind-to none, both ranks would be bound to one core. Open MPI requires a flag to run as root.
    mpirun = ["mpirun", "-np", str(RANKS), "-bind-to", "none", "--oversubscribe"]
    mpirun += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    places = ["--set", f"data.path={folder / 'data'}", "--set", f"checkpoint.path={folder / 'checkpoints'}"]
    return [*mpirun, TRAIN, "train", "--config", SAMPLE, *places]


def main() -> int:
    started = time.monotonic()
    cache = subprocess.run([sys.executable, SETUP, "cache"], check=True, stdout=subprocess.PIPE, text=True).stdout
    folder = Path(cache.strip()) / "try" / time.strftime("%Y%m%d-%H%M%S")
    subprocess.run([TRAIN, "data", "digits", "--output", folder / "data"], check=True)
    with subprocess.Popen(command(folder), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as ranks:
        for line in ranks.stdout or ():
            if report := parse_report(line):
                print(f"{report.verdict}: {report.message}")
            elif line.strip():
                print(line, end="", flush=True)
    print(f"{time.monotonic() - started:.0f} s; checkpoints in {folder / 'checkpoints'}")
    return ranks.returncode


if __name__ == "__main__":
    sys.exit(main())
