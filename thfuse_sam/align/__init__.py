"""Finding how infrared images lie on visible ones. Called, `thfuse_sam.align(...)` aligns one pair."""

from thfuse_sam.callable_module import make_callable

make_callable(__name__, "thfuse_sam.api.aligning")
