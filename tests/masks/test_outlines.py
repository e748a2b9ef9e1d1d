import numpy as np
import torch

from thfuse_sam.masks.outlines import outlines, thin_outlines


def test_outlines_by_definition() -> None:
    label = np.random.default_rng(0).integers(0, 3, (7, 9))
    padded = np.pad(label, 1, mode="edge")
    expected = np.zeros(label.shape, dtype=bool)
    for shift in ((0, 1), (2, 1), (1, 0), (1, 2)):
        expected |= padded[shift[0] : shift[0] + 7, shift[1] : shift[1] + 9] != label
    np.testing.assert_array_equal(outlines(label), expected)
    np.testing.assert_array_equal(outlines(np.rot90(label)), np.rot90(expected))
    np.testing.assert_array_equal(outlines(torch.from_numpy(label)[None]), expected[None])


def test_one_label_has_no_outline() -> None:
    assert not outlines(torch.full((1, 8, 8), 3)).any()


def test_outline_is_one_pixel_thin_and_inside_the_segment() -> None:
    label_map = np.zeros((7, 8), dtype=np.uint8)
    label_map[1:6, 1:7] = 1
    expected = label_map.astype(bool)
    expected[2:5, 2:6] = False
    np.testing.assert_array_equal(thin_outlines(label_map), expected)


def test_touching_segments_share_one_line() -> None:
    label_map = np.ones((3, 6), dtype=np.uint8)
    label_map[:, 3:] = 2
    np.testing.assert_array_equal(thin_outlines(label_map), [[False, False, True, False, False, False]] * 3)
