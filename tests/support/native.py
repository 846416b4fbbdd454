"""The record reader in C, compiled from the sources of the working tree."""

import ctypes
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from resnext_trainer.data.native_reader import NativeReader

SOURCE = Path(__file__).parents[2] / "trainer" / "native" / "record_reader.c"


@cache
def compiled() -> NativeReader:
    """The library, with the warnings and checks of the compiler that the wheel has."""
    with TemporaryDirectory() as folder:
        library = Path(folder, "record_reader.so")
        options = ["-std=c11", "-D_DEFAULT_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run(["cc", *options, SOURCE, "-o", library], check=True)
        return NativeReader(ctypes.CDLL(str(library)))
