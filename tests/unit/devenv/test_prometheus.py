"""Prometheus and promtool for the tests."""

from pathlib import Path

import pytest

from hack.devenv import apt, prometheus
from hack.devenv.shell import ENVIRONMENT, CommandFailed


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The setup's own directory, which is on PATH; no other directory of PATH has Prometheus."""
    folder = tmp_path / "bin"
    monkeypatch.setattr(prometheus, "BIN", folder)
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{folder}:/bin")
    return folder


def test_prometheus_is_unpacked_from_package(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both programs are copied from the package's files, and a second run unpacks nothing."""
    unpacked: list[str] = []

    def unpack(package: str, folder: Path) -> None:
        unpacked.append(package)
        (folder / "usr" / "bin").mkdir(parents=True)
        for name in prometheus.PROGRAMS:
            (folder / "usr" / "bin" / name).write_text("#!/bin/sh\n")

    monkeypatch.setattr(apt, "unpack", unpack)
    monkeypatch.setattr(prometheus, "missing", lambda: [n for n in prometheus.PROGRAMS if not (programs / n).exists()])
    for _ in range(2):
        prometheus.prometheus()
    assert unpacked == ["prometheus"]
    assert {file.name: file.stat().st_mode & 0o777 for file in programs.iterdir()} == dict.fromkeys(
        prometheus.PROGRAMS, 0o755
    )


@pytest.mark.usefixtures("programs")
def test_prometheus_without_apt_names_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """On another system, the message says what to install."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(CommandFailed, match="missing package: prometheus"):
        prometheus.prometheus()
