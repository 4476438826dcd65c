"""Entry point of `accelerate launch -m osmnet.training.train STAGE ...`, as `osmnet train STAGE ...`."""

import sys

from osmnet.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
