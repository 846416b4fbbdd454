"""The garbage collector of `resnext-operator run`."""

import json
import os
import subprocess
import sys

RUN = """
import asyncio, gc, json
from resnext_operator.cli import main

asyncio.run = lambda coroutine: coroutine.close() or 0
assert main(["run"]) == 0
print(json.dumps({"threshold": gc.get_threshold(), "frozen": gc.get_freeze_count()}))
"""


def test_run_collects_garbage_rarely() -> None:
    """The collector runs after 10,000 new objects and does not examine those of the imported modules."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RESNEXT_")}
    done = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["threshold"][0] >= 10 * 700, "Python's default is 700 new objects"
    assert found["frozen"] > 10_000, "the imported modules"
