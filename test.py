"""Fuse pairs of infrared and visible images with a trained network; see `python test.py --help`."""

import sys

from thfuse_sam.cli.test import main

if __name__ == "__main__":
    sys.exit(main())
