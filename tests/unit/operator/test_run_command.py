"""The process of `resnext-operator run`: what it loads, and its garbage collector."""

import json
import os
import subprocess
import sys

RUN = """
import asyncio, gc, json, sys
from resnext_operator.cli import main

asyncio.run = lambda coroutine: coroutine.close() or 0
assert main(["run"]) == 0
modules = {name.partition(".")[0] for name, module in sys.modules.items() if module}
print(json.dumps({"modules": sorted(modules), "threshold": gc.get_threshold(), "frozen": gc.get_freeze_count()}))
"""


def test_run_loads_little_and_collects_garbage_rarely() -> None:
    """kopf would import the Kubernetes client, with 300 other modules; only `resnext-operator watch` needs it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RESNEXT_")}
    done = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert "kopf" in found["modules"]
    assert not {"kubernetes", "requests", "oauthlib", "urllib3", "websocket", "numpy", "rich"} & {*found["modules"]}
    assert found["threshold"][0] >= 10 * 700, "Python's default is 700 new objects"
    assert found["frozen"] > 10_000, "the imported modules"
