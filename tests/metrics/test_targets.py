import math

import numpy as np
import pytest

from thfuse_sam.metrics.targets import Target, TargetScore, label_boxes, measure_targets, target_contrast, target_rows

BOX = (20, 10, 30, 30)  # left, top, right, bottom: 200 px
INSIDE = np.s_[10:30, 20:30]


def scene(inside: int, outside: int) -> np.ndarray:
    image = np.full((60, 64), outside, np.uint8)
    image[INSIDE] = inside
    return image


def test_contrast_is_that_of_the_brighter_half_or_of_the_mask() -> None:
    image = scene(100, 40)
    image[10:30, 20:25] = 200  # half of the box
    assert target_contrast(image, Target("a", BOX)) == 160
    mask = np.zeros((20, 10), bool)
    mask[:, 5:] = True
    assert target_contrast(image, Target("a", BOX, mask)) == 60
    image[:, 30 + 7 :] = 255  # beyond the frame of 7 pixels, 0.35 times the longer side
    assert target_contrast(image, Target("a", BOX)) == 160


def test_targets_without_enough_pixels_or_contrast_are_left_out() -> None:
    assert math.isnan(target_contrast(scene(100, 40), Target("a", (0, 0, 4, 4))))  # 16 pixels
    assert math.isnan(target_contrast(scene(100, 40), Target("a", (0, 0, 64, 60))))  # nothing around it
    faint, clear = (measure_targets([Target("a", BOX)], scene(90, 40), scene(40 + c, 40)) for c in (14, 15))
    assert math.isnan(faint[0].contrast_kept) and clear[0].contrast_kept == pytest.approx(50 / 15)


def test_a_mask_finds_a_target_by_its_box() -> None:
    labels = np.zeros((60, 64), np.uint8)
    labels[10:20, 20:30] = 7  # half of the box: an intersection over union of 0.5
    (score,) = measure_targets([Target("a", BOX)], scene(90, 40), scene(90, 40), labels)
    assert score.found and score.contrast_kept == 1
    labels[19] = 0
    (score,) = measure_targets([Target("a", BOX)], scene(90, 40), scene(90, 40), labels)
    assert score.found is False
    (small,) = measure_targets([Target("a", (20, 10, 30, 24))], scene(90, 40), scene(90, 40), labels)
    assert small.found is None  # 140 pixels


def test_boxes_of_a_label_map() -> None:
    labels = np.zeros((8, 9), np.uint16)
    labels[1:3, 2:5], labels[7, 0], labels[6, 8] = 300, 2, 2
    assert label_boxes(labels).tolist() == [[0, 6, 9, 8], [2, 1, 5, 3]]
    assert label_boxes(np.zeros((8, 9), np.uint8)).shape == (0, 4)


def test_rows_by_class_and_size() -> None:
    scores = [
        TargetScore("car", True, 0.9, True),
        TargetScore("person", True, 0.8, False),
        TargetScore("person", False, -0.5, None),
        TargetScore("person", False, math.nan, True),
    ]
    rows = {(row.category, row.size): row for row in target_rows(scores)}
    assert list(rows)[:4] == [("all", "all"), ("all", "large"), ("all", "small"), ("car", "all")] and len(rows) == 8
    person = rows["person", "all"]
    assert (person.targets, person.contrast_kept, person.well_kept, person.badly_kept) == (2, 0.4, 0.5, 0.5)
    assert (person.boxes, person.found) == (2, 0.5)
    assert rows["all", "all"].found == pytest.approx(2 / 3)
    assert ("car", "small") not in rows  # nothing to be said
    assert [row.size for row in target_rows(scores[:1])] == ["all", "large"]
    (nothing,) = target_rows([TargetScore("car", True, math.nan, None)])
    assert math.isnan(nothing.contrast_kept) and nothing.targets == 0
    assert target_rows([]) == []
