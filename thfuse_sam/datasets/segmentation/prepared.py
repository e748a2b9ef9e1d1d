"""Writing annotated images as a data set that this package and other programs read::

    images/0001.jpg       the image, byte for byte if it was a file or embedded in one
    masks/0001.npy        label map, see masks.format: larger objects have smaller numbers and lie below
    annotations.json      COCO instances: whole masks even of objects that overlap, and class names

`prepare_data.py` writes it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thfuse_sam.datasets.segmentation.formats.coco import CocoAnnotations
from thfuse_sam.datasets.segmentation.formats.labelme import embedded_bytes
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import SampleError
from thfuse_sam.files import make_directory, write_atomically, write_json
from thfuse_sam.images import IMAGE_SUFFIXES, write_image
from thfuse_sam.masks.format import paint_label_map, paint_order, write_mask

ANNOTATIONS, IMAGES, MASKS = "annotations.json", "images", "masks"
CONTENT = (ANNOTATIONS, IMAGES, MASKS)
_NO_CLASS = "object"  # category of objects without a class name

_SIGNATURES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n": ".png"}


class PreparedWriter:
    """Adds samples one by one; `annotations.json` is written by `close`. Raises OutputError.

    Two samples of one name, such as those of a.jpg and a.png, raise SampleError.
    """

    def __init__(self, folder: Path, classes: Sequence[str] = ()) -> None:
        """`classes`: names of classes, which are numbered in this order, so that all parts of a data set agree."""
        self._folder = make_directory(folder)
        self._annotations = CocoAnnotations(*classes)
        self._names: set[str] = set()

    def add(self, sample: SegmentationSample) -> None:
        """Write a sample. Its image is copied from its source, or written as PNG if the source is no image file."""
        if sample.name in self._names:
            raise SampleError(f"{sample.source}: another image has the same name {sample.name}; rename one")
        self._names.add(sample.name)
        file_name = self._write_image(sample)
        masks = [sample.mask(object_id) for object_id in sample.object_ids]
        write_mask(self._folder / MASKS / f"{sample.name}.npy", paint_label_map(masks, sample.shape))
        self._annotations.add_image(file_name, sample.shape)
        for index in paint_order([int(np.count_nonzero(mask)) for mask in masks]):
            self._annotations.add_object(masks[index], sample.categories.get(sample.object_ids[index], _NO_CLASS))
        if sample.ignored is not None:
            self._annotations.ignore(sample.ignored)

    def _write_image(self, sample: SegmentationSample) -> str:
        """Write the image of a sample; returns its path below `images/`."""
        suffix, content = _stored_image(sample.source) if sample.source is not None else ("", b"")
        file_name = sample.name + (suffix or ".png")
        if suffix:
            write_atomically(self._folder / IMAGES / file_name, lambda file: file.write(content))
        else:
            write_image(self._folder / IMAGES / file_name, sample.image)
        return file_name

    def close(self) -> None:
        """Write `annotations.json`."""
        write_json(self._folder / ANNOTATIONS, self._annotations.content())


def _stored_image(path: Path) -> tuple[str, bytes]:
    """Suffix and bytes of the image file that `path` is or embeds; suffix "" if it is of another kind."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return path.suffix.lower(), path.read_bytes()
    if path.suffix.lower() == ".json":
        content = embedded_bytes(path)
        return next((suffix for start, suffix in _SIGNATURES.items() if content.startswith(start)), ""), content
    return "", b""
