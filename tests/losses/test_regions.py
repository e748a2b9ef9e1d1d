from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from thfuse_sam.losses.regions import region_edges_loss, region_loss

SHAPE = (1, 1, 32, 32)
SQUARE = (..., slice(8, 24), slice(8, 24))


def scene(inside: float, outside: float) -> Tensor:
    image = torch.full(SHAPE, outside)
    image[SQUARE] = inside
    return image


@pytest.fixture
def labels() -> Tensor:
    result = torch.zeros(1, 32, 32, dtype=torch.int64)
    result[SQUARE] = 1
    return result


@pytest.mark.parametrize("only", ["ir_labels", "vi_labels"])
def test_region_takes_the_level_of_the_source_that_stands_out(labels: Tensor, only: str) -> None:
    dark_but_clear, bright_but_flat = scene(0.1, 0.8), scene(0.5, 0.5)
    maps: dict[str, Tensor | None] = {"ir_labels": None, "vi_labels": None, only: labels}
    for ir, vi in ((dark_but_clear, bright_but_flat), (bright_but_flat, dark_but_clear)):
        assert region_loss(dark_but_clear, ir, vi, **maps) < 1e-6
        # max(ir, vi) would fill the dark square with the flat source.
        torch.testing.assert_close(region_loss(torch.maximum(ir, vi), ir, vi, **maps), torch.tensor(0.4))


def test_region_leaves_the_texture_free(labels: Tensor) -> None:
    ir, vi = scene(0.9, 0.2), scene(0.5, 0.5)
    textured = ir.clone()
    textured[..., ::2, :] -= 0.05
    textured[..., 1::2, :] += 0.05
    assert region_loss(textured, ir, vi, labels, labels) < 1e-5


def test_segments_of_different_images_are_kept_apart() -> None:
    torch.manual_seed(0)
    ir, vi, fused = torch.rand(3, 2, 1, 32, 32)
    labels = torch.randint(0, 5, (2, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    vi_labels = torch.zeros_like(labels)
    together = region_loss(fused, ir, vi, labels, vi_labels)
    alone = [region_loss(*(x[i : i + 1] for x in (fused, ir, vi, labels, vi_labels))) for i in range(2)]
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)


def test_an_image_without_segments_counts_as_zero(labels: Tensor) -> None:
    torch.manual_seed(0)
    ir, vi, fused = torch.rand(3, 2, 1, 32, 32)
    one_empty = torch.cat([labels, torch.zeros_like(labels)])
    for loss in (region_loss, region_edges_loss):
        alone = loss(fused[:1], ir[:1], vi[:1], labels, None)
        assert alone > 0
        torch.testing.assert_close(loss(fused, ir, vi, one_empty, None), alone / 2)


def test_region_equals_a_plain_loop_over_segments() -> None:
    torch.manual_seed(0)
    ir, vi, fused = torch.rand(3, 1, 1, 32, 32)
    labels = torch.randint(0, 4, (1, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    total = torch.tensor(0.0)
    for label in labels.unique()[1:]:
        inside = labels[0] == label
        contrast = [abs(image[0, 0][inside].mean() - surroundings(image[0, 0], inside)) for image in (ir, vi)]
        source = ir if contrast[0] > contrast[1] else vi
        total += inside.sum() * abs(fused[0, 0][inside].mean() - source[0, 0][inside].mean())
    expected = total / (labels > 0).sum()
    torch.testing.assert_close(region_loss(fused, ir, vi, labels, None), expected)


def surroundings(image: Tensor, inside: Tensor, reach: int = 6) -> Tensor:
    values = []
    for row, column in inside.nonzero().tolist():
        for rows in (-reach, 0, reach):
            for columns in (-reach, 0, reach):
                there = (row + rows, column + columns)
                if 0 <= there[0] < 32 and 0 <= there[1] < 32 and not inside[there]:
                    values.append(image[there])
    return torch.stack(values).mean()


def test_region_edges_asks_for_the_step_of_the_steeper_source_or_more(labels: Tensor) -> None:
    ir, vi = scene(0.8, 0.3), scene(0.5, 0.45)
    assert region_edges_loss(ir, ir, vi, labels, labels) < 1e-6
    assert region_edges_loss(scene(0.95, 0.1), ir, vi, labels, labels) < 1e-6
    missing = region_edges_loss(vi, ir, vi, labels, labels)
    assert missing > 0.1
    assert region_edges_loss(scene(0.3, 0.8), ir, vi, labels, labels) > missing


def test_region_edges_looks_at_outlines_only(labels: Tensor) -> None:
    ir, vi = scene(0.8, 0.3), scene(0.5, 0.45)
    ir[..., 2, :] = 1.0  # an edge that no segment has
    without = ir.clone()
    without[..., 2, :] = 0.3
    assert region_edges_loss(without, ir, vi, labels, labels) < 1e-6


@pytest.mark.parametrize("loss", [region_loss, region_edges_loss])
@pytest.mark.parametrize("given", [True, False])
def test_no_segments_no_loss(loss: Callable[..., Tensor], given: bool) -> None:
    fused, ir, vi = torch.rand(3, 2, 1, 32, 32)
    fused.requires_grad_()
    empty = torch.zeros(2, 32, 32, dtype=torch.int64) if given else None
    value = loss(fused, ir, vi, empty, empty)
    value.backward()
    assert value == 0
    assert fused.grad is not None
    assert fused.grad.count_nonzero() == 0
