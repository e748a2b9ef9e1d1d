"""The mask tree on disk. Called, `thfuse_sam.masks(...)` makes the masks of one image."""

from thfuse_sam.callable_module import make_callable

make_callable(__name__, "thfuse_sam.api.segmenting")
