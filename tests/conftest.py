"""For all tests."""

import os
import time

from hypothesis import settings

# How long one example takes says more of what else the machine does than of the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: whole trainings; `make test` runs them, `make test-unit` does not")


def pytest_terminal_summary(terminalreporter):
    """How long `make` took before and with the tests; pytest's own last line counts the tests alone."""
    if started := os.environ.get("RESNEXT_STARTED"):
        terminalreporter.write_line(f"{time.time() - float(started):.0f} s since make was called")
