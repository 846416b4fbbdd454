"""Images of earlier builds on the nodes of a development cluster."""

from hack.devenv.products import outdated

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


def test_outdated_keeps_current_and_foreign_images():
    """Every name of an earlier build is removed, including names by digest and by image ID."""
    assert outdated(LISTING, ["localhost:5001/resnext-operator:new"]) == [
        "localhost:5001/resnext-operator:old",
        "localhost:5001/resnext-operator@sha256:bb",
        "sha256:22",
        "sha256:44",
    ]
