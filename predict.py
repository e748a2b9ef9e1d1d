"""Masks of images by a Segment Anything model, from prompts or automatically; see `python predict.py --help`."""

import sys

from thfuse_sam.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
