"""`python -m osmnet`: the command line."""

import sys

from osmnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
