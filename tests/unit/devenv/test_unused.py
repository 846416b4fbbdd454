"""What earlier builds left in containerd, in the registry and in Docker."""

import hashlib
import json
from typing import Any

import pytest

from hack.devenv.places import REGISTRY
from hack.devenv.unused import contents, outdated, references_in, stages, unreferenced

LISTING = """\
REF TYPE DIGEST SIZE PLATFORMS LABELS
localhost:5001/resnext-operator:new application/vnd sha256:aa 1 MiB linux/amd64 -
localhost:5001/resnext-operator@sha256:aa application/vnd sha256:aa 1 MiB linux/amd64 -
localhost:5001/resnext-operator:old application/vnd sha256:bb 1 MiB linux/amd64 -
localhost:5001/resnext-operator@sha256:bb application/vnd sha256:bb 1 MiB linux/amd64 -
registry.k8s.io/pause:3.10 application/vnd sha256:cc 1 MiB linux/amd64 -
sha256:11 application/vnd sha256:aa 1 MiB linux/amd64 -
sha256:22 application/vnd sha256:bb 1 MiB linux/amd64 -
sha256:33 application/vnd sha256:cc 1 MiB linux/amd64 -
sha256:44 application/vnd sha256:dd 1 MiB linux/amd64 -
"""
NEW, OLD = "localhost:5001/resnext-operator:new", "localhost:5001/resnext-operator:old"


class TestOutdated:
    def test_outdated_keeps_current_and_foreign_images(self):
        """Every name of an earlier build is removed, including names by digest and by image ID."""
        assert outdated(LISTING, [NEW]) == [OLD, "localhost:5001/resnext-operator@sha256:bb", "sha256:22", "sha256:44"]

    @pytest.mark.parametrize("used", [OLD, "localhost:5001/resnext-operator@sha256:bb"])
    def test_outdated_keeps_all_names_of_used_digest(self, used):
        """An image that a pod uses, by tag or by digest, keeps its names, so that its containers can restart."""
        assert outdated(LISTING, [NEW, used]) == ["sha256:44"]

    def test_outdated_keeps_moved_tag(self):
        """Two tags of the same image: the current one keeps the image, and names that cost nothing stay."""
        moved = LISTING.replace("resnext-operator:old application/vnd sha256:bb", "resnext-operator:old x sha256:aa")
        assert OLD not in outdated(moved, [NEW])


def pod(phase: str | None, image: str, **fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"image": image, **fields}]}, "status": {"phase": phase} if phase else {}}


class TestReferencesIn:
    @pytest.mark.parametrize("phase", ["Running", "Pending", "Unknown", "Restarting", "Suspended", None])
    def test_references_include_unfinished_objects(self, phase):
        """Pods and trainings that may start containers again, and Deployments, which have no phase."""
        assert references_in([pod(phase, f"{REGISTRY}/resnext-trainer-cpu:0a")]) == {
            f"{REGISTRY}/resnext-trainer-cpu:0a"
        }

    @pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
    def test_references_exclude_finished_objects(self, phase):
        """A finished training would otherwise keep its image until someone deletes it."""
        assert references_in([pod(phase, f"{REGISTRY}/resnext-trainer-cpu:0a")]) == set()

    def test_references_include_environment_and_digests(self):
        """The operator's default image is an environment variable; the status has the image by digest."""
        digest = f"{REGISTRY}/resnext-operator@sha256:{'0a' * 32}"
        objects = pod("Running", digest, env=[{"name": "RESNEXT_IMAGE", "value": f"{REGISTRY}/resnext-trainer-cpu:1b"}])
        assert references_in([objects]) == {digest, f"{REGISTRY}/resnext-trainer-cpu:1b"}

    def test_references_exclude_foreign_images(self):
        """Images of other projects and registries are not deleted, so they need not be kept."""
        assert references_in([pod("Running", "registry.k8s.io/pause:3.10"), {}]) == set()


def name(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def image(*layers: str) -> str:
    """The manifest of an image with these layers."""
    return json.dumps({"config": {"digest": name("config")}, "layers": [{"digest": name(each)} for each in layers]})


def index(*manifests: str) -> str:
    return json.dumps({"manifests": [{"digest": name(each)} for each in manifests]})


def read(*manifests: str):
    """A registry with these manifests."""
    return {name(each): each.encode() for each in manifests}.get


class TestContents:
    def test_contents_of_image_are_config_and_layers(self):
        """The manifest itself is a file in the official registry."""
        found = contents(image("a", "b").encode(), read())
        assert found.manifests == {name(image("a", "b"))}
        assert found.blobs == {name("config"), name("a"), name("b")}

    def test_contents_of_index_include_its_images(self):
        """Docker's containerd image store pushes an index with an image and its attestation."""
        first, second = image("a"), image("b")
        found = contents(index(first, second).encode(), read(first, second))
        assert found.manifests == {name(index(first, second)), name(first), name(second)}
        assert found.blobs == {name("config"), name("a"), name("b")}

    def test_contents_of_index_skip_missing_image(self):
        """An index may name platforms that were not pushed."""
        found = contents(index(image("a"), image("b")).encode(), read(image("a")))
        assert found.blobs == {name("config"), name("a")}

    @pytest.mark.parametrize("manifest", ['{"layers": null}', '{"manifests": null}', "{}"])
    def test_contents_of_empty_manifest_have_no_blobs(self, manifest):
        """Fields may be missing or null."""
        assert contents(manifest.encode(), read()).blobs == frozenset()


def crane(digest: str) -> str:
    return f"./{digest.replace(':', '/')}"


def crane_in_other_versions(digest: str) -> str:
    return f"./{digest}"


def official(digest: str) -> str:
    value = digest.removeprefix("sha256:")
    return f"./docker/registry/v2/blobs/sha256/{value[:2]}/{value}/data"


def link(digest: str) -> str:
    value = digest.removeprefix("sha256:")
    return f"./docker/registry/v2/repositories/resnext-operator/_layers/sha256/{value}/link"


def tag(digest: str) -> str:
    value = digest.removeprefix("sha256:")
    return f"./docker/registry/v2/repositories/resnext-operator/_manifests/tags/old/index/sha256/{value}/link"


class TestUnreferenced:
    @pytest.mark.parametrize("path", [crane, crane_in_other_versions, official, link, tag])
    def test_unreferenced_keeps_shared_layers(self, path):
        """A layer of an earlier image that a kept image also has is kept; other layers are not."""
        earlier, current = image("debian", "old"), image("debian", "new")
        kept = contents(current.encode(), read())
        files = [path(name(each)) for each in ("debian", "old", "new", "config", earlier, current)]
        assert unreferenced(files, kept.manifests | kept.blobs) == [path(name("old")), path(name(earlier))]

    def test_unreferenced_keeps_images_of_all_references(self):
        """An image that a running container uses is kept next to the current one."""
        digests = set().union(*(contents(each.encode(), read()).blobs for each in (image("used"), image("new"))))
        files = [crane(name(each)) for each in ("used", "new", "old")]
        assert unreferenced(files, digests) == [crane(name("old"))]

    def test_unreferenced_ignores_missing_files(self):
        """A digest without a file causes no deletion; the next push uploads the blob."""
        assert unreferenced([crane(name("a"))], {name("a"), name("missing")}) == []

    @pytest.mark.parametrize(
        "file",
        [
            "./upload-1234",
            "./docker/registry/v2/repositories/resnext-operator/_manifests/tags/old/current/link",
            "./docker/registry/v2/repositories/resnext-operator/_uploads/0a/hashstates/sha256/0",
            f"./sha512:{'0a' * 64}",
            f"./{'0a' * 32}",
        ],
    )
    def test_unreferenced_keeps_files_without_digest(self, file):
        """Uploads in progress and whatever else a registry stores."""
        assert unreferenced([file], set()) == []


class TestStages:
    LOG = """\
+ docker build --tag localhost:5001/resnext-operator:0a .
Step 1/3 : FROM debian AS wheels
 ---> 4ee8574e5260
Step 2/3 : RUN true
 ---> Using cache
 ---> 64f9c3f7e92a
Step 3/3 : RUN false
 ---> Running in 5d1ec2378971
Removing intermediate container 5d1ec2378971
 ---> 2cea132d8630
Successfully built 2cea132d8630
"""

    def test_stages_are_created_and_reused_images(self):
        """Containers are not images."""
        assert stages(self.LOG) == {"4ee8574e5260", "64f9c3f7e92a", "2cea132d8630"}

    @pytest.mark.parametrize("log", ["", "#5 [2/3] RUN true\n#5 CACHED\n#7 writing image sha256:2cea132d8630 done\n"])
    def test_stages_of_buildkit_are_empty(self, log):
        """BuildKit leaves no untagged images; it deletes its own cache."""
        assert stages(log) == set()
