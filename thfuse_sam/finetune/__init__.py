"""Training and evaluating SAM on annotated images. Called, `thfuse_sam.finetune(...)` does it."""

from thfuse_sam.callable_module import make_callable

make_callable(__name__, "thfuse_sam.api.runs")
