"""Decodes whole JPEGs with libjpeg-turbo only: an upper bound of the machine's decoding speed.

    libjpeg_baseline.py FOLDER [--seconds S]

ctypes releases the GIL during a call, which takes about 1 ms, so one thread per core keeps all cores busy.
"""

import argparse
import ctypes
import itertools
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_TJPF_RGB = 0


def load() -> ctypes.CDLL:
    library = ctypes.CDLL("libturbojpeg.so.0")
    library.tjInitDecompress.restype = ctypes.c_void_p
    library.tjDecompressHeader3.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_ulong,
        *[ctypes.POINTER(ctypes.c_int)] * 4,
    ]
    library.tjDecompress2.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        *[ctypes.c_int] * 5,
    ]
    return library


def decode_until(library: ctypes.CDLL, jpegs: list[bytes], first: int, end: threading.Event) -> int:
    """Decode images until `end` is set; returns their number."""
    handle = library.tjInitDecompress()
    numbers = [ctypes.c_int() for _ in range(4)]
    for done, number in enumerate(itertools.count(first)):
        if end.is_set():
            return done
        jpeg = jpegs[number % len(jpegs)]
        if library.tjDecompressHeader3(handle, jpeg, len(jpeg), *[ctypes.byref(number) for number in numbers]):
            raise ValueError(f"image {number % len(jpegs)} has no header")
        width, height = numbers[0].value, numbers[1].value
        picture = np.empty((height, width, 3), np.uint8)
        if library.tjDecompress2(handle, jpeg, len(jpeg), picture.ctypes.data, width, 0, height, _TJPF_RGB, 0):
            raise ValueError(f"image {number % len(jpegs)} does not decode")
    raise AssertionError("unreachable")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    jpegs = [file.read_bytes() for file in sorted(options.folder.iterdir())]
    library, cores, end = load(), len(os.sched_getaffinity(0)), threading.Event()
    with ThreadPoolExecutor(cores) as pool:
        started = time.perf_counter()
        work = [pool.submit(decode_until, library, jpegs, core * 97, end) for core in range(cores)]
        time.sleep(options.seconds)
        end.set()
        images = sum(each.result() for each in work)
        seconds = time.perf_counter() - started
    json.dump({"imagesPerSecond": images / seconds, "images": images, "threads": cores}, sys.stdout)


if __name__ == "__main__":
    main()
