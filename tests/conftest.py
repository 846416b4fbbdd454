"""Configuration of all tests."""

import os
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, settings

from resnext_trainer.runtime import environment

# Set here because tests import TensorFlow without the command line, which sets them.
environment.set_tensorflow_defaults()

# Adds kubectl, helm and kind to PATH, as `make` does, so that a single test can be run with pytest.
SETUP = Path(__file__).parents[1] / "hack" / "devenv"
CACHE = subprocess.run([sys.executable, SETUP, "cache"], check=True, capture_output=True, text=True).stdout.strip()
if f"{CACHE}/bin" not in os.environ["PATH"].split(os.pathsep):
    os.environ["PATH"] = os.pathsep.join((f"{CACHE}/bin", os.environ["PATH"]))

# The duration of an example depends on the load of the machine.
settings.register_profile("no deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no deadline")


def pytest_terminal_summary(terminalreporter):
    """Print the duration since `make` started; pytest itself reports only that of the tests."""
    if started := os.environ.get("RESNEXT_STARTED"):
        terminalreporter.write_line(f"{time.time() - float(started):.0f} s since make was called")
