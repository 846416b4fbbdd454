"""A machine for tests of hack/devenv: stand-ins for docker, kind and the others are the only programs on PATH."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "support" / "stand_in.py"
PROGRAMS = ("docker", "kind", "kubectl", "helm", "go", "debootstrap", "apt-get")
BASICS = ("sh", "cp", "find", "nice", "rm", "tar", "xargs")
"""Programs that are not replaced. Nothing else of this machine is on PATH."""
NEW = {"kubectl": "1.34", "helm": "4.1", "kind": "0.32", "registry": True}
# The wheel with kubectl and helm is not downloaded, and port 5001 may belong to a real registry.
START = """\
import sys
from hack.devenv import places
places.REGISTRY = sys.argv.pop(1)
from hack.devenv import cli, shell, tools
shell.ENVIRONMENT["PATH"] = shell.ENVIRONMENT["PATH"].partition(":/usr/local/go/bin")[0]
tools.extract_clients = lambda folder, names: [(folder / name).touch(0o755) for name in names]
tools.BIN.mkdir(parents=True, exist_ok=True)
status = cli.main(sys.argv[1:])
print(*(name for name in sys.modules if name.startswith("hack.devenv.offline")))
sys.exit(status)
"""


@dataclass
class Images:
    """The contents of a registry."""

    manifest: str | None = None
    """The manifest of every image; without it, the registry has no images."""
    missing: str | None = None
    """Digest of the only blob that the registry does not have."""


@dataclass
class Machine:
    """A machine whose programs are stand-ins."""

    folder: Path
    registry: str
    images: Images
    loaded: str = ""
    printed: str = ""

    def answer(self, **answers: str | bool) -> None:
        self.folder.joinpath("answers.json").write_text(json.dumps({**NEW, **answers}))

    def run(self, *targets: str, **environment: str) -> str:
        """Run targets of hack/devenv; returns what it prints to standard error."""
        variables = {
            "PATH": f"{self.folder}:{self.folder / 'basics'}",
            "PYTHONPATH": str(ROOT),
            "RESNEXT_CACHE": str(self.cache),
            "HOME": str(self.folder),
            **environment,
        }
        command = [sys.executable, "-c", START, self.registry, *targets]
        done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(done.stderr)
        self.loaded = done.stdout.splitlines()[-1]
        return done.stderr

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def calls(self, program: str, *words: str) -> list[dict[str, Any]]:
        """The calls of a program whose arguments begin with these."""
        lines = self.folder.joinpath("calls.jsonl").read_text().splitlines()
        return [
            call
            for call in map(json.loads, lines)
            if call["program"] == program and call["arguments"][: len(words)] == list(words)
        ]

    def kind(self) -> tuple[list[str], dict[str, Any]]:
        """Arguments and configuration with which kind created the cluster."""
        [call] = self.calls("kind", "create")
        return call["arguments"], json.loads(call["stdin"])

    def bases(self) -> set[str]:
        """The base images of the images that were built."""
        arguments = [each for call in self.calls("docker", "build") for each in call["arguments"]]
        return {each.removeprefix("--build-arg=BASE=") for each in arguments if each.startswith("--build-arg=BASE=")}


class Registry(BaseHTTPRequestHandler):
    """A registry with images that differ only in their names."""

    images = Images()

    def do_GET(self) -> None:
        body = self.images.manifest if "/manifests/" in self.path else ""
        found = body is not None and self.path.split("/")[-1] != self.images.missing
        self.send_response(200 if found else 404)
        self.end_headers()
        if found and self.command == "GET":
            self.wfile.write((body or "").encode())

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


@contextmanager
def create_machine(folder: Path) -> Iterator[Machine]:
    (folder / "basics").mkdir()
    for name in BASICS:
        (folder / "basics" / name).symlink_to(str(shutil.which(name)))
    for name in PROGRAMS:
        (folder / name).write_text(STAND_IN.read_text().replace("/usr/bin/env python3", f"{sys.executable} -SE"))
        (folder / name).chmod(0o755)
    images = Images()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnRegistry", (Registry,), {"images": images}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    machine = Machine(folder, f"localhost:{server.server_port}", images)
    machine.answer()
    yield machine
    server.shutdown()
