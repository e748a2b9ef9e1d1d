"""Fine-tune a Segment Anything model on annotated images; see `python finetune.py --help`."""

import sys

from thfuse_sam.cli.commands import finetune

if __name__ == "__main__":
    sys.exit(finetune.main())
