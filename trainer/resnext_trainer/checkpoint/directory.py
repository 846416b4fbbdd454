"""The checkpoint directory: its path, and a write test on rank 0 before the first step.

In a cluster, worker 0 mounts the whole claim. The directory is opened component by component without following symbolic
links, so that no name in the claim leads outside it. Outside a cluster `checkpoint.path` is used unchanged.
"""

import errno
import os
import pwd
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError

ROOT = "RESNEXT_CHECKPOINT_ROOT"
"""Environment variable with the mount path of the claim; unset outside a cluster."""

SUB_PATH = "RESNEXT_CHECKPOINT_SUB_PATH"
"""Environment variable with the directory in the claim to which `checkpoint.path` is relative.

It is part of the pod, not of the configuration: the ConfigMap is created once, and a later version of the operator,
which mounts the claim differently, may recreate the pods.
"""

_MODE = 0o770

# O_PATH (Linux): traversing a directory requires no read permission.
_PASSED: int = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# Errors that a retry cannot resolve: the directory, its owner, its mount or the path must be changed.
_PERMANENT = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.EEXIST, errno.EISDIR),
    *(errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EXDEV, errno.EOPNOTSUPP),
)

_REMEDY = {
    errno.EROFS: "mount the volume read-write",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ENOSPC: "free space on the volume, or enlarge it",
    errno.EDQUOT: "free space on the volume, or raise the quota",
}
_OWNER_REMEDY = "change the owner or set securityContext.fsGroup on the volume"
_ELSEWHERE = "set checkpoints.subPath or training.checkpoint.path to another directory"
_OTHER_PATH = f"remove it, or {_ELSEWHERE}"


def located(config: Training, environment: Mapping[str, str]) -> Training:
    """The configuration with checkpoint paths for this pod: paths in the claim are moved below the sub-path."""
    root, sub_path = environment.get(ROOT), environment.get(SUB_PATH, "")
    if not root or not sub_path:
        return config

    def moved(path: str) -> str:
        below = _below(path, root)
        return path if below is None else str(PurePosixPath(root, *_parts(sub_path), *below))

    checkpoint = config.checkpoint.model_copy(update={"path": moved(config.checkpoint.path)})
    initial = config.initial_checkpoint and moved(config.initial_checkpoint)
    return config.model_copy(update={"checkpoint": checkpoint, "initial_checkpoint": initial})


def prepare(path: str, environment: Mapping[str, str]) -> None:
    """Creates the directory if it does not exist and tests that checkpoints can be written there.

    Raises TrainingError: INVALID_CONFIGURATION with owner, mode and remedy for permanent errors; for errors that may be
    transient CHECKPOINT_NOT_SAVED (full disk) or SYSTEM_ERROR (such as an I/O error or a stale mount).
    """
    root = environment.get(ROOT)
    directory = _created(path) if root is None else _opened(path, root)
    try:
        _test(directory, path)
    finally:
        os.close(directory)


def owner_and_mode(path: str) -> str:
    """Owner and mode of a path or, if it does not exist, of its nearest existing parent directory."""
    nearest = _nearest(path)
    try:
        facts = _owner_and_mode(Path(nearest).stat())
    except OSError as error:
        return f"{nearest}: {error.strerror}"
    return facts if nearest == path else f"{nearest} has {facts}"


def _created(path: str) -> int:
    """Creates and opens a directory outside a cluster."""
    nearest = _nearest(path)
    with _refusing(nearest, nearest):
        Path(path).mkdir(parents=True, exist_ok=True)
    with _refusing(path, path):
        here = os.open(path, _PASSED)
    try:
        return _readable(here, path)
    finally:
        os.close(here)


def _opened(path: str, root: str) -> int:
    """Creates and opens a directory in the claim; each component is opened relative to its parent."""
    components = _components(path, root)
    where = root
    with _refusing(root, root):
        here = os.open(root, _PASSED)
    try:
        for name in components:
            with _refusing(where, here):
                above, here = here, _entered(here, name, where)
            os.close(above)
            where = _join(where, name)
        return _readable(here, where)
    finally:
        os.close(here)


def _readable(passed: int, path: str) -> int:
    """Opens the same directory for reading, which listing checkpoints requires."""
    able = "readable" if os.access(".", os.W_OK, dir_fd=passed) else "writable"
    with _refusing(path, passed, able):
        return os.open(".", _READ, dir_fd=passed)


def _entered(parent: int, name: str, where: str) -> int:
    """Opens a subdirectory, which is created if it does not exist. Symbolic links are not followed."""
    with suppress(FileNotFoundError):
        return _directory(parent, name, where)
    # Another process may create it at the same time.
    with suppress(FileExistsError):
        os.mkdir(name, _MODE, dir_fd=parent)
        _share(parent, name)
    return _directory(parent, name, where)


def _directory(parent: int, name: str, where: str) -> int:
    try:
        return os.open(name, _PASSED | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        path, facts = _join(where, name), _owner_and_mode(found)
        if not stat.S_ISLNK(found.st_mode):
            raise _refused(f"{path} is a file, not a directory ({facts}): {_OTHER_PATH}") from None
        target = os.readlink(name, dir_fd=parent)
        raise _refused(
            f"{path} is a symbolic link to {target} ({facts}), which may lead outside the checkpoint volume: "
            f"{_OTHER_PATH}"
        ) from None


def _share(parent: int, name: str) -> None:
    """Sets the mode of a new directory regardless of the umask, and keeps an inherited set-group-ID bit."""
    # Some network file systems do not support modes.
    with suppress(OSError):
        created = os.open(name, _READ | os.O_NOFOLLOW, dir_fd=parent)
        try:
            os.fchmod(created, stat.S_IMODE(os.fstat(created).st_mode) & ~0o777 | _MODE)
        finally:
            os.close(created)


def _test(directory: int, path: str) -> None:
    """Performs the operations of writing a checkpoint: creates, syncs, renames and removes a directory with a file."""
    aside = f".write-test-{secrets.token_hex(8)}"
    renamed = f"{aside}.renamed"
    with _refusing(path, directory):
        try:
            os.mkdir(aside, 0o700, dir_fd=directory)
            file = os.open(f"{aside}/file", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
            try:
                os.write(file, b"resnext")
                os.fsync(file)
            finally:
                os.close(file)
            os.rename(aside, renamed, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        except OSError:
            with suppress(OSError):
                _remove(aside, directory)
            with suppress(OSError):
                _remove(renamed, directory)
            raise
        _remove(renamed, directory)


def _remove(name: str, directory: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(f"{name}/file", dir_fd=directory)
    os.rmdir(name, dir_fd=directory)


def _components(path: str, root: str) -> tuple[str, ...]:
    """The components below the root of the claim. Raises TrainingError if the path is outside the claim."""
    below = _below(path, root)
    if below is None:
        raise _refused(
            f"spec.training.checkpoint.path: {path} is outside the checkpoint volume, which is mounted at {root}: set "
            f"it to {root} or a directory below it, or remove it"
        )
    if ".." in below:
        raise _refused(
            f"{path} contains '..', which may lead outside the checkpoint volume: remove it from checkpoints.subPath "
            "and training.checkpoint.path"
        )
    return below


def _join(where: str, name: str) -> str:
    return str(PurePosixPath(where, name))


def _below(path: str, root: str) -> tuple[str, ...] | None:
    """The components of a path below another path; None if it is not below."""
    parts, above = _parts(path), _parts(root)
    return parts[len(above) :] if path.startswith("/") and parts[: len(above)] == above else None


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))


@contextmanager
def _refusing(path: str, at: str | int, able: str = "writable") -> Iterator[None]:
    """Converts an OSError to a TrainingError about the directory `path`, whose owner and mode are read through `at`."""
    try:
        yield
    except OSError as error:
        raise _refusal(error, path, at, able) from None


def _refusal(error: OSError, path: str, at: str | int, able: str) -> TrainingError:
    try:
        found = os.stat(at)  # noqa: PTH116  # a path or a descriptor
    except OSError:
        facts = ""
    else:
        facts = f" ({_owner_and_mode(found)})"
        if not stat.S_ISDIR(found.st_mode):
            return _refused(f"{path} is a file, not a directory{facts}: {_OTHER_PATH}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return _refused(f"{path} is not {able} by uid {os.geteuid()}{facts}: {_OWNER_REMEDY}")
    permanent, full = error.errno in _PERMANENT, error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = _REMEDY.get(error.errno or 0, _ELSEWHERE if permanent else "check the volume and its server")
    message = f"{path} is not {able}{facts}: {error.strerror}: {remedy}"
    if permanent:
        return _refused(message)
    return TrainingError(ExitStatus.CHECKPOINT_NOT_SAVED if full else ExitStatus.SYSTEM_ERROR, message)


def _owner_and_mode(found: os.stat_result) -> str:
    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = f"uid {found.st_uid}"
    return f"owner {owner}, mode {stat.S_IMODE(found.st_mode):04o}"


def _nearest(path: str) -> str:
    """The path, or its nearest existing parent directory, whose owner determines whether the rest can be created."""
    nearest = Path(path).absolute()
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    return str(nearest)


def _refused(message: str) -> TrainingError:
    return TrainingError(ExitStatus.INVALID_CONFIGURATION, message)
