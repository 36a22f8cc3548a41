"""`python -m executors`."""

import sys

from executors.cli import main

if __name__ == "__main__":
    sys.exit(main())
