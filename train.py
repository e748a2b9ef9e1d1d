"""Train a fusion network on pairs of infrared and visible images; see `python train.py --help`."""

import sys

from thfuse_sam.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
