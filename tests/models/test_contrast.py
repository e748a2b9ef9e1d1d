import pytest
import torch
from torch import Tensor

from thfuse_sam.models.contrast import keep_contrast

SQUARE = (..., slice(28, 38), slice(20, 30))
FLAT = torch.full((1, 1, 96, 96), 0.3)


def scene(contrast: float, level: float = 0.3) -> Tensor:
    image = torch.full((1, 1, 96, 96), level)
    image[SQUARE] += contrast
    return image


@pytest.fixture
def labels() -> Tensor:
    result = torch.zeros(1, 96, 96, dtype=torch.int64)
    result[SQUARE] = 7
    return result


def contrast_of(fused: Tensor) -> float:
    return float(fused[SQUARE].mean() - fused[..., 10, :].mean())


def test_a_warm_segment_gets_its_infrared_contrast(labels: Tensor) -> None:
    for gain in (1.0, 1.2):
        fused = keep_contrast(scene(0.05), scene(0.3), FLAT, labels, gain)
        assert contrast_of(fused) == pytest.approx(gain * 0.3, rel=0.05)
    far = (..., slice(0, 20), slice(None))
    assert torch.equal(fused[far], scene(0.05)[far])


@pytest.mark.parametrize(
    ("ir", "vi"),
    [
        (scene(-0.3), FLAT),
        (FLAT, scene(0.3)),
        (scene(0.2), scene(0.3)),
        (scene(0.2), scene(-0.3)),
        (scene(0.07), scene(-0.12)),
        (FLAT, FLAT),
    ],
    ids=["cold", "visible", "more visible", "darker visible", "a little darker visible", "flat"],
)
def test_other_segments_stay_bit_for_bit(labels: Tensor, ir: Tensor, vi: Tensor) -> None:
    assert torch.equal(keep_contrast(scene(0.05), ir, vi, labels, 1.0), scene(0.05))


def test_people_who_stand_close_together_are_lifted_as_one_is(labels: Tensor) -> None:
    crowd, ir = labels.clone(), scene(0.2)
    for number, left in ((8, 10), (9, 30)):
        crowd[0, 28:38, left : left + 10] = number
        ir[..., 28:38, left : left + 10] += 0.2
    assert contrast_of(keep_contrast(FLAT, ir, FLAT, crowd, 1.0)) > 0.8 * 0.2


def test_what_stands_out_already_stays(labels: Tensor) -> None:
    assert torch.equal(keep_contrast(scene(0.4), scene(0.3), FLAT, labels, 1.0), scene(0.4))


def test_segments_that_are_large_or_tiny_are_left_alone() -> None:
    torch.manual_seed(0)
    fused, ir = torch.rand(2, 1, 1, 96, 96)
    for size in (2, 40):
        labels = torch.zeros(1, 96, 96, dtype=torch.int64)
        labels[:, 8 : 8 + size, 8 : 8 + size] = 1
        assert torch.equal(keep_contrast(fused, ir + labels[:, None], fused, labels, 1.0), fused)


def test_a_cloud_before_a_cold_sky_stays_as_it_is_seen(labels: Tensor) -> None:
    ir, vi, fused = scene(0.3, 0.05), torch.full((1, 1, 96, 96), 0.7), torch.full((1, 1, 96, 96), 0.6)
    assert torch.equal(keep_contrast(fused, ir, vi, labels, 1.0), fused)
    assert contrast_of(keep_contrast(fused, ir, vi - 0.4, labels, 1.0)) > 0.2


@pytest.mark.parametrize(("contrast", "upright", "is_lifted"), [(0.12, 0, 0), (0.12, 1, 1), (0.3, 0, 1)])
def test_strips_of_warm_ground_are_left_alone(contrast: float, upright: bool, is_lifted: bool) -> None:
    fused = torch.full((1, 1, 96, 96), 0.3)
    labels = torch.zeros(1, 96, 96, dtype=torch.int64)
    labels[:, 40:45, 20:50] = 1
    labels = labels.mT if upright else labels
    ir = fused + contrast * labels[:, None]
    assert torch.equal(keep_contrast(fused, ir, fused, labels, 1.0), fused) != is_lifted


def test_a_mask_that_reaches_too_far_shows_no_border(labels: Tensor) -> None:
    wide = torch.zeros_like(labels)
    wide[:, 27:39, 19:31] = 1
    fused = keep_contrast(FLAT, scene(0.3), FLAT, wide, 1.0)
    assert contrast_of(fused) > 0.25
    assert torch.equal(fused[..., 23, :], FLAT[..., 23, :])


def test_it_comes_and_goes_smoothly(labels: Tensor) -> None:
    """A step of half a grey level in infrared never changes the result by more than a few."""
    vi = scene(-0.1)
    levels = [contrast_of(keep_contrast(FLAT, scene(step / 510), vi, labels, 1.1)) for step in range(100)]
    steps = torch.tensor(levels).diff() * 255
    assert levels[0] == pytest.approx(0, abs=1e-6) and levels[-1] > 0.15
    assert steps.min() >= -1e-4 and steps.max() < 3


def test_brighter_surroundings_come_and_go_smoothly(labels: Tensor) -> None:
    """Half a grey level of the visible image: of all surroundings, of most of them, and of a half."""
    for share in (1.0, 0.85, 0.5):
        bright = torch.rand(FLAT.shape, generator=torch.Generator().manual_seed(0)) < share
        bright[SQUARE] = False
        images = [FLAT + step / 510 * bright for step in range(140)]
        levels = [contrast_of(keep_contrast(FLAT, scene(0.4), vi, labels, 1.0)) for vi in images]
        assert levels[0] == pytest.approx(0.4, rel=0.05)
        assert torch.tensor(levels).diff().abs().max() * 255 < 6


def test_a_warm_person_in_the_dark_before_a_lit_wall_is_lifted(labels: Tensor) -> None:
    assert contrast_of(keep_contrast(FLAT, scene(0.4), scene(-0.25), labels, 1.0)) == pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_of_numbers_are_lifted_alike(labels: Tensor, dtype: torch.dtype) -> None:
    fused, ir, vi = (image.to(dtype) for image in (FLAT, scene(0.4), FLAT))
    assert contrast_of(keep_contrast(fused, ir, vi, labels, 1.0)) == pytest.approx(0.4, rel=0.1)


def test_near_white_texture_stays_and_nothing_leaves_the_range(labels: Tensor) -> None:
    texture = 0.02 * (torch.arange(96) % 2).expand(1, 1, 96, 96)
    fused = keep_contrast(FLAT + 0.45 + texture, scene(0.5), FLAT, labels, 1.0)
    assert fused.max() <= 1 and contrast_of(fused) > 0.15
    assert fused[SQUARE].std() > 0.005


def test_each_image_of_a_batch_is_treated_by_itself(labels: Tensor) -> None:
    torch.manual_seed(0)
    fused, vi = torch.rand(2, 2, 1, 96, 96) / 2
    ir = torch.cat([scene(0.4), scene(0.4)])
    together = keep_contrast(fused, ir, vi / 9, torch.cat([labels, torch.zeros_like(labels)]), 1.0)
    assert torch.equal(together[1], fused[1])
    torch.testing.assert_close(together[:1], keep_contrast(fused[:1], ir[:1], vi[:1] / 9, labels, 1.0))


def test_gradients_lead_back(labels: Tensor) -> None:
    fused = scene(0.05).requires_grad_()
    (scene(0.3) - keep_contrast(fused, scene(0.3), FLAT, labels, 1.0)).square().mean().backward()
    assert fused.grad is not None and fused.grad.isfinite().all() and fused.grad.abs().max() > 0
