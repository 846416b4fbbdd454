"""Deletion of what earlier builds left: with a model of Docker, and with stand-ins for all programs on PATH."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.devenv import cleanup, shell
from hack.devenv.shell import CommandFailed
from tests.support.stand_in_machine import Machine, create_machine

CHAIN = {"base": None, "wheels": "base", "old-code": "wheels", "old-build": "old-code", "new-code": "wheels"}
"""Untagged images of two builds and their parents. Docker lists only images without descendants as dangling."""


def identifier(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:12]


class Docker:
    """Docker's images: `docker image ls` and `docker image rm`, and the log of a build."""

    def __init__(self, parents: dict[str, str | None]) -> None:
        self.parents = {identifier(each): parent and identifier(parent) for each, parent in parents.items()}
        self.tagged = {identifier("base")}
        self.in_container: set[str] = set()
        self.log = ""

    def names(self) -> set[str]:
        return {each for each in CHAIN if identifier(each) in self.parents}

    def output(self, *command: str, **_: object) -> str:
        if "--all" in command:
            return "\n".join(self.parents)
        return "\n".join(self.parents.keys() - self.parents.values() - self.tagged)

    def run(self, *command: str, **_: object) -> None:
        assert command[:4] == ("docker", "image", "rm", "--no-prune")
        for each in command[4:]:
            if each in self.in_container:
                raise CommandFailed(f"{each} is used by a container")
            del self.parents[each]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    docker = Docker(CHAIN)
    monkeypatch.setattr(cleanup, "BUILDS", tmp_path / "builds")
    monkeypatch.setattr(cleanup, "output", docker.output)
    monkeypatch.setattr(cleanup, "run", docker.run)
    monkeypatch.setattr(shell, "logged", lambda: docker.log)
    return docker


def build(docker: Docker, product: str, *names: str, error: Exception | None = None) -> None:
    """Build an image in stages that create or reuse these images."""
    with cleanup.replacing_stages(product):
        docker.log = "".join(f" ---> {identifier(each)}\n" for each in names)
        if error is not None:
            raise error


class TestReplacingStages:
    def test_stages_of_earlier_build_are_deleted(self, docker):
        """An image becomes a leaf when its descendants are deleted; the wheels that both builds use stay."""
        build(docker, "operator", "base", "wheels", "old-code", "old-build")
        build(docker, "operator", "base", "wheels", "new-code")
        assert docker.names() == {"base", "wheels", "new-code"}

    def test_current_stage_below_earlier_one_is_kept(self, docker):
        """If the last instruction of a stage is removed, the images of the other instructions are still its cache."""
        build(docker, "operator", "base", "wheels", "old-code", "old-build")
        build(docker, "operator", "base", "wheels", "old-code")
        assert docker.names() == {*CHAIN} - {"old-build"}

    def test_stages_of_other_image_are_kept(self, docker):
        """The CPU and CUDA images of the trainer share stages."""
        build(docker, "trainer-cuda", "base", "wheels", "old-code", "old-build")
        build(docker, "trainer-cpu", "base", "wheels", "old-code", "old-build")
        build(docker, "trainer-cpu", "base", "wheels", "new-code")
        assert docker.names() == {*CHAIN}

    def test_images_of_unknown_origin_are_kept(self, docker):
        """Other projects have untagged images as well."""
        build(docker, "operator", "base", "wheels", "new-code")
        build(docker, "operator", "base", "wheels", "new-code")
        assert docker.names() == {*CHAIN}

    def test_failed_build_is_deleted_after_next_one(self, docker):
        """A failed build deletes nothing, because the next one may reuse its images."""
        with pytest.raises(CommandFailed):
            build(docker, "operator", "base", "wheels", "old-code", "old-build", error=CommandFailed("pip failed"))
        assert docker.names() == {*CHAIN}
        build(docker, "operator", "base", "wheels", "new-code")
        assert docker.names() == {"base", "wheels", "new-code"}

    def test_image_of_container_is_retried(self, docker, capsys):
        """Docker refuses to delete it: the build succeeds with a warning, and a later build deletes it."""
        docker.in_container = {identifier("old-build")}
        build(docker, "operator", "base", "wheels", "old-code", "old-build")
        build(docker, "operator", "base", "wheels", "new-code")
        assert "Warning: earlier untagged images were not deleted" in capsys.readouterr().err
        docker.in_container = set()
        build(docker, "operator", "base", "wheels", "new-code")
        assert docker.names() == {"base", "wheels", "new-code"}


MANIFEST = json.dumps({"config": {"digest": f"sha256:{'c' * 64}"}, "layers": [{"digest": f"sha256:{'d' * 64}"}]})
FILES = [f"./sha256:{letter * 64}" for letter in "abcd"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a cluster, and with images in its registry."""
    with create_machine(tmp_path_factory.mktemp("machine")) as machine:
        machine.images.manifest = MANIFEST
        machine.run("cluster", "images")
        yield machine


@pytest.fixture
def machine(installed: Machine) -> Machine:
    """The machine before its nodes pull the images again."""
    (installed.cache / "stamps" / "images").unlink(missing_ok=True)
    (installed.folder / "calls.jsonl").unlink()
    installed.images.manifest, installed.images.missing = MANIFEST, None
    installed.answer(files="\n".join(FILES))
    return installed


def deleted(machine: Machine) -> list[str]:
    """The files that were deleted in the registry's directory."""
    calls = [call for call in machine.calls("docker", "run") if "xargs" in call["arguments"]]
    return [name for call in calls for name in call["stdin"].split()]


class TestDeleteImages:
    def test_unused_blobs_are_deleted_in_registry(self, machine):
        """The layers of the current images stay."""
        assert "Warning" not in machine.run("images")
        assert deleted(machine) == FILES[:2]
        assert not machine.calls("docker", "push")

    def test_missing_blob_is_pushed_again(self, machine):
        """An image whose layers are incomplete does not count as present."""
        machine.images.missing = f"sha256:{'d' * 64}"
        machine.run("image-monitoring")
        assert len(machine.calls("docker", "push")) == 1

    @pytest.mark.parametrize("failing", ["kubectl * get pods,deployments", "docker run --rm", "docker exec * list"])
    def test_failed_cleanup_warns(self, machine, failing):
        """The images are usable, and nothing is deleted while it is unknown what is in use."""
        machine.answer(files="\n".join(FILES), failing=failing)
        printed = machine.run("images")
        assert "Warning: earlier images in the nodes and in the registry were not deleted" in printed
        assert deleted(machine) == []

    def test_missing_manifest_deletes_nothing(self, machine):
        """The layers of a current image are unknown without its manifest."""
        machine.images.manifest = None
        assert "Warning" in machine.run("images")
        assert deleted(machine) == []
