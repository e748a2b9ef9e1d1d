"""Binary masks as image files, one object in each image::

    imgs/001.jpg     masks/001.png      also image/ + mask/, and images/ + masks/
    imgs/b/002.jpg   masks/b/002.png

The masks may hold 0 and 1, or 0 and 255, or be blurred by JPEG.
"""

from pathlib import Path

import numpy as np

from thfuse_sam.datasets.segmentation.formats.listing import mask_image_format
from thfuse_sam.datasets.segmentation.formats.mask_images import read_binary_mask, require_same_size
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.images import read_visible

_FOLDERS = (("imgs", "masks"), ("image", "mask"), ("images", "masks"))


def read(name: str, image_path: Path, mask_path: Path) -> SegmentationSample:
    """An image and its one object. Raises SampleError and ImageReadError."""
    require_same_size(image_path, mask_path)
    mask = read_binary_mask(mask_path)
    return SegmentationSample(name, read_visible(image_path), mask.astype(np.int32))


FORMAT = mask_image_format("binary masks", "imgs/ + masks/", _FOLDERS, read)
