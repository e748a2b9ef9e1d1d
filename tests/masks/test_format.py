import io
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thfuse_sam.errors import MaskReadError, OutputError
from thfuse_sam.masks.format import (
    guidance_inputs,
    mask_shape_and_time,
    paint_label_map,
    read_mask,
    segment_labels,
    write_mask,
)


def box(top: int, bottom: int, left: int, right: int, shape: tuple[int, int] = (8, 10)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


# Painting


def test_smaller_segments_are_painted_over_larger_ones() -> None:
    small, large = box(2, 4, 2, 4), box(0, 6, 0, 6)
    for order in ([small, large], [large, small]):
        painted = paint_label_map(np.stack(order), (8, 10))
        assert painted.dtype == np.uint8
        np.testing.assert_array_equal(painted == 2, small)
        np.testing.assert_array_equal(painted > 0, large)


def test_equal_areas_keep_their_order() -> None:
    painted = paint_label_map([box(0, 2, 0, 2), box(4, 6, 4, 6), box(1, 3, 1, 3)], (8, 10))
    assert (painted[0, 0], painted[5, 5], painted[1, 1]) == (1, 2, 3)


def test_hidden_segment_leaves_its_number_unused() -> None:
    painted = paint_label_map([box(0, 4, 0, 4), box(0, 4, 0, 4), box(5, 6, 5, 6)], (8, 10))
    assert np.unique(painted).tolist() == [0, 2, 3]


def test_no_segment() -> None:
    painted = paint_label_map(np.zeros((0, 8, 10), dtype=bool), (8, 10))
    assert painted.shape == (8, 10) and painted.dtype == np.uint8 and not painted.any()


@pytest.mark.parametrize(("count", "kind"), [(255, np.uint8), (256, np.uint16)])
def test_type_by_number_of_segments(count: int, kind: type) -> None:
    masks = np.zeros((count, 20, 20), dtype=bool)
    masks.reshape(count, -1)[np.arange(count), np.arange(count)] = True
    painted = paint_label_map(masks, (20, 20))
    assert painted.dtype == kind
    np.testing.assert_array_equal(painted.ravel()[:count], np.arange(1, count + 1))


def test_mask_of_another_shape() -> None:
    with pytest.raises(ValueError, match="the image"):
        paint_label_map([box(0, 2, 0, 2)], (10, 8))


# What the network gets


def test_guidance_of_a_label_map() -> None:
    label = np.zeros((5, 6), dtype=np.uint16)
    label[1:4, 1:3], label[1:4, 3:5] = 300, 301
    union, edges = guidance = guidance_inputs(label)
    assert guidance.dtype == np.float32 and guidance.shape == (2, 5, 6)
    np.testing.assert_array_equal(union, label > 0)
    # Every pixel here but the corners touches another label.
    expected = np.ones((5, 6))
    expected[[0, 0, -1, -1], [0, -1, 0, -1]] = 0
    expected[:, -1] = [0, 1, 1, 1, 0]
    np.testing.assert_array_equal(edges, expected)


def test_guidance_of_union_masks() -> None:
    soft = np.array([[0.0, 0.25, 1.0]], dtype=np.float32)
    np.testing.assert_array_equal(guidance_inputs(soft), [[[0, 0.25, 1]], [[0, 1, 1]]])
    np.testing.assert_array_equal(guidance_inputs(soft > 0.5), [[[0, 0, 1]], [[0, 1, 1]]])


def test_segment_labels() -> None:
    assert segment_labels(np.array([[0, 9]], dtype=np.uint8)).tolist() == [[0, 9]]
    assert segment_labels(np.array([[False, True]])).tolist() == [[0, 1]]
    assert segment_labels(np.array([[0.5, 0.6]], dtype=np.float32)).tolist() == [[0, 1]]
    assert segment_labels(np.array([[65535]], dtype=np.uint16)).dtype == np.int64


# The file


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("view", [False, True])
def test_write_and_read_back(tmp_path: Path, kind: type, view: bool) -> None:
    stored = np.arange(80, dtype=kind).reshape(8, 10)
    stored = stored.T if view else stored
    path = tmp_path / "a" / "scene.v2.npy"
    write_mask(path, stored)
    read = read_mask(path, stored.shape)
    np.testing.assert_array_equal(read, stored)
    assert read.dtype == kind and read.flags.writeable and read.flags.c_contiguous
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), stored)
    assert mask_shape_and_time(path)[0] == stored.shape
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 2), np.int64), np.zeros((2, 2, 1), np.uint8), np.zeros((2, 2), np.float32)]
)
def test_write_refuses_other_arrays(tmp_path: Path, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="2-D uint8 or uint16"):
        write_mask(tmp_path / "a.npy", wrong)


def test_write_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(OutputError):
        write_mask(tmp_path / "a" / "b.npy", np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.array([[True, False]]), np.bool_),
        (np.array([[0.0, 1.0]]), np.float32),
        (np.array([[0.0, 0.5]], dtype=np.float16), np.float32),
        (np.array([[1, 500]], dtype=">u2"), np.uint16),
        (np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)), np.uint8),
    ],
    ids=["bool", "float64", "float16", "big-endian", "fortran"],
)
def test_masks_from_elsewhere(tmp_path: Path, stored: np.ndarray, expected: type) -> None:
    np.save(tmp_path / "a.npy", stored)
    read = read_mask(tmp_path / "a.npy", stored.shape)
    assert read.dtype == expected and read.dtype.isnative
    np.testing.assert_array_equal(read, stored)


class Malicious:
    """Runs code where it is unpickled."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.evidence, "run")


@pytest.mark.parametrize("shape", [(1, 1), (1,), ()])
def test_pickled_content_is_refused_and_never_run(tmp_path: Path, shape: tuple[int, ...]) -> None:
    evidence = tmp_path / "evidence"
    array = np.empty(shape, dtype=object)
    array[...] = Malicious(evidence)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(MaskReadError, match="pickled content is refused"):
        read_mask(tmp_path / "a.npy", (1, 1))
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Malicious(evidence)))
    with pytest.raises(MaskReadError, match=r"not a \.npy file"):
        read_mask(tmp_path / "b.npy", (1, 1))
    assert not evidence.exists()
    # The attack is real: NumPy itself would have run it.
    np.load(tmp_path / "a.npy", allow_pickle=True)
    assert evidence.exists()


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin-1")


def zipped() -> bytes:
    content = io.BytesIO()
    np.savez(content, np.zeros((4, 6), np.uint8))
    return content.getvalue()


RIGHT = npy(np.ones((4, 6), dtype=np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .npy"),
        (b"text", "not a .npy"),
        (zipped(), "not a .npy"),
        (RIGHT[:40], "not a .npy"),
        (RIGHT[:-1], "truncated"),
        (npy(np.ones((6, 4), np.uint8)), r"has shape \(6, 4\), but the image has \(4, 6\)"),
        (npy(np.ones((4, 6, 1), np.uint8)), "expected \\(height, width\\)"),
        (npy(np.ones(24, np.uint8)), "expected \\(height, width\\)"),
        (npy(np.ones((4, 6), np.int32)), "values of type int32"),
        (npy(np.ones((4, 6), np.uint32)), "values of type uint32"),
        (npy(np.ones((4, 6), np.complex64)), "values of type complex64"),
        (npy(np.full((4, 6), "a")), "values of type"),
        (npy(np.zeros((4, 6), [("a", np.uint8)])), "values of type"),
        (npy(np.full((4, 6), np.nan)), "NaN"),
        (npy(np.full((4, 6), 1.5, np.float32)), "outside"),
        (npy(np.full((4, 6), -0.5, np.float32)), "outside"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (-4, -6)}\n"), "expected"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': __import__('os')}\n"), "header is damaged"),
        (b"\x93NUMPY\x03\x00" + RIGHT[8:], "header is damaged"),
    ],
)
def test_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(MaskReadError, match=message) as caught:
        read_mask(path, (4, 6))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_huge_claim_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    side = 10**7
    path.write_bytes(header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({side}, {side})}}\n") + b"\0" * 64)
    tracemalloc.start()
    try:
        for shape in (None, (side, side)):
            with pytest.raises(MaskReadError, match="truncated"):
                read_mask(path, shape)
        with pytest.raises(MaskReadError, match="truncated"):
            mask_shape_and_time(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MaskReadError, match=r"no such mask; run `precompute\(\)`"):
        read_mask(tmp_path / "a.npy", (4, 6))
    with pytest.raises(MaskReadError, match="cannot be read"):
        read_mask(tmp_path, (4, 6))


def test_any_shape(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(RIGHT)
    assert read_mask(tmp_path / "a.npy", None).shape == (4, 6)
