import math

import numpy as np
import pytest

from benchmarks.region_metrics import region_metrics

SQUARE = np.s_[20:40, 20:40]


def scene(inside: int, outside: int) -> np.ndarray:
    image = np.full((64, 64), outside, np.uint8)
    image[SQUARE] = inside
    return image


@pytest.fixture
def labels() -> np.ndarray:
    result = np.zeros((64, 64), np.int64)
    result[SQUARE] = 1
    return result


def test_the_better_source_keeps_everything_and_a_weaker_image_its_share(labels: np.ndarray) -> None:
    ir, vi = scene(200, 100), scene(120, 100)
    assert region_metrics(ir, ir, vi, labels, None) == pytest.approx(
        {"contrast_kept": 1, "boundary_kept": 1, "segments": 1}
    )
    half = region_metrics(scene(150, 100), ir, vi, labels, labels)
    assert half["segments"] == 2
    assert half["contrast_kept"] == pytest.approx(0.5, abs=0.01) and half["boundary_kept"] == pytest.approx(0.5)
    assert region_metrics(scene(255, 0), ir, vi, labels, None)["contrast_kept"] == pytest.approx(1)
    assert region_metrics(scene(100, 100), ir, vi, labels, None)["boundary_kept"] == pytest.approx(0, abs=1e-4)


def test_dark_objects_count_as_bright_ones(labels: np.ndarray) -> None:
    dark, flat = scene(20, 120), scene(120, 120)
    assert region_metrics(flat, flat, dark, None, labels)["contrast_kept"] == pytest.approx(0, abs=1e-4)
    assert region_metrics(dark, flat, dark, None, labels)["contrast_kept"] == pytest.approx(1)


def test_segments_that_stand_out_nowhere_are_left_out(labels: np.ndarray) -> None:
    labels[:10, :10] = 2
    ir = scene(200, 100)
    assert region_metrics(ir, ir, ir, labels, None)["segments"] == 1
    nothing = region_metrics(ir, ir, ir, None, None)
    assert nothing["segments"] == 0 and math.isnan(nothing["contrast_kept"]) and math.isnan(nothing["boundary_kept"])
