"""The number formats that networks compute in, by the names that options and checkpoints give them. Without torch."""

from typing import Literal, get_args

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
