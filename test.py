"""Fuse pairs of infrared and visible images with a trained network; see `python test.py --help`."""

import sys

from thfuse_sam.cli.commands import test

if __name__ == "__main__":
    sys.exit(test.main())
