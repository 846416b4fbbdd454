"""Compiles the reader into a shared library that ctypes loads; it is not an extension module of Python."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "resnext_native.record_reader",
            ["record_reader.c"],
            extra_compile_args=["-std=c11", "-D_DEFAULT_SOURCE", "-O3", "-Wall", "-Wextra", "-Werror"],
        )
    ]
)
