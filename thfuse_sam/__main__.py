"""`python -m thfuse_sam`: the same as `thfuse`."""

import sys

from thfuse_sam.cli.main import main

sys.exit(main())
