"""Masks of images by a Segment Anything model, from prompts or automatically; see `python predict.py --help`."""

import sys

from thfuse_sam.cli.commands import predict

if __name__ == "__main__":
    sys.exit(predict.main())
