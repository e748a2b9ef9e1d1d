"""The mask file: a NumPy `.npy` with one label map at its image's own height and width.

A label map is 2-D, uint8 up to 255 segments and uint16 beyond: 0 is "no segment", 1..K are the segments, larger areas
first, and smaller segments are painted over larger ones. Masks made elsewhere are read too: 2-D bool, or float in
[0, 1] (a union of all segments). Files are read without pickle, and their headers are checked before any memory is
asked for, because a mask tree may come from someone else.
"""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from thfuse_sam.errors import MaskReadError
from thfuse_sam.files import write_atomically

# What the guidance inputs hold everywhere when an image has no mask.
PLACEHOLDER_VALUE = 0.5

MAX_SEGMENTS = 65535

_REMEDY = "delete it and run precompute_masks.py again"

LabelMap = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


def label_map(masks: Iterable[npt.NDArray[np.bool_]], shape: tuple[int, int]) -> LabelMap:
    """Paint instance masks (N of bool HxW) into one label map of `shape` = (height, width).

    Label k is the k-th mask by area, equal areas in the given order. A segment that smaller ones cover entirely has no
    pixel left; its number stays unused, so that labels agree with the instances written beside the map.
    """
    ordered = [np.asarray(mask, dtype=bool) for mask in masks]
    for mask in ordered:
        if mask.shape != shape:
            raise ValueError(f"an instance mask is {mask.shape}, the image {shape}")
    if len(ordered) > MAX_SEGMENTS:
        raise ValueError(f"{len(ordered)} segments are more than a uint16 label map can hold ({MAX_SEGMENTS})")
    order = paint_order([int(np.count_nonzero(mask)) for mask in ordered])
    painted = np.zeros(shape, dtype=np.uint8 if len(ordered) <= 255 else np.uint16)
    for label, index in enumerate(order, start=1):
        painted[ordered[index]] = label
    return painted


def paint_order(areas: Sequence[int]) -> list[int]:
    """Indices of segments in the order of their labels: area descending, equal areas in the given order."""
    return sorted(range(len(areas)), key=lambda index: -areas[index])


def guidance_inputs(mask: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Derive the network's guidance from a mask (HxW; label map, bool, or float in [0, 1]).

    Returns float32 2xHxW in [0, 1]: the union of all segments, and their edges.
    """
    union = mask.astype(np.float32) if mask.dtype.kind == "f" else (mask > 0).astype(np.float32)
    return np.stack([union, label_edges(labels(mask))])


def label_edges(label: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """1 where a pixel's neighbour above, below, left or right has another label, else 0; float32 HxW.

    Both sides of a boundary are marked, so that edges turn and flip with the image.
    """
    edges = np.zeros(label.shape, dtype=np.float32)
    right = label[:, :-1] != label[:, 1:]
    below = label[:-1] != label[1:]
    edges[:, :-1][right] = 1.0
    edges[:, 1:][right] = 1.0
    edges[:-1][below] = 1.0
    edges[1:][below] = 1.0
    return edges


def labels(mask: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Segment numbers of a mask as int64 HxW: a label map as it is, a union mask (bool, float > 0.5) as 0 and 1."""
    return (mask > 0.5).astype(np.int64) if mask.dtype.kind == "f" else mask.astype(np.int64)


def placeholder_guidance(shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Guidance of an image without a mask: float32 2xHxW, everywhere PLACEHOLDER_VALUE."""
    return np.full((2, *shape), PLACEHOLDER_VALUE, dtype=np.float32)


def write_mask(path: Path, mask: LabelMap) -> None:
    """Write a label map (uint8 or uint16 HxW) atomically. Raises OutputError where the system refuses."""
    if mask.ndim != 2 or mask.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"a label map to write is 2-D uint8 or uint16, got {mask.dtype} {mask.shape}")
    contiguous = np.ascontiguousarray(mask)

    def write(file: IO[bytes]) -> None:
        header = np.lib.format.header_data_from_array_1_0(contiguous)
        np.lib.format.write_array_header_1_0(file, header)
        # Not `np.save`, whose error on a full disk does not say so.
        file.write(contiguous.data)

    write_atomically(path, write)


def read_mask(path: Path, shape: tuple[int, int] | None) -> npt.NDArray[Any]:
    """Read a mask: uint8 or uint16 labels, bool, or float32 in [0, 1]; HxW, native byte order, writable.

    `shape` is the (height, width) that the mask must have; None takes any. Raises MaskReadError: no such file, not
    `.npy`, pickled content, truncated, wrong type, shape or values.
    """
    with _opened(path) as file:
        mask = _read_array(file, path, shape)
    if mask.dtype.kind != "f":
        return mask
    mask = mask.astype(np.float32)
    # Written so that NaN fails too.
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise MaskReadError(f"{path}: values outside [0, 1] or NaN in a float mask; {_REMEDY}")
    return mask


def mask_shape(path: Path) -> tuple[int, int]:
    """(height, width) of a mask from its header alone, if the file is long enough for it. Raises MaskReadError."""
    with _opened(path) as file:
        (height, width), _, _ = _checked_header(file, path, None)
    return height, width


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise MaskReadError(f"{path}: no such mask; run precompute_masks.py for this data set") from error
    except OSError as error:
        raise MaskReadError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error


def _read_array(file: IO[bytes], path: Path, shape: tuple[int, int] | None) -> npt.NDArray[Any]:
    """Check the header, then read exactly the bytes that it promises."""
    stored_shape, fortran_order, dtype = _checked_header(file, path, shape)
    content = bytearray(math.prod(stored_shape) * dtype.itemsize)
    if file.readinto(content) != len(content):  # type: ignore[attr-defined]
        raise MaskReadError(f"{path}: truncated while it was read; {_REMEDY}")
    mask = np.frombuffer(content, dtype=dtype).reshape(stored_shape, order="F" if fortran_order else "C")
    return np.ascontiguousarray(mask, dtype=dtype.newbyteorder("="))


def _checked_header(
    file: IO[bytes], path: Path, shape: tuple[int, int] | None
) -> tuple[tuple[int, int], bool, np.dtype[Any]]:
    """(shape, Fortran order, type) of the stored array, once they are known to be a mask's."""
    stored_shape, fortran_order, dtype = _read_header(file, path)
    if dtype.hasobject:
        raise MaskReadError(f"{path}: pickled content is refused, as loading it can run code; {_REMEDY}")
    is_label_map = dtype.kind == "u" and dtype.itemsize <= 2
    is_union = dtype.kind == "b" or (dtype.kind == "f" and dtype.itemsize <= 8)
    if not (is_label_map or is_union):
        raise MaskReadError(f"{path}: values of type {dtype}, expected uint8, uint16, bool or float; {_REMEDY}")
    if len(stored_shape) != 2 or min(stored_shape) < 1:
        raise MaskReadError(f"{path}: shape {stored_shape}, expected (height, width); {_REMEDY}")
    height, width = stored_shape
    if shape is not None and (height, width) != tuple(shape):
        raise MaskReadError(f"{path}: shape {stored_shape}, but the image is {tuple(shape)}; {_REMEDY}")
    # Compared with the file before any memory is asked for; Python's integers cannot overflow.
    promised = height * width * dtype.itemsize
    if os.fstat(file.fileno()).st_size - file.tell() < promised:
        raise MaskReadError(f"{path}: truncated, its header promises {promised} bytes of values; {_REMEDY}")
    return (height, width), fortran_order, dtype


def _read_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        # Version 3 exists only for structured types, which no mask has.
        shape, fortran_order, dtype = readers[version](file)
    # NumPy parses the header as a Python literal; a damaged one can fail in any of the parser's ways.
    except Exception as error:
        raise MaskReadError(f"{path}: not a .npy file, or its header is damaged; {_REMEDY}") from error
    return shape, fortran_order, dtype
