"""Making masks of many images. Called, `thfuse_sam.precompute(...)` does it."""

from thfuse_sam.callable_module import make_callable

make_callable(__name__, "thfuse_sam.api.runs")
