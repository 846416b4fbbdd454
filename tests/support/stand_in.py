#!/usr/bin/env python3
"""A stand-in for the programs that hack/devenv runs. It is copied to a directory under the name of each of them.

Calls are appended to `calls.jsonl` in that directory. `answers.json` there contains the versions to print and whether
images can be pulled; optionally, it also contains the files of the registry, and a pattern for the beginning of
commands that fail. Images, containers and networks are files in `state`.
"""

import json
import os
import sys
from fnmatch import fnmatch
from pathlib import Path

HERE = Path(__file__).parent
NODES = ("resnext-control-plane", "resnext-worker")
ANSWERS = json.loads((HERE / "answers.json").read_text(encoding="utf-8"))


def state(kind: str, name: str) -> Path:
    return HERE / "state" / kind / name.replace("/", "_")


def create(kind: str, name: str) -> None:
    path = state(kind, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name, encoding="utf-8")


def known(kind: str) -> list[str]:
    folder = HERE / "state" / kind
    return [each.read_text(encoding="utf-8") for each in folder.iterdir()] if folder.is_dir() else []


def after(option: str, arguments: list[str]) -> str:
    return arguments[arguments.index(option) + 1]


def docker(arguments: list[str]) -> int:
    match arguments:
        case ["pull", *_, image]:
            if ANSWERS["registry"]:
                create("images", image)
            return 0 if ANSWERS["registry"] else 1
        case ["build", *_]:
            create("images", after("--tag", arguments))
        case ["import", _, image] | ["commit", *_, image]:
            create("images", image)
        case ["image", "inspect", image]:
            return 0 if state("images", image).is_file() else 1
        case ["run", *_, "find", ".", "-type", "f"]:
            print(ANSWERS.get("files", ""))
        case ["run", *_, "xargs", "rm", "--force"]:
            pass
        case ["run", *_]:
            names = [each.removeprefix("--name=") for each in arguments if each.startswith("--name=")]
            create("containers", names[0])
        case ["inspect", *_, name]:
            if not state("containers", name).is_file():
                return 1
            print("true")
        case ["network", "inspect", "kind"]:
            print(" ".join(known("network")))
        case ["network", "connect", "kind", name]:
            create("network", name)
        case ["exec", *_, "list", "--quiet"]:
            print("\n".join(known("images")))
        case ["exec", *_, "list"]:
            print("REF TYPE DIGEST SIZE PLATFORMS LABELS")
    return 0


def kind(arguments: list[str]) -> int:
    match arguments:
        case ["version"]:
            print(f"kind v{ANSWERS['kind']}.0 go1.26.8 linux/amd64")
        case ["create", "cluster", *_]:
            for name in NODES:
                create("containers", name)
            [kubeconfig] = [each.removeprefix("--kubeconfig=") for each in arguments if "kubeconfig" in each]
            Path(kubeconfig).touch()
    return 0


def kubectl(arguments: list[str]) -> int:
    words = [each for each in arguments if not each.startswith(("--kubeconfig", "--request-timeout"))]
    condition = {"conditions": [{"type": "Ready", "status": "True"}]}
    match words:
        case ["version", *_]:
            print(
                json.dumps({"clientVersion": {"gitVersion": f"v{ANSWERS['kubectl']}.1"}, "kustomizeVersion": "v5.7.1"})
            )
        case ["get", "nodes", *_]:
            nodes = [
                {"metadata": {"name": name}, "spec": {"podCIDR": f"10.244.{index}.0/24"}, "status": condition}
                for index, name in enumerate(NODES)
            ]
            print(json.dumps({"items": nodes}))
        case ["get", "pods", *_]:
            print(json.dumps({"items": [{"status": {"podIP": "10.244.0.2", **condition}}]}))
        case ["get", kinds, *_] if "deployments" in kinds:
            print(json.dumps({"items": []}))
    return 0


def helm(arguments: list[str]) -> int:
    if arguments[0] == "version":
        print(f"v{ANSWERS['helm']}.4+g05fa379")
    return 0


def go(arguments: list[str]) -> int:
    match arguments:
        case ["install", *_, package]:
            Path(os.environ["GOBIN"], package.split("@")[0].split("/")[-1]).touch()
        case ["build", "-o", target, *rest]:
            names = [each.split("/")[-1] for each in rest if each.startswith("k8s.io/")]
            for path in [Path(target, name) for name in names] if target.endswith("/") else [Path(target)]:
                path.touch()
        case ["mod", "download", *_]:
            (HERE / "kind-module" / "images" / "base" / "files").mkdir(parents=True, exist_ok=True)
            print(json.dumps({"Dir": str(HERE / "kind-module")}))
    return 0


def debootstrap(arguments: list[str]) -> int:
    folder = Path(arguments[-1], "etc", "apt")
    folder.mkdir(parents=True)
    (folder / "sources.list").write_text("deb http://mirror.example/debian bookworm main\n", encoding="utf-8")
    return 0


def apt_get(_: list[str]) -> int:
    return 0


PROGRAMS = {
    "docker": docker,
    "kind": kind,
    "kubectl": kubectl,
    "helm": helm,
    "go": go,
    "debootstrap": debootstrap,
    "apt-get": apt_get,
}

if __name__ == "__main__":
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    call = {"program": name, "arguments": arguments, "stdin": sys.stdin.read()}
    with (HERE / "calls.jsonl").open("a", encoding="utf-8") as calls:
        calls.write(json.dumps(call) + "\n")  # one write, so that parallel calls do not mix
    failing = ANSWERS.get("failing")
    sys.exit(1 if failing and fnmatch(" ".join([name, *arguments]), f"{failing}*") else PROGRAMS[name](arguments))
