"""`python3 hack/devenv TARGET...`; cli.py has the commands.

It runs before any package is installed, so it uses only the standard library of Python 3.11.
"""

import sys
from importlib import import_module
from pathlib import Path

# Python puts this directory first in sys.path; imports are relative to the root of the repository.
sys.path[0] = str(Path(__file__).resolve().parents[2])
sys.exit(import_module("hack.devenv.cli").main())
