"""The number formats that networks compute in, by the names that options and checkpoints give them.

`devices.DTYPES` maps them to torch's; this module does not import torch, so that options can be checked without it.
"""

from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]
