"""Whether what is warm seems to be dark, by the segments that stand upright."""

import numpy as np
import pytest

from thfuse_sam.precompute.polarity import dark_segments, upright_contrasts


def scene(people: int, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Label map and infrared image with upright segments of a grey level before 120, and a lying dark one."""
    labels, infrared = np.zeros((120, 160), np.uint8), np.full((120, 160), 120, np.uint8)
    for number in range(people):
        top, left = 20, 10 + 25 * number
        labels[top : top + 24, left : left + 10] = number + 1
        labels[top : top + 6, [left, left + 1, left + 8, left + 9]] = 0  # a head is narrower
        infrared[labels == number + 1] = level
    labels[80:90, 20:80] = 99
    infrared[labels == 99] = 10
    return labels, infrared


def test_upright_segments_alone_count() -> None:
    assert upright_contrasts(*scene(3, 200)) == pytest.approx([80, 80, 80], abs=9)
    assert upright_contrasts(*scene(0, 0)) == [] == upright_contrasts(np.zeros((9, 9), np.uint8), np.zeros((9, 9)))


def test_most_have_to_be_dark_and_clearly() -> None:
    assert dark_segments([scene(5, 40)] * 2) == (10, 10)
    assert dark_segments([scene(5, 40), scene(4, 40)]) is None  # too few
    assert dark_segments([scene(5, 200)] * 2) is None
    assert dark_segments([scene(5, 40), scene(5, 200)]) is None  # not most
    assert dark_segments([scene(5, 100)] * 9) is None  # not clearly
    assert dark_segments([]) is None
