"""TH-Fuse-SAM: infrared and visible image fusion guided by Segment Anything masks."""

from thfuse_sam.cores import prepare_openmp

__version__ = "0.1.0"

prepare_openmp()  # here, because whatever is used of the package, this module runs first, and so before torch
