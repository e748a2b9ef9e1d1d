"""The mask file: a NumPy `.npy` with one label map at its image's own height and width.

A label map is 2-D, uint8 up to 255 segments and uint16 beyond: 0 is "no segment", 1..K are the segments, larger areas
first, and smaller segments are painted over larger ones. Masks of other programs are read too: 2-D bool, or float in
[0, 1] (the union of all segments). Files are read without pickle, and their headers are checked before memory for the
values is allocated, because a mask tree may come from someone else.
"""

import contextlib
import functools
import io
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import Array, Mask, Size
from thfuse_sam.errors import MaskReadError
from thfuse_sam.files import write_atomically
from thfuse_sam.masks.outlines import outlines

MAX_SEGMENTS = 65535

NO_SUCH_MASK = "no such mask; run `precompute()` for this data set"

_REMEDY = "write it again, or delete it and run `precompute()`"
_PREFIX_BYTES = 10  # before the header's text: magic, version, length of the text
_READ_BINARY = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # only Windows has O_BINARY
_USUAL_HEADER_BYTES = 128  # the header's length in every mask that this package writes
_MAX_HEADER_BYTES = 10_000  # NumPy refuses longer headers too

LabelMap = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


def paint_label_map(masks: Iterable[Mask], shape: Size, *, numbered_by_area: bool = True) -> LabelMap:
    """Paint instance masks (N of bool HxW) into one label map of `shape` = (height, width), smaller over larger ones.

    Label k is the k-th mask by area (equal areas in the given order) or, without `numbered_by_area`, the k-th given
    mask. A segment that smaller ones cover entirely has no pixel left; its number stays unused, so that labels agree
    with the instances written beside the map.
    """
    ordered = [np.asarray(mask, dtype=bool) for mask in masks]
    for mask in ordered:
        if mask.shape != shape:
            raise ValueError(f"an instance mask has shape {mask.shape}, but the image has {shape}")
    if len(ordered) > MAX_SEGMENTS:
        raise ValueError(f"{len(ordered)} segments are more than a uint16 label map can hold ({MAX_SEGMENTS})")
    order = paint_order([int(np.count_nonzero(mask)) for mask in ordered])
    painted = np.zeros(shape, dtype=np.uint8 if len(ordered) <= 255 else np.uint16)
    for rank, index in enumerate(order):
        painted[ordered[index]] = 1 + (rank if numbered_by_area else index)
    return painted


def paint_order(areas: Sequence[int]) -> list[int]:
    """Indices of segments in the order of their labels: area descending, equal areas in the given order."""
    return sorted(range(len(areas)), key=lambda index: -areas[index])


def guidance_inputs(mask: Array) -> npt.NDArray[np.float32]:
    """Derive the network's guidance from a mask HxW: a label map, bool, or float in [0, 1].

    Returns float32 2xHxW in [0, 1]: the union of all segments, and their outlines.
    """
    union = mask.astype(np.float32) if mask.dtype.kind == "f" else (mask > 0).astype(np.float32)
    return np.stack([union, outlines(segment_labels(mask)).astype(np.float32)])


def segment_labels(mask: Array) -> npt.NDArray[np.int64]:
    """Segment numbers int64 HxW of a mask: those of a label map; of a union mask (bool, float) 1 above 0.5, else 0."""
    return (mask > 0.5).astype(np.int64) if mask.dtype.kind == "f" else mask.astype(np.int64)


def write_mask(path: Path, mask: LabelMap) -> None:
    """Write a label map (uint8 or uint16 HxW) atomically. Raises OutputError if the system refuses."""
    header, values = encode_mask(mask)

    def write(file: IO[bytes]) -> None:
        file.write(header)
        file.write(values)

    write_atomically(path, write)


def encode_mask(mask: LabelMap) -> tuple[bytes, memoryview]:
    """The header and the values of the `.npy` file of a label map (uint8 or uint16 HxW)."""
    if mask.ndim != 2 or mask.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"a label map to write is 2-D uint8 or uint16, got {mask.dtype} {mask.shape}")
    contiguous = np.ascontiguousarray(mask)
    # Not `np.save`, whose error message does not mention that the disk is full.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(contiguous))
    return header.getvalue(), contiguous.data.cast("B")


def read_mask(path: Path, shape: Size | None) -> Array:
    """Read a mask: uint8 or uint16 labels, bool, or float32 in [0, 1]; HxW, native byte order, writable.

    `shape` is the (height, width) that the mask must have; None takes any. Raises MaskReadError: no such file, not
    `.npy`, pickled content, truncated, wrong type, shape or values.
    """
    with _opened(path) as file:
        return _read_mask(file, str(path), shape, os.fstat(file.fileno()).st_size)


def decode_mask(content: bytes, location: str, shape: Size | None) -> Array:
    """As `read_mask`, from the bytes of a `.npy` file; `location` names the file in errors."""
    return _read_mask(io.BytesIO(content), location, shape, len(content))


def mask_shape_and_time(path: Path | str) -> tuple[Size, int]:
    """(height, width) of a mask from its header alone, and the time of its last change in nanoseconds.

    Fast enough for very many masks. Raises MaskReadError as `read_mask` does, but does not look at the values.
    """
    with as_read_error(path):
        descriptor = os.open(path, _READ_BINARY)
        try:
            status = os.fstat(descriptor)
            start = os.read(descriptor, _USUAL_HEADER_BYTES)
        finally:
            os.close(descriptor)
    header = _usual_header(start)
    if header is None or header.file_size > status.st_size:
        # The whole check says what is wrong with the file, or reads a header of another length than the usual one.
        with _opened(path) as file:
            header = _read_header(file, str(path), None, status.st_size)
    return header.shape, status.st_mtime_ns


def encoded_shape(content: bytes, length: int, location: str) -> Size:
    """(height, width) of a mask, from the first bytes of a `.npy` file that is `length` bytes long.

    `location` names the file in errors. Raises MaskReadError as `mask_shape_and_time` does.
    """
    return _read_header(io.BytesIO(content), location, None, length).shape


@contextlib.contextmanager
def as_read_error(location: Path | str, missing: str = NO_SUCH_MASK) -> Iterator[None]:
    """Turn an OSError of reading into a MaskReadError; `missing` is the message for a file that does not exist."""
    try:
        yield
    except FileNotFoundError as error:
        raise MaskReadError(f"{location}: {missing}") from error
    except OSError as error:
        raise MaskReadError(f"{location}: cannot be read ({error.strerror or error}); check the file") from error


@contextlib.contextmanager
def _opened(path: Path | str) -> Iterator[IO[bytes]]:
    # Unbuffered, because the header and the values are each read by one call.
    with as_read_error(path), Path(path).open("rb", buffering=0) as file:
        yield file


class _Header(NamedTuple):
    """The content of a mask file's header."""

    shape: Size  # height, width
    fortran_order: bool
    dtype: np.dtype[Any]
    file_size: int  # bytes that a file with this header has at least


def _read_mask(file: IO[bytes], location: str, shape: Size | None, length: int) -> Array:
    """Check the header of a file of `length` bytes, then read exactly as many values as it promises."""
    header = _read_header(file, location, shape, length)
    content = bytearray(math.prod(header.shape) * header.dtype.itemsize)
    if file.readinto(content) != len(content):  # type: ignore[attr-defined]
        raise MaskReadError(f"{location}: was truncated while it was read; {_REMEDY}")
    mask = np.frombuffer(content, header.dtype).reshape(header.shape, order="F" if header.fortran_order else "C")
    if mask.dtype.kind != "f":
        return np.ascontiguousarray(mask, dtype=mask.dtype.newbyteorder("="))
    mask = np.ascontiguousarray(mask, dtype=np.float32)
    # Not `(mask < 0).any()` and the like, which NaN would pass.
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise MaskReadError(f"{location}: has values outside [0, 1] or NaN in a float mask; {_REMEDY}")
    return mask


@functools.lru_cache(maxsize=256)
def _usual_header(start: bytes) -> _Header | None:
    """The header of a mask file that begins with `start`; None if `start` holds no whole header of a mask."""
    try:
        return _read_header(io.BytesIO(start), "", None, sys.maxsize)
    except MaskReadError:
        return None


def _read_header(file: IO[bytes], location: str, shape: Size | None, length: int) -> _Header:
    """Read the whole header and check that it is that of a mask of `shape` (None: any) in a file of `length` bytes."""
    try:
        prefix = file.read(_PREFIX_BYTES)
        if prefix[6:7] == b"\2":  # version 2 writes the length with two more bytes
            prefix += file.read(2)
        header_length = len(prefix) + int.from_bytes(prefix[8:], "little")
        text = file.read(min(header_length, _MAX_HEADER_BYTES) - len(prefix))
        stored_shape, fortran_order, dtype = _parse_header(prefix + text)
    # NumPy parses the header as a Python literal; a damaged one can raise any of the parser's exceptions.
    except Exception as error:
        raise MaskReadError(f"{location}: not a .npy file, or its header is damaged; {_REMEDY}") from error
    if dtype.hasobject:
        raise MaskReadError(f"{location}: pickled content is refused, as loading it can run code; {_REMEDY}")
    is_label_map = dtype.kind == "u" and dtype.itemsize <= 2
    is_union = dtype.kind == "b" or (dtype.kind == "f" and dtype.itemsize <= 8)
    if not (is_label_map or is_union):
        raise MaskReadError(f"{location}: has values of type {dtype}, expected uint8, uint16, bool or float; {_REMEDY}")
    if len(stored_shape) != 2 or min(stored_shape) < 1:
        raise MaskReadError(f"{location}: has shape {stored_shape}, expected (height, width); {_REMEDY}")
    height, width = stored_shape
    if shape is not None and (height, width) != tuple(shape):
        raise MaskReadError(f"{location}: has shape {stored_shape}, but the image has {tuple(shape)}; {_REMEDY}")
    # Compared with the file's length before memory is allocated; Python's integers cannot overflow.
    promised = height * width * dtype.itemsize
    if length < header_length + promised:
        raise MaskReadError(f"{location}: is truncated, its header promises {promised} bytes of values; {_REMEDY}")
    return _Header((height, width), fortran_order, dtype, header_length + promised)


# Masks of one size share their header, and parsing it takes longer than reading it.
@functools.lru_cache(maxsize=256)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream = io.BytesIO(header)
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    # Version 3 exists only for structured types, which no mask has.
    return readers[version](stream)
