"""Instance masks as image files: 0 is background, k is object k::

    PNGImages/001.png   PedMasks/001_mask.png     as in Penn-Fudan
    images/001.jpg      instances/001.png

(L. Wang et al., "Object Detection Combining Recognition and Segmentation", ACCV 2007, made Penn-Fudan.)
"""

from pathlib import Path

from thfuse_sam.datasets.segmentation.formats.listing import mask_image_format
from thfuse_sam.datasets.segmentation.formats.mask_images import read_instance_mask, require_same_size
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import SampleError
from thfuse_sam.images import read_visible

_FOLDERS = (("PNGImages", "PedMasks"), ("images", "instances"))


def read(name: str, image_path: Path, mask_path: Path) -> SegmentationSample:
    """An image and its objects. Raises SampleError and ImageReadError."""
    require_same_size(image_path, mask_path)
    labels = read_instance_mask(mask_path)
    if not labels.any():
        raise SampleError(f"{mask_path}: the mask is empty; label an object or remove the pair")
    return SegmentationSample(name, read_visible(image_path), labels)


FORMAT = mask_image_format("instance masks", "PNGImages/ + PedMasks/", _FOLDERS, read)
