"""Compiles shared libraries; they are not extension modules of Python."""

import platform

from setuptools import Extension, setup

FLAGS = ["-std=c11", "-D_DEFAULT_SOURCE", "-O3", "-Wall", "-Wextra", "-Werror"]
# TensorFlow's wheels already require newer instruction sets.
SSSE3 = ["-mssse3"] if platform.machine() == "x86_64" else []

setup(
    ext_modules=[
        Extension("resnext_native.record_reader", ["record_reader.c"], extra_compile_args=FLAGS),
        Extension(
            "resnext_native.image_decoder",
            ["image_decoder.c"],
            extra_compile_args=[*FLAGS, *SSSE3],
            # libjpeg-turbo becomes part of the library, with its symbols hidden: TensorFlow, DALI and Pillow bring
            # other versions of it.
            extra_link_args=["-l:libjpeg.a", "-Wl,--exclude-libs,ALL", "-lm", "-lpthread"],
        ),
        Extension("resnext_native.sleeping_yield", ["sleeping_yield.c"], extra_compile_args=FLAGS),
    ]
)
