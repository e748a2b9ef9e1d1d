"""Train a fusion network on pairs of infrared and visible images; see `python train.py --help`."""

import sys

from thfuse_sam.cli.commands import train

if __name__ == "__main__":
    sys.exit(train.main())
