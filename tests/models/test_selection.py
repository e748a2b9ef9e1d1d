from itertools import pairwise

import pytest
import torch
from torch import Tensor

from thfuse_sam.models.selection import CELL, select_source
from thfuse_sam.models.sky import REACH

CHECKS = ((torch.arange(96)[:, None] // 6 + torch.arange(96) // 6) % 2 - 0.5).reshape(1, 1, 96, 96)


def flat(level: float) -> Tensor:
    return torch.full((1, 1, 96, 96), level)


def test_in_the_dark_the_brighter_source_is_followed() -> None:
    ir, vi = flat(0.3), flat(0.1)
    vi[..., 40:56, 40:56] = 0.5  # a lamp
    result = select_source((ir + vi) / 2, ir, vi, 1.0)
    assert result[..., 10, 10].item() == pytest.approx(0.2 + 0.2 * 0.1, abs=2e-3)
    assert result[..., 48, 48].item() > 0.4 + 0.015


@pytest.mark.parametrize("textured", ["ir", "vi"])
def test_in_bright_places_the_source_that_varies_more_is_followed(textured: str) -> None:
    images = {"ir": flat(0.8), "vi": flat(0.8), textured: 0.7 + 0.4 * CHECKS}
    fused = (images["ir"] + images["vi"]) / 2
    before, after = (
        (image - images[textured]).abs().mean() for image in (fused, select_source(fused, **images, amount=1.0))
    )
    assert after < 0.75 * before


def test_a_mixture_becomes_more_decided_and_one_source_stays() -> None:
    ir, vi = 0.5 + 0.2 * CHECKS, 0.5 - 0.2 * CHECKS  # alike but for their sign, so that neither is more salient
    decided = {}
    for share in (0.2, 0.5, 0.8):
        result = select_source(vi + share * (ir - vi), ir, vi, 1.0)
        half_way = share + 0.2 * (0.5 - share)  # what following both alike makes of it
        decided[share] = ((result - vi) / (ir - vi)).mean().item() - half_way
    assert decided[0.2] < -0.03 and decided[0.8] > 0.03 and decided[0.5] == pytest.approx(0, abs=1e-3)
    assert torch.equal(select_source(ir, ir, ir, 1.0), ir)


def test_no_detail_is_stronger_than_in_the_sources() -> None:
    ir, vi = 0.5 + 0.1 * CHECKS, 0.5 + 0.04 * CHECKS
    result = select_source(0.5 + 0.4 * CHECKS, ir, vi, 1.0)
    middle = (..., slice(24, -24), slice(24, -24))
    assert (result - 0.5)[middle].abs().max() < 0.06


def test_it_comes_and_goes_smoothly() -> None:
    """Half a grey level of one source moves no pixel by more than a few times that."""
    ir = 0.5 + 0.1 * CHECKS
    results = [select_source((ir + vi) / 2, ir, vi, 1.0) for vi in (flat(0.2 + step / 510) for step in range(200))]
    assert max(float((after - before).abs().max()) for before, after in pairwise(results)) < 4 / 510


def test_nothing_far_away_counts_and_half_of_it_is_half() -> None:
    generator = torch.Generator().manual_seed(0)
    images = [0.3 + 0.4 * torch.rand(1, 1, 200, 200, generator=generator) for _ in range(3)]
    before = select_source(*images, 1.0)
    torch.testing.assert_close(select_source(*images, 0.5), (before + images[0]) / 2)
    for image in images:
        image[..., :CELL, :CELL] = 0.1
    changed = torch.where((select_source(*images, 1.0) != before)[0, 0])
    assert CELL < int(max(places.max() for places in changed)) < CELL + REACH


def test_gradients_lead_back_to_the_fused_image() -> None:
    fused = flat(0.4).requires_grad_()
    select_source(fused, 0.5 + 0.1 * CHECKS, flat(0.3), 1.0).sum().backward()
    assert fused.grad is not None and fused.grad.isfinite().all() and fused.grad.min() > 0
