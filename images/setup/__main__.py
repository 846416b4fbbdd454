"""`python3 images/setup TARGET...`: the commands are in cli.py.

It runs before anything is installed, so it needs Python 3.11 and no package.
"""

import sys
from importlib import import_module
from pathlib import Path

# Python puts this folder first; the imports start at the repository's root.
sys.path[0] = str(Path(__file__).resolve().parents[2])
sys.exit(import_module("images.setup.cli").main())
