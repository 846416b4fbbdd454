"""The CRD of an earlier API version in a development cluster."""

import pytest

from hack.devenv.leftovers import MANIFEST, removed_versions

TWO = "spec:\n  versions:\n  - name: v1alpha1\n    served: true\n  - name: v1beta1\n"


@pytest.mark.parametrize(
    ("stored", "removed"),
    [([], []), (["v1beta1"], []), (["v1alpha1", "v1beta1"], []), (["v1alpha0", "v1beta1"], ["v1alpha0"])],
)
def test_removed_versions_are_stored_and_not_defined(stored, removed):
    """Versions that the manifest still has are not removed."""
    assert removed_versions(stored, TWO) == removed


def test_removed_versions_reads_generated_manifest():
    """The manifest has one version; any other was removed."""
    assert removed_versions(["v1alpha1", "v1alpha2"], MANIFEST.read_text()) == ["v1alpha1"]
