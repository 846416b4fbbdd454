"""For all tests."""

import os
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, settings

from resnext_trainer.runtime import environment

# Tests import TensorFlow without the command line, which sets them.
environment.set_tensorflow_defaults()

# kubectl, helm and kind, as `make` has them: a single test can then be run by itself.
SETUP = Path(__file__).parents[1] / "images" / "setup"
CACHE = subprocess.run([sys.executable, SETUP, "cache"], check=True, capture_output=True, text=True).stdout.strip()
if f"{CACHE}/bin" not in os.environ["PATH"].split(os.pathsep):
    os.environ["PATH"] = os.pathsep.join((f"{CACHE}/bin", os.environ["PATH"]))

# How long one example takes says more of what else the machine does than of the code.
settings.register_profile("no deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no deadline")


def pytest_terminal_summary(terminalreporter):
    """How long `make` took before and with the tests; pytest's own last line counts the tests alone."""
    if started := os.environ.get("RESNEXT_STARTED"):
        terminalreporter.write_line(f"{time.time() - float(started):.0f} s since make was called")
