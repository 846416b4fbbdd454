"""When the wheels of Horovod and DALI are installed again."""

from pathlib import Path

import pytest

from hack.devenv import wheels


@pytest.mark.parametrize(
    ("recorded", "versions_match", "expected"),
    [("1234", True, True), ("other", True, False), (None, True, False), ("1234", False, False)],
)
def test_wheels_installed_only_if_built_alike(tmp_path: Path, recorded, versions_match, expected):
    """The version alone does not show whether a patch in the build script has changed."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\nexit {0 if versions_match else 1}\n")
    python.chmod(0o755)
    if recorded:
        wheels.record_of(python).write_text(recorded)
    assert wheels.installed(python, Path("/cache/wheels/1234")) is expected
