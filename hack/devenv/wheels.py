"""Installs the compiled wheels into a virtual environment, built by the same script as in the images."""

import shutil
import sys
import tempfile
from pathlib import Path

from hack.devenv import apt
from hack.devenv.places import CACHE, IMAGES, ROOT, WHEELS
from hack.devenv.shell import CommandFailed, log_to, output, run, succeeds
from hack.devenv.steps import digest, say

SCRIPT = IMAGES / "trainer" / "build-wheels"
LOCKS = ROOT / "requirements"
PROGRAMS = {
    "mpirun": "openmpi-bin",
    "mpicxx": "libopenmpi-dev",
    "g++": "g++",
    "make": "make",
    "strings": "binutils",
}
"""Programs that the build or the trainer runs, with their Debian packages."""
HEADERS = {Path("/usr/include/jpeglib.h"): "libjpeg62-turbo-dev"}
"""Files that the build includes, with their Debian packages."""
NATIVE = ROOT / "trainer" / "native"


def sources() -> list[str]:
    """The packages to compile, as `NAME==VERSION`."""
    lines = (LOCKS / "source.txt").read_text().splitlines()
    return [line.split()[0] for line in lines if not line.startswith("#")]


def installed(python: Path, built: Path) -> bool:
    """Whether the wheels of this directory are installed; nothing is imported, so the check is fast."""
    script = "import sys; from importlib.metadata import version\nfor each in sys.argv[1:]:\n"
    script += " name, wanted = each.split('==')\n assert version(name) == wanted"
    record = record_of(python)
    return record.is_file() and record.read_text() == built.name and succeeds(python, "-c", script, *sources())


def record_of(python: Path) -> Path:
    """File in an environment with the name of the directory that its wheels came from."""
    return python.parent.parent / "resnext-wheels"


def pip_of(python: Path) -> tuple[str | Path, ...]:
    """pip for an environment: its own if installed, otherwise that of this Python."""
    own = (python, "-m", "pip")
    return own if succeeds(*own, "--version") else (sys.executable, "-m", "pip", f"--python={python}")


def install(python: Path) -> None:
    """Build the wheels, or take them from the cache, and install them into the interpreter's environment."""
    python = Path.cwd() / python  # not resolved: Python detects a virtual environment by this symlink
    abi = output(python, "-c", "import sysconfig; print(sysconfig.get_config_var('SOABI'))")
    built = WHEELS / digest([SCRIPT, NATIVE, abi, *(LOCKS / f"{name}.txt" for name in ("trainer", "native", "source"))])
    if installed(python, built):
        say("  ✓ wheels: up to date")
        return
    log = log_to("wheels")
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
        if missing := missing + [package for header, package in HEADERS.items() if not header.exists()]:
            apt.install(*missing)
        if not built.is_dir():
            say("  … wheels: compiling Horovod, DALI's TensorFlow plugin and the trainer's libraries, about 3 minutes")
            WHEELS.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=WHEELS) as folder:
                run("nice", SCRIPT, python, folder, "cpu")
                shutil.copytree(folder, built)
        wheels = sorted(built.glob("*.whl"))
        run(*pip_of(python), "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", *wheels)
        record_of(python).write_text(built.name)
    except CommandFailed as error:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise CommandFailed(f"  ✗ wheels: {error}\n{tail}\n    Full log: {log}") from error
    say("  ✓ wheels: installed Horovod, DALI and the trainer's libraries")
