"""`python -m resnext_trainer` runs `resnext-train`."""

import sys

from resnext_trainer.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
