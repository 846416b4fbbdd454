"""`python -m resnext_operator` runs `resnext-operator`."""

import sys

from resnext_operator.cli import main

if __name__ == "__main__":
    sys.exit(main())
