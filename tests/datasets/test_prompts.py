"""Prompts: where points and boxes lie, mixes, and points that correct a mask."""

import dataclasses

import numpy as np
import pytest

from thfuse_sam.datasets.prompts import (
    MAX_JITTER,
    ObjectPrompt,
    PromptMix,
    interior_point,
    jittered_box,
    mask_box,
    next_points,
    random_points,
    sample_prompts,
)
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import UsageError
from thfuse_sam.finetune.samples import group_prompts
from thfuse_sam.sam.geometry import Frame


def rectangle(top: int, left: int, height: int, width: int, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def make(*masks: np.ndarray) -> SegmentationSample:
    image = np.zeros((*masks[0].shape, 3), np.uint8)
    return SegmentationSample.from_masks("s", image, dict(enumerate(masks, 1)))


def at(mask: np.ndarray, point: np.ndarray) -> bool:
    x, y = point
    return bool(mask[int(y), int(x)])


def points_of(prompt: ObjectPrompt, label: int) -> np.ndarray:
    """The points (Px2) with a label."""
    if prompt.points is None or prompt.labels is None:
        return np.zeros((0, 2))
    assert prompt.points.dtype == np.float32 and prompt.labels.dtype == np.int32
    return prompt.points[prompt.labels == label]


def test_interior_point_lies_inside_a_ring() -> None:
    y, x = np.mgrid[:41, :41]
    radius = np.hypot(y - 20, x - 20)
    ring = (radius > 10) & (radius < 18)
    assert at(ring, np.array(interior_point(ring)))


def test_interior_point_counts_the_image_border_as_border() -> None:
    x, y = interior_point(rectangle(0, 0, 9, 80))
    assert 4 < y < 5 and 4 <= x <= 76
    assert interior_point(rectangle(59, 79, 1, 1)) == (79.5, 59.5)
    with pytest.raises(ValueError, match="empty"):
        interior_point(np.zeros((4, 4), bool))


def test_box_reaches_around_the_pixels() -> None:
    assert mask_box(rectangle(5, 7, 10, 20)).tolist() == [7, 5, 27, 15]
    with pytest.raises(ValueError, match="empty"):
        mask_box(np.zeros((4, 4), bool))


def test_box_jitter_is_bounded_by_a_tenth_and_20_pixels() -> None:
    rng = np.random.default_rng(0)
    small, large = rectangle(20, 30, 10, 20), rectangle(200, 300, 500, 100, (1000, 1000))
    moves = np.stack([jittered_box(small, rng) - mask_box(small) for _ in range(300)])
    assert (np.abs(moves) <= [2, 1, 2, 1]).all()
    assert (np.abs(moves).max(0) > [1.8, 0.9, 1.8, 0.9]).all()
    moves = np.stack([jittered_box(large, rng) - mask_box(large) for _ in range(300)])
    assert (np.abs(moves) <= [10, MAX_JITTER, 10, MAX_JITTER]).all() and np.abs(moves[:, 1]).max() > 18
    edge = rectangle(0, 0, 60, 80)
    boxes = np.stack([jittered_box(edge, rng) for _ in range(50)])
    assert (boxes >= 0).all() and (boxes <= [80, 60, 80, 60]).all()


def test_random_points_are_different_pixels_of_the_region() -> None:
    mask = rectangle(2, 3, 2, 3)
    points = random_points(mask, 6, np.random.default_rng(0))
    assert len({tuple(point) for point in points}) == 6 and all(at(mask, point) for point in points)
    assert len(random_points(mask, 9, np.random.default_rng(0))) == 9


KINDS = {
    "box": PromptMix(box=1),
    "point": PromptMix(point=1),
    "random": PromptMix(random=1),
    "points": PromptMix(points=1, num_points=4),
    "negative": PromptMix(negative=1, num_points=3),
    "mask": PromptMix(mask=1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prompt(kind: str) -> None:
    masks = rectangle(5, 5, 20, 20), rectangle(30, 40, 12, 25)
    prompts = sample_prompts(make(*masks), [1, 2], KINDS[kind], np.random.default_rng(1))
    assert len(prompts) == 2
    counts = {"box": (0, 0), "point": (1, 0), "random": (1, 0), "points": (4, 0), "negative": (1, 3), "mask": (1, 0)}
    for prompt, mask in zip(prompts, masks, strict=True):
        inside, outside = points_of(prompt, 1), points_of(prompt, 0)
        assert (len(inside), len(outside)) == counts[kind]
        assert all(at(mask, point) for point in inside)
        assert not any(at(mask, point) for point in outside)
        assert (prompt.box is not None) == (kind == "box")
        assert (prompt.mask is not None) == (kind == "mask")
        if prompt.mask is not None:
            assert ((prompt.mask > 0) & mask).sum() / ((prompt.mask > 0) | mask).sum() > 0.5
            assert (np.abs(prompt.mask) == 8).all()


def test_negative_points_lie_near() -> None:
    mask = rectangle(30, 40, 10, 10)
    prompts = sample_prompts(make(mask), [1], PromptMix(negative=1, num_points=40), np.random.default_rng(0))
    outside = points_of(prompts[0], 0)
    assert len(outside) == 40 and (np.abs(outside - [45, 35]) <= 10).all()


def test_an_object_that_fills_the_image_has_no_negative_point() -> None:
    prompts = sample_prompts(make(np.ones((8, 8), bool)), [1], PromptMix(negative=1), np.random.default_rng(0))
    assert len(points_of(prompts[0], 1)) == 1 and len(points_of(prompts[0], 0)) == 0


def test_points_avoid_the_object_in_front_but_boxes_do_not() -> None:
    behind, front = rectangle(10, 10, 40, 40), rectangle(14, 14, 30, 30)
    for seed in range(10):
        prompts = sample_prompts(make(behind, front), [1], PromptMix(point=1, random=1), np.random.default_rng(seed))
        assert not at(front, points_of(prompts[0], 1)[0])
    boxed = sample_prompts(make(behind, front), [1], PromptMix(box=1), np.random.default_rng(0))[0].box
    assert boxed is not None and np.abs(boxed - mask_box(behind)).max() <= 4


def test_thin_objects_keep_a_mask_and_a_point_inside() -> None:
    line = rectangle(30, 2, 1, 70)
    for seed in range(10):
        prompts = sample_prompts(make(line), [1], PromptMix(mask=1, point=1), np.random.default_rng(seed))
        assert at(line, points_of(prompts[0], 1)[0])
        assert prompts[0].mask is None or (prompts[0].mask > 0).any()


def test_mixed_kinds_are_grouped() -> None:
    masks = [rectangle(5 * row, 8 * row, 5, 8) for row in range(10)]
    frame = Frame.of((60, 80), 80)
    mix = PromptMix(box=1, point=1, points=1, mask=1, num_points=3)
    prompts = sample_prompts(make(*masks), range(1, 11), mix, np.random.default_rng(2))
    seen: list[int] = []
    kinds = set()
    for indices, group in group_prompts(prompts, frame):
        seen += indices.tolist()
        assert (group.points is None) == (group.labels is None)
        for tensor in (group.points, group.labels, group.boxes, group.masks):
            assert tensor is None or len(tensor) == len(indices)
        for row, index in enumerate(indices.tolist()):
            for point in [] if group.points is None else group.points[row].numpy():
                assert at(masks[index], point)
        count = 0 if group.points is None else group.points.shape[1]
        kinds.add((count, group.boxes is None, group.masks is None))
    assert sorted(seen) == list(range(10)) and len(kinds) >= 3


def test_weights_decide_how_often() -> None:
    mask = rectangle(10, 10, 20, 20)
    sample = make(mask)
    prompts = sample_prompts(sample, [1] * 400, PromptMix(box=3, point=1), np.random.default_rng(0))
    assert 0.68 < np.mean([prompt.box is not None for prompt in prompts]) < 0.82


def test_equal_seeds_give_equal_prompts() -> None:
    sample = make(rectangle(10, 10, 20, 20))
    [one], [two] = (sample_prompts(sample, [1], PromptMix(random=1), np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(points_of(one, 1), points_of(two, 1))


def test_next_point_lies_on_the_error_in_x_y_order() -> None:
    target = np.stack([rectangle(40, 5, 10, 10), rectangle(5, 60, 10, 10), rectangle(5, 5, 4, 4)])
    predicted = target.copy()
    predicted[0, 45:50] = False  # missed: rows 45 to 49, columns 5 to 14
    predicted[1, 50:55, 70:75] = True  # too much
    for seed in range(20):
        points, labels = next_points(predicted, target, np.random.default_rng(seed))
        assert points.shape == (3, 1, 2) and labels.tolist() == [[1], [0], [-1]]
        x, y = points[0, 0]
        assert 5 < x < 15 and 45 < y < 50
        x, y = points[1, 0]
        assert 70 < x < 75 and 50 < y < 55


def test_next_points_reach_all_of_the_error() -> None:
    target, predicted = rectangle(10, 10, 2, 2)[None], np.zeros((1, 60, 80), bool)
    seen = {tuple(next_points(predicted, target, np.random.default_rng(seed))[0][0, 0]) for seed in range(60)}
    assert seen == {(10.5, 10.5), (11.5, 10.5), (10.5, 11.5), (11.5, 11.5)}


def test_objects_with_more_points_come_after_those_with_fewer() -> None:
    two, one = (ObjectPrompt.by_points(np.ones((count, 2), np.float32)) for count in (2, 1))
    groups = group_prompts([two, one, two], Frame.of((60, 80), 80))
    assert [indices.tolist() for indices, _ in groups] == [[1], [0, 2]]
    assert [None if own.points is None else own.points.shape for _, own in groups] == [(1, 1, 2), (2, 2, 2)]


def test_a_mix_of_nothing_cannot_work() -> None:
    with pytest.raises(UsageError):
        PromptMix()


def test_selection_by_name() -> None:
    sample = make(rectangle(10, 10, 20, 20))
    [prompt] = sample_prompts(sample, [1], PromptMix.from_selection("center", 3), np.random.default_rng(0))
    points = points_of(prompt, 1)
    assert points.shape == (3, 2) and points[0].tolist() == list(interior_point(sample.mask(1)))
    assert PromptMix.from_selection("random", 5) == PromptMix(points=1, num_points=5)
    assert PromptMix.from_selection("bbox") == PromptMix(box=1)


def test_no_point_lies_on_ignored_pixels() -> None:
    mask, rng = rectangle(20, 30, 10, 20), np.random.default_rng(0)
    border = rectangle(14, 24, 22, 32) & ~mask
    sample = dataclasses.replace(make(mask), ignored=border)
    for _ in range(20):
        [prompt] = sample_prompts(sample, [1], PromptMix(negative=1.0, num_points=9), rng)
        assert len(points_of(prompt, 0)) == 9 and not any(at(border, point) for point in points_of(prompt, 0))
