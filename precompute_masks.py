"""Make SAM masks for a folder of images once, ahead of training; see `python precompute_masks.py --help`."""

import sys

from thfuse_sam.cli.commands import precompute

if __name__ == "__main__":
    sys.exit(precompute.main())
