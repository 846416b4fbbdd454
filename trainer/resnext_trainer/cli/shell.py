"""Shell behavior of both programs: standard streams that are closed, full or no longer read, and missing packages."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

FAILED, INTERRUPTED, NO_READER = 1, 130, 141
"""Exit codes; the last two are the codes that a shell reports for SIGINT and SIGPIPE."""

_EXTRAS = {
    **dict.fromkeys(("tensorflow", "google_crc32c", "numpy", "PIL", "sklearn"), "trainer"),
    **dict.fromkeys(("tf2onnx", "onnxruntime", "onnx"), "onnx"),
    **dict.fromkeys(("aiohttp", "cryptography", "kopf", "kubernetes"), "operator"),
}
_NAMES = {"tensorflow": "TensorFlow", "PIL": "Pillow", "sklearn": "scikit-learn", "google_crc32c": "google-crc32c"}


class OutputLost(Exception):
    """Standard output cannot be written: its reader has closed it, or its disk is full."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror}")
        self.no_reader = isinstance(error, BrokenPipeError)


def guarded(program: str, run: Callable[[], int]) -> int:
    """Runs a command and returns its exit code; failures of standard streams cause a one-line message at most."""
    if sys.stdin is None:
        # Write-only, so that reading it raises an error instead of returning an empty text.
        os.open(os.devnull, os.O_WRONLY)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        print(f"{program}: standard output is closed: open it, for example with >/dev/null", file=sys.stderr)
        return FAILED
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        sys.stdout = _Output(sys.stdout)
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()
    except OutputLost as lost:
        # Python flushes standard output again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if lost.no_reader:
            return NO_READER
        print(f"{program}: {lost}", file=sys.stderr)
        return FAILED
    except ModuleNotFoundError as error:
        if not (sentence := missing_package(error)):
            raise
        print(f"{program}: {sentence}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def missing_package(error: ModuleNotFoundError) -> str:
    """Message with the package to install; empty for a module that belongs to no extra."""
    package = (error.name or "").partition(".")[0]
    if not (extra := _EXTRAS.get(package)):
        return ""
    gpus = ", or on NVIDIA GPUs 'resnext-operator[trainer-cuda]'" if extra == "trainer" else ""
    return f"{_NAMES.get(package, package)} is not installed: pip install 'resnext-operator[{extra}]'{gpus}"


class _Output(io.TextIOWrapper):
    """Standard output that raises OutputLost, to distinguish its errors from those of other files."""

    def __init__(self, stdout: io.TextIOWrapper) -> None:
        super().__init__(
            stdout.buffer,
            encoding=stdout.encoding,
            errors=stdout.errors,
            line_buffering=stdout.line_buffering,
            write_through=stdout.write_through,
        )

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise OutputLost(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise OutputLost(error) from None
