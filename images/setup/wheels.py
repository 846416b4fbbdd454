"""Horovod's and DALI's wheels for a Python outside the images, by the script that the images use."""

import shutil
import sys
import tempfile
from pathlib import Path

from images.setup import apt
from images.setup.places import CACHE, IMAGES, ROOT, WHEELS
from images.setup.shell import CommandFailed, log_to, output, run, succeeds
from images.setup.steps import digest, say

SCRIPT = IMAGES / "trainer" / "build-wheels"
CONSTRAINTS = ROOT / "constraints.txt"
DALI = "nvidia-dali-cuda120"
PLUGIN = "nvidia-dali-tf-plugin-cuda120"
PROGRAMS = {
    "mpirun": "openmpi-bin",
    "mpicxx": "libopenmpi-dev",
    "g++": "g++",
    "make": "make",
    "strings": "binutils",
}
"""What the build calls, or the trainer later, and the Debian package that brings it."""


def pinned(package: str) -> str:
    for line in CONSTRAINTS.read_text().splitlines():
        if line.startswith(f"{package}=="):
            return line
    raise CommandFailed(f"{CONSTRAINTS.name} does not pin {package}")


def requirements() -> list[str]:
    dali = pinned(DALI)
    return [pinned("horovod"), dali, dali.replace(DALI, PLUGIN)]


def installed(python: Path) -> bool:
    """Whether all three are there in their pinned versions; nothing is imported, so it takes no time."""
    question = "import sys; from importlib.metadata import version\nfor each in sys.argv[1:]:\n"
    question += " name, wanted = each.split('==')\n assert version(name) == wanted"
    return succeeds(python, "-c", question, *requirements())


def pip_of(python: Path) -> tuple[str | Path, ...]:
    """pip for an interpreter's environment: its own, else that of this Python, which Debian's comes without."""
    own = (python, "-m", "pip")
    return own if succeeds(*own, "--version") else (sys.executable, "-m", "pip", f"--python={python}")


def install(python: Path) -> None:
    """Build the wheels, or take them from the cache, and install them into the interpreter's environment."""
    python = Path.cwd() / python  # not resolved: a virtual environment is known by its own link
    if installed(python):
        say("  ✓ wheels: nothing to do")
        return
    log = log_to("wheels")
    CACHE.mkdir(parents=True, exist_ok=True)
    abi = output(python, "-c", "import sysconfig; print(sysconfig.get_config_var('SOABI'))")
    built = WHEELS / digest([SCRIPT, abi, pinned("tensorflow-cpu"), *requirements()])
    try:
        if missing := [package for program, package in PROGRAMS.items() if shutil.which(program) is None]:
            apt.install(*missing)
        pip = (*pip_of(python), "install", "--quiet", "--constraint", CONSTRAINTS)
        run(*pip, DALI, "cloudpickle", "psutil", "packaging")
        if not built.is_dir():
            say("  … wheels: compiling Horovod and DALI's plugin for TensorFlow, about 3 minutes")
            WHEELS.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=WHEELS) as folder:
                run("nice", SCRIPT, python, folder, "cpu")
                shutil.copytree(folder, built)
        run(*pip, "--no-deps", "--force-reinstall", *sorted(built.glob("*.whl")))
    except CommandFailed as error:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise CommandFailed(f"  ✗ wheels: {error}\n{tail}\n    The whole log: {log}") from error
    say("  ✓ wheels: Horovod and DALI are installed")
