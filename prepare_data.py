"""Check annotated images and turn them into label maps for fine-tuning; see `python prepare_data.py --help`."""

import sys

from thfuse_sam.cli.commands import prepare

if __name__ == "__main__":
    sys.exit(prepare.main())
