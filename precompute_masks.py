"""Make SAM masks for a folder of images once, ahead of training; see `python precompute_masks.py --help`."""

import sys

from thfuse_sam.cli.precompute import main

if __name__ == "__main__":
    sys.exit(main())
