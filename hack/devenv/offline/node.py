"""kind's node image, compiled from Go modules."""

import json
import shutil
import tempfile
from pathlib import Path

from hack.devenv.engine import build, image_exists
from hack.devenv.offline import debian
from hack.devenv.offline.steps import STEPS
from hack.devenv.offline.versions import COREDNS, ETCD, KUBERNETES, PAUSE
from hack.devenv.places import BIN, CACHE, KIND
from hack.devenv.shell import CommandFailed, output, run
from hack.devenv.steps import Input, step
from hack.devenv.tools import GO, STRIPPED, extract_clients, go_install

SOURCES = Path(__file__).parent / "kubernetes"
BINARIES = CACHE / "kubernetes"
NODE = f"resnext-node:{KUBERNETES}"
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
PROGRAMS = (*COMPONENTS, "kubelet", "kubeadm")

TAGS = {
    **{name: f"registry.k8s.io/{name}:{KUBERNETES}" for name in COMPONENTS},
    "etcd": f"registry.k8s.io/etcd:{ETCD}",
    "coredns": f"registry.k8s.io/coredns/coredns:{COREDNS}",
    "pause": f"registry.k8s.io/pause:{PAUSE}",
}
"""The names under which kubeadm and containerd look for the images of a cluster."""


def _compiled() -> bool:
    return all((BINARIES / name).is_file() for name in (*PROGRAMS, "etcd", "coredns"))


def _versions() -> list[Input]:
    return [SOURCES / "go.mod", SOURCES / "go.sum", SOURCES / "pause", KUBERNETES, COREDNS, ETCD]


def inputs() -> list[Input]:
    """Inputs of the node image. If they change, the cluster is created again."""
    return [*_versions(), SOURCES / "Dockerfile", KIND]


@step(
    "kubernetes",
    f"compiling Kubernetes {KUBERNETES} from Go modules",
    needs=("docker",),
    inputs=_versions,
    present=_compiled,
    steps=STEPS,
)
def kubernetes() -> None:
    BINARIES.mkdir(parents=True, exist_ok=True)
    stamp = "k8s.io/component-base/version"
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    facts = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    version = " ".join(f"-X {stamp}.{name}={value}" for name, value in facts.items())
    # One invocation, because the six programs share most packages.
    run(
        *("nice", "go", "build", "-o", f"{BINARIES}/", f"-ldflags=-s -w {version}"),
        *(f"k8s.io/kubernetes/cmd/{name}" for name in PROGRAMS),
        cwd=SOURCES,
        env=GO,
    )
    for name, package in (("etcd", "go.etcd.io/etcd/server/v3"), ("pause", "./pause")):
        run("nice", "go", "build", "-o", BINARIES / name, STRIPPED, package, cwd=SOURCES, env=GO)
    go_install(f"github.com/coredns/coredns@{COREDNS}")
    shutil.move(BIN / "coredns", BINARIES / "coredns")


@step(
    "node",
    "creating the node image",
    # Runs after kind and crane are compiled as well, because this step deletes Go's caches.
    needs=("debian", "tools", "crane", "kubernetes"),
    inputs=inputs,
    present=lambda: image_exists(NODE),
    steps=STEPS,
)
def node() -> None:
    kind = json.loads(output("go", "mod", "download", "-json", f"sigs.k8s.io/kind@{KIND}", env=GO))
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        context = Path(folder)
        shutil.copytree(BINARIES, context / "bin", copy_function=_link)
        extract_clients(context / "bin", ["kubectl"])  # one on PATH may be a script, or linked dynamically
        shutil.copytree(Path(kind["Dir"], "images", "base", "files"), context / "kind")
        arguments = (f"--build-arg=BASE={debian.BASE}", f"--build-arg=VERSION={KUBERNETES}")
        for target, tag in {**TAGS, "node": f"{NODE}-bare"}.items():
            build(tag, context, SOURCES / "Dockerfile", f"--target={target}", *arguments)
    _with_images_inside()
    # 8 GB that are no longer needed; another version of Kubernetes would be compiled from scratch anyway.
    for cache in (GO["GOCACHE"], GO["GOPATH"]):
        shutil.rmtree(cache, ignore_errors=True)


def _link(source: str, target: str) -> str:
    """Hard link instead of a copy, because the binaries take 600 MB."""
    Path(target).hardlink_to(source)
    return target


def _with_images_inside() -> None:
    """Import the cluster's images into the node's containerd, as in kind's node images, so that no node pulls them."""
    builder = "resnext-node-builder"
    run("docker", "rm", "--force", builder)
    run("docker", "run", "--detach", "--privileged", f"--name={builder}", "--entrypoint=sleep", f"{NODE}-bare", "900")
    try:
        inside = ("docker", "exec", builder, "sh", "-c")
        run("docker", "exec", "--detach", builder, "containerd")
        run(*inside, "for i in $(seq 60); do ctr version > /dev/null 2>&1 && exit; sleep 0.5; done; exit 1")
        load = "ctr --namespace=k8s.io images import --all-platforms --no-unpack --digests -"
        run("sh", "-c", f"docker save {' '.join(TAGS.values())} | docker exec --interactive {builder} {load}")
        names = output("docker", "exec", builder, "ctr", "--namespace=k8s.io", "images", "list", "--quiet")
        if missing := set(TAGS.values()) - set(names.split()):
            raise CommandFailed(f"images missing in the node: {', '.join(sorted(missing))}")
        run(*inside, "pkill containerd; while pgrep containerd; do sleep 0.2; done; rm -rf /run/containerd /tmp/*")
        entrypoint = 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]'
        run("docker", "commit", f"--change={entrypoint}", "--change=CMD []", builder, NODE)
    finally:
        run("docker", "rm", "--force", builder)
