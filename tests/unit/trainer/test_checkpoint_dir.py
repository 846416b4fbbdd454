"""Check of the checkpoint directory before the first step: unwritable directories are rejected with a remedy."""

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from resnext_trainer.checkpoint import directory
from resnext_trainer.checkpoint.directory import ROOT, SUB_PATH
from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError

OTHER = 65534
"""User ID that owns no files here."""

PREPARE = """
import os, sys
from resnext_trainer.checkpoint import directory as checkpoint_dir
from resnext_trainer.errors import TrainingError
uid, path, root = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
os.umask(0o077)
if uid != os.geteuid():
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
try:
    checkpoint_dir.prepare(path, {checkpoint_dir.ROOT: root[0]} if root else {})
except TrainingError as refused:
    sys.exit(f"{refused.verdict.name} {refused.message}")
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners, users and mounts")


def prepared(path: Path, root: Path | None = None, uid: int | None = None) -> str:
    """Exit status and message of the check in a process of this user; empty if it succeeds."""
    user = os.geteuid() if uid is None else uid
    command = [sys.executable, "-c", PREPARE, str(user), str(path), *([str(root)] if root else [])]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip()


@pytest.fixture
def claim() -> Iterator[Path]:
    """Root of a claim below directories that every user may enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        root = Path(folder, "claim")
        root.mkdir()
        root.chmod(0o755)
        yield root


@contextmanager
def mounted(*command: str | Path) -> Iterator[None]:
    """Mounts a file system for the duration of the block; skips the test if mounting is not permitted."""
    try:
        subprocess.run(["mount", *command], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no mounts here: {error}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", command[-1]], check=True)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("in_cluster", [True, False])
def test_checkpoint_dir_missing_is_created_and_empty(claim, in_cluster):
    """In a claim each component gets mode 0770 whatever the umask is; the write test leaves no file."""
    path = claim / "runs" / "a"
    assert prepared(path, claim if in_cluster else None) == ""
    assert not list(path.iterdir())
    if in_cluster:
        assert [mode(path), mode(path.parent)] == [0o770, 0o770]


def test_checkpoint_dir_new_component_inherits_setgid(claim):
    """fsGroup works by the set-group-ID bit of the claim's root."""
    claim.chmod(0o2775)
    assert prepared(claim / "a", claim) == ""
    assert mode(claim / "a") == 0o2770


def test_checkpoint_dir_existing_keeps_mode_and_content(claim):
    """The directories of existing runs stay as they are."""
    (claim / "a").mkdir(0o755)
    (claim / "a" / "log.jsonl").write_text("kept")
    assert prepared(claim / "a", claim) == ""
    assert mode(claim / "a") == 0o755
    assert [each.name for each in (claim / "a").iterdir()] == ["log.jsonl"]


@as_root
@pytest.mark.parametrize("in_cluster", [True, False])
@pytest.mark.parametrize(("bits", "below"), [(0o755, ""), (0o770, ""), (0o700, ""), (0o755, "runs/a"), (0o750, "a")])
def test_checkpoint_dir_owned_by_root_rejected(claim, bits, below, in_cluster):
    """Administrators create such directories with mode 0755, the kubelet creates a subPath with 0770 or 0750."""
    claim.chmod(bits)
    message = prepared(claim / below, claim if in_cluster else None, OTHER)
    assert message.startswith("INVALID_CONFIGURATION ")
    assert (
        f"{claim} is not writable by uid {OTHER} (owner root, mode {bits:04o}): change the owner or set "
        "securityContext.fsGroup on the volume"
    ) in message


@as_root
def test_checkpoint_dir_root_sub_path_in_own_claim_rejected(claim):
    """A subPath that the kubelet created for an earlier operator version is still owned by root."""
    os.chown(claim, OTHER, OTHER)
    (claim / "runs").mkdir(0o750)
    message = prepared(claim / "runs" / "a", claim, OTHER)
    assert f"{claim}/runs is not writable by uid {OTHER} (owner root, mode 0750)" in message


@as_root
def test_checkpoint_dir_search_only_parent_accepted(claim):
    """Traversing a directory needs search permission only, not read permission."""
    claim.chmod(0o711)
    (claim / "ours").mkdir()
    os.chown(claim / "ours", OTHER, OTHER)
    assert prepared(claim / "ours" / "a", claim, OTHER) == ""


@as_root
def test_checkpoint_dir_unreadable_rejected(claim):
    """Restoring lists the directory, so it must be readable."""
    claim.chmod(0o733)
    assert f"{claim} is not readable by uid {OTHER} (owner root, mode 0733)" in prepared(claim, claim, OTHER)


@as_root
@pytest.mark.parametrize("below", ["", "runs/a"])
def test_checkpoint_dir_read_only_mount_rejected(claim, below):
    """Root may write everywhere except on a read-only mount."""
    with mounted("--bind", "-o", "ro", claim, claim):
        message = prepared(claim / below, claim)
    assert message.startswith(f"INVALID_CONFIGURATION {claim} is not writable (owner root, mode 0755): Read-only file")
    assert message.endswith("mount the volume read-write")


@as_root
def test_checkpoint_dir_full_volume_is_retryable(claim):
    """A full volume may have space at the next attempt; the configuration is not rejected."""
    with mounted("-t", "tmpfs", "-o", "size=4k,mode=0777", "none", claim):
        (claim / "filler").write_bytes(b"x" * 4096)
        message = prepared(claim, claim)
        assert sorted(each.name for each in claim.iterdir()) == ["filler"]
    assert message.startswith(f"CHECKPOINT_NOT_SAVED {claim} is not writable")
    assert "No space left on device: free space on the volume, or enlarge it" in message


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENOMEM])
def test_checkpoint_dir_transient_errno_is_system_error(claim, monkeypatch, number):
    """Errors of storage and limits are retried; the configuration is not rejected."""

    def failing(*_arguments, **_named):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(TrainingError, match=os.strerror(number)) as caught:
        directory.prepare(str(claim), {ROOT: str(claim)})
    assert caught.value.verdict is ExitStatus.SYSTEM_ERROR
    assert not list(claim.iterdir())


@pytest.mark.parametrize("below", ["file", "file/below"])
@pytest.mark.parametrize("in_cluster", [True, False])
def test_checkpoint_dir_file_in_path_rejected(claim, below, in_cluster):
    """The message names the file and its owner, whether it is the directory itself or a parent."""
    (claim / "file").write_text("")
    message = prepared(claim / below, claim if in_cluster else None)
    assert message.startswith(f"INVALID_CONFIGURATION {claim}/file is a file, not a directory (owner ")
    assert "remove it, or set checkpoints.subPath" in message


@pytest.mark.parametrize("target", ["/tmp", ".", "nowhere", "inside"])
@pytest.mark.parametrize("below", ["link", "link/a"])
def test_checkpoint_dir_symlink_in_claim_rejected(claim, target, below):
    """Covers links inside the claim and broken links, whose target can be changed at any time."""
    (claim / "inside").mkdir()
    (claim / "link").symlink_to(target)
    message = prepared(claim / below, claim)
    assert message.startswith(f"INVALID_CONFIGURATION {claim}/link is a symbolic link to {target} (owner ")
    assert not (claim / "inside" / "a").exists()


def test_checkpoint_dir_symlink_outside_cluster_accepted(claim):
    """Outside a cluster, a link to a larger disk is common."""
    (claim / "disk").mkdir()
    (claim / "link").symlink_to("disk")
    assert prepared(claim / "link" / "a") == ""
    assert (claim / "disk" / "a").is_dir()


@pytest.mark.parametrize("path", ["../elsewhere", "a/../../elsewhere", "a/..", ".."])
def test_checkpoint_dir_dotdot_in_claim_rejected(claim, path):
    """`..` is rejected even where it leads back into the claim."""
    message = prepared(claim / path, claim)
    assert message.startswith("INVALID_CONFIGURATION ")
    assert "may lead outside the checkpoint volume" in message
    assert not (claim.parent / "elsewhere").exists()


@pytest.mark.parametrize("path", ["/tmp/ck", "ck", "/", "/checkpoints-2", "/check"])
def test_checkpoint_dir_outside_claim_rejected(path):
    """In a cluster a directory outside the claim would be lost with the pod."""
    with pytest.raises(
        TrainingError, match=r"is outside the checkpoint volume, which is mounted at /checkpoints"
    ) as caught:
        directory.prepare(path, {ROOT: "/checkpoints"})
    assert caught.value.verdict is ExitStatus.INVALID_CONFIGURATION


def test_checkpoint_dir_missing_claim_root_rejected(claim):
    """A missing root means that the pod lacks the mount of its claim."""
    message = prepared(claim / "no" / "a", claim / "no")
    assert message.startswith(f"INVALID_CONFIGURATION {claim}/no is not writable: No such file or directory")


def test_checkpoint_dir_name_too_long_rejected(claim):
    """No file system accepts a component of more than 255 bytes."""
    message = prepared(claim / ("n" * 300), claim)
    assert message.startswith("INVALID_CONFIGURATION ")
    assert "File name too long: use a shorter path" in message


@pytest.mark.parametrize(
    ("path", "sub_path", "seen"),
    [
        ("/checkpoints", "runs/a", "/checkpoints/runs/a"),
        ("/checkpoints/", "runs//a/", "/checkpoints/runs/a"),
        ("/checkpoints/b", "runs/a", "/checkpoints/runs/a/b"),
        ("/checkpoints/b", "", "/checkpoints/b"),
        ("/checkpoints", ".", "/checkpoints"),
        ("/elsewhere/b", "runs/a", "/elsewhere/b"),
        ("/checkpoints2", "runs/a", "/checkpoints2"),
    ],
)
def test_located_path_same_as_with_kubelet_sub_path(path, sub_path, seen):
    """Paths resolve as when the kubelet mounted the subPath at /checkpoints: existing runs keep their place."""
    config = resolve({"checkpoint": {"path": path}, "initialCheckpoint": path})
    found = directory.located(config, {ROOT: "/checkpoints", SUB_PATH: sub_path})
    assert (found.checkpoint.path, found.initial_checkpoint) == (seen, seen)


def test_located_path_outside_cluster_unchanged():
    """Without the variables of a pod only the configuration counts."""
    config = resolve({"checkpoint": {"path": "/checkpoints"}})
    assert directory.located(config, {SUB_PATH: "runs/a"}) == config


def test_owner_and_mode_missing_file_reports_parent(claim):
    """A file that cannot be created is a fault of the directory that would contain it."""
    claim.chmod(0o750)
    facts = directory.owner_and_mode(str(claim / "runs" / "lock"))
    assert facts.startswith(f"{claim} has owner ")
    assert facts.endswith(", mode 0750")
    assert directory.owner_and_mode(str(claim)).startswith("owner ")
