"""Fine-tune a Segment Anything model on annotated images; see `python finetune.py --help`."""

import sys

from thfuse_sam.cli.finetune import main

if __name__ == "__main__":
    sys.exit(main())
