"""The Python programs that the Makefile calls."""

import re
import subprocess
import sys

import pytest

from tests.support.code_blocks import ROOT

PROGRAMS = sorted(set(re.findall(r"\$\(BIN\)/python (-m \S+|\S+\.py)", (ROOT / "Makefile").read_text())))


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_of_makefile_finds_its_imports(program: str) -> None:
    """In a directory without the repository on the path, a script finds only the modules next to it."""
    kind, _, module = program.rpartition(" ")
    if kind:
        code = f"import runpy; runpy.run_module({module!r}, run_name='imported')"
    else:
        code = f"import runpy, sys; sys.path[0] = 'hack'; runpy.run_path({program!r}, run_name='imported')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_makefile_calls_programs() -> None:
    """Otherwise the test above checks nothing."""
    assert {"-m hack.demo", "-m hack.codegen", "-m benchmarks"} <= set(PROGRAMS)
