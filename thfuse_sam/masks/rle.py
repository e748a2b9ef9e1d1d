"""COCO's run-length encoding of masks."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from thfuse_sam.arrays import Mask, Size


def encode_rle(mask: Mask) -> dict[str, Any]:
    """A mask HxW -> {"size": [height, width], "counts": text}, as COCO's JSON files hold it."""
    counts = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return {"size": list(mask.shape), "counts": counts.decode("ascii")}


def decode_rle(encoded: Mapping[str, Any], shape: Size) -> Mask:
    """A mask HxW from its encoding, compressed or as a list of counts.

    Raises ValueError if the encoding is damaged or the mask has not the image's `shape` (height, width).
    """
    # Compared before decoding: the decoder makes an array of whatever size the encoding claims.
    if list(encoded.get("size", ())) != list(shape):
        raise ValueError(f"a mask has size {encoded.get('size')} (height, width), but the image has {list(shape)}")
    counts = encoded.get("counts")
    if isinstance(counts, list):
        return _from_counts(counts, shape)
    if not isinstance(counts, str | bytes):
        raise ValueError("a run-length encoding has no counts")
    with warnings.catch_warnings():
        # pycocotools' own array class follows an older protocol than NumPy 2 asks for; the result is right.
        warnings.simplefilter("ignore", DeprecationWarning)
        return np.asarray(coco_mask.decode(encoded)).astype(bool)


def _from_counts(counts: list[object], shape: Size) -> Mask:
    runs = [count for count in counts if isinstance(count, int) and count >= 0]
    if len(runs) != len(counts) or sum(runs) != shape[0] * shape[1]:
        raise ValueError("the counts of a run-length encoding do not add up to the image")
    values = np.arange(len(runs)) % 2 == 1  # runs of 0 and 1 in turn, column by column
    return np.ascontiguousarray(np.repeat(values, runs).reshape(shape, order="F"))
