"""`make lock`: exact versions and hashes of packages, one file in requirements/ for each extra and dependency group.

    python -m hack.lock [--upgrade]

A lock names no package index: an installation uses the one that its user has configured.
"""

import argparse
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "requirements"
FORMAT = ("--universal", "--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-header", "--quiet")


def selections() -> dict[str, str]:
    """uv's option for each lock: the extras of pyproject.toml, then its dependency groups."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    extras = {name: f"--extra={name}" for name in project["project"]["optional-dependencies"]}
    return extras | {name: f"--group={name}" for name in project["dependency-groups"]}


def lock(name: str, option: str, constraints: list[Path], *, upgrade: bool) -> Path:
    """Lock an extra or a group; packages that `constraints` contain get the same versions."""
    path = LOCKS / f"{name}.txt"
    # A group is named alone: with pyproject.toml as a source, uv would add the dependencies of the project.
    source = ["pyproject.toml"] if option.startswith("--extra") else []
    subprocess.run(
        [
            *("uv", "pip", "compile", "--system-certs", *FORMAT, *source, option),
            *(f"--constraint={each.relative_to(ROOT)}" for each in constraints),
            *(["--upgrade"] if upgrade else []),
            f"--output-file={path.relative_to(ROOT)}",
        ],
        cwd=ROOT,
        check=True,
    )
    return path


def main() -> None:
    """Lock everything; without --upgrade, locked versions stay as long as pyproject.toml allows them."""
    parser = argparse.ArgumentParser(
        prog="python -m hack.lock", description="Lock the packages of every extra and dependency group."
    )
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that pyproject.toml allows")
    upgrade = parser.parse_args().upgrade
    locked: list[Path] = []
    for name, option in selections().items():
        locked.append(lock(name, option, locked, upgrade=upgrade))


if __name__ == "__main__":
    main()
