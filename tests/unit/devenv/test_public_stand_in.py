"""The local registry that stands in for the public ones."""

import json
import subprocess

import pytest
import yaml

from hack.devenv import public, shell
from hack.devenv.nodes import PODS
from hack.devenv.offline import network, public_stand_in
from hack.devenv.offline.node import TAGS
from hack.devenv.offline.public_stand_in import KINDNET, SOURCES, hosts, images, repository, with_mirror
from hack.devenv.offline.source import OFFLINE
from tests.support.stand_in_machine import create_machine


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("debian:bookworm-slim", "library/debian:bookworm-slim"),
        ("kindest/node:v1.34.8", "kindest/node:v1.34.8"),
        ("registry.k8s.io/pause:3.10", "pause:3.10"),
        ("registry.k8s.io/coredns/coredns:v1.12.1", "coredns/coredns:v1.12.1"),
    ],
)
def test_repository_is_that_of_mirror(image, name):
    """Docker asks a mirror for `library/debian` if the user names `debian`; containerd omits the registry's name."""
    assert repository(image) == name


def test_every_image_of_normal_path_is_served():
    """The stand-in serves the images that the normal path pulls and those that only the nodes pull."""
    assert {public.DEBIAN, public.NODE, public.REGISTRY, KINDNET} <= set(images())


def test_mirror_is_added_to_engine_configuration():
    """Other settings are kept; an engine without configuration gets one."""
    kept = with_mirror('{"log-driver": "local", "registry-mirrors": ["http://other"]}')
    assert json.loads(kept) == {"log-driver": "local", "registry-mirrors": ["http://localhost:5002"]}
    assert json.loads(with_mirror("")) == {"registry-mirrors": ["http://localhost:5002"]}


def test_nodes_pull_from_container_in_their_network():
    """The nodes use the registry's address, because `localhost` would be the node itself."""
    assert f'[host."http://{public_stand_in.NAME}:5001"]' in hosts()


def test_manifest_runs_kindnet_on_every_node():
    """kind applies it as it is; its image is one that the nodes pull."""
    documents = {each["kind"]: each for each in yaml.safe_load_all((SOURCES / "default-cni.yaml").read_text())}
    pod = documents["DaemonSet"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"docker.io/{KINDNET}"
    assert pod["hostNetwork"]
    assert documents["ClusterRoleBinding"]["subjects"][0]["name"] == pod["serviceAccountName"]


def test_kindnet_writes_conflist_of_fallback():
    """The configuration has the plugins and settings of hack/devenv/offline/network.py; only the name differs."""
    script = (SOURCES / "kindnet").read_text()
    assert f"pods={PODS}\n" in script
    start, end = script.index('{"cniVersion"'), script.index("\nEND")
    written = json.loads(script[start:end].replace("$own", "10.244.1.0/24"))
    assert written == {**network.conflist("10.244.1.0/24"), "name": "kindnet"}


def test_start_serves_and_stop_restores(tmp_path, monkeypatch):
    """Images are pushed under official names, local copies of these are deleted, and Docker's settings are restored."""
    daemon = tmp_path / "daemon.json"
    daemon.write_text('{"log-driver": "local"}')
    reloads: list[bool] = []
    monkeypatch.setattr(public_stand_in, "reload", lambda mirrored: reloads.append(mirrored))
    for name, path in {"DAEMON": daemon, "SAVED": tmp_path / "saved", "DATA": tmp_path / "data"}.items():
        monkeypatch.setattr(public_stand_in, name, path)
    with create_machine(tmp_path) as machine:
        monkeypatch.setitem(shell.ENVIRONMENT, "PATH", f"{tmp_path}:{tmp_path / 'basics'}")
        for image in (OFFLINE.base, OFFLINE.node, OFFLINE.registry, TAGS["kube-proxy"], public.DEBIAN):
            shell.run("docker", "pull", image)
        public_stand_in.start(machine.cache)
        pushed = [call["arguments"][-1] for call in machine.calls("docker", "push")]
        assert "localhost:5002/library/debian:bookworm-slim" in pushed
        assert f"localhost:5002/{public.NODE}" in pushed
        assert machine.calls("docker", "image", "rm", public.DEBIAN)
        assert (machine.cache / "mirrors" / "docker.io" / "hosts.toml").is_file()
        assert "registry-mirrors" in daemon.read_text()
        public_stand_in.stop()
    assert daemon.read_text() == '{"log-driver": "local"}'
    assert reloads == [True, False]


def test_start_needs_images_of_fallback(tmp_path, monkeypatch):
    """The error names the command that builds them."""
    with create_machine(tmp_path):
        monkeypatch.setitem(shell.ENVIRONMENT, "PATH", f"{tmp_path}:{tmp_path / 'basics'}")
        with pytest.raises(shell.CommandFailed, match="RESNEXT_IMAGE_REGISTRY=no python3 hack/devenv cluster"):
            public_stand_in.build()


@pytest.mark.parametrize("name", ["kindnet", "prove"])
def test_scripts_parse(name):
    subprocess.run(["bash", "-n", SOURCES / name], check=True)
