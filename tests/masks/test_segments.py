import pytest
import torch
from torch import Tensor

from thfuse_sam.masks.segments import falling_share, find_segments, inner_levels, outer_levels, segment_contrasts

SQUARE = (..., slice(8, 24), slice(8, 24))


def scene(inside: float, outside: float) -> Tensor:
    """The same image for an infrared and a visible label map: float 2x32x32."""
    image = torch.full((2, 32, 32), outside)
    image[SQUARE] = inside
    return image


def test_contrast_is_the_step_to_the_surroundings() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[SQUARE] = 1
    segments = find_segments(labels, torch.zeros_like(labels))
    sources = torch.stack([scene(0.9, 0.2), scene(0.3, 0.4)])
    torch.testing.assert_close(segment_contrasts(segments, sources)[:, 1], torch.tensor([0.7, -0.1]))


def test_pixels_of_neighbours_count_in_the_surroundings_as_much_as_asked() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[SQUARE] = 1
    labels[..., 24:] = 2
    image = scene(0.9, 0.2)[:1, None]
    image[..., 24:] = 0.8
    segments = find_segments(labels)
    inside = inner_levels(segments, image)
    all_alike, few, none = (outer_levels(segments, image, inside, others)[0, 1] for others in (1.0, 0.25, 0))
    torch.testing.assert_close(torch.stack([inside[0, 1], none]), torch.tensor([0.9, 0.2]))
    share = (all_alike - 0.2) / 0.6
    assert 0.1 < share < 0.5
    torch.testing.assert_close(few, 0.2 + 0.6 * 0.25 * share / (0.25 * share + 1 - share))


def test_pairs_of_pixels_count_as_much_as_asked() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[SQUARE] = 1
    image = scene(0.9, 0.2)[:1, None]
    image[..., 16:, :8] = image[..., 16:, 24:] = image[..., 24:, :] = 0.6
    segments = find_segments(labels)
    inside = inner_levels(segments, image)
    dark, none = ((image.flatten()[segments.outline.outer] < limit).float() for limit in (0.5, 0))
    fall = torch.full((segments.count,), 0.35)
    for weights, level, share in ((dark, 0.2, 1), (none, 0.9, 0)):  # without any, the level inside
        assert outer_levels(segments, image, inside, weights=weights)[0, 1] == pytest.approx(level, abs=1e-5)
        assert falling_share(segments, image[0], fall, 0.3, weights)[1] == share


def test_a_segment_that_fills_its_image_has_no_contrast() -> None:
    everything = torch.ones(1, 32, 32, dtype=torch.int64)
    segments = find_segments(everything, everything)
    assert segment_contrasts(segments, torch.rand(2, 2, 32, 32)).count_nonzero() == 0


def test_an_image_falls_at_the_part_of_the_outline_that_is_an_edge() -> None:
    labels = torch.zeros(2, 32, 32, dtype=torch.int64)
    labels[0][SQUARE] = 1
    labels[1] = 1
    image = scene(0.9, 0.2)
    half = image.clone()
    half[0, :, 16:] = 0.9  # as bright to the right of the square's middle
    segments = find_segments(labels)
    fall = torch.full((segments.count,), 0.35)
    every = torch.ones(len(segments.outline.inner))
    whole, part = (falling_share(segments, values, fall, 0.3, every) for values in (image, half))
    assert whole[1] == 1 and part[1] == 0.5
    assert whole[-1] == 0  # it fills its image
    assert falling_share(segments, 1 - image, fall, 0.3, every).max() == 0
    # To a neighbour as bright the image does not fall, and pairs with neighbours count less.
    labels[0, :, 24:] = 2
    image[0, :, 24:] = 0.9
    segments = find_segments(labels)
    every = torch.ones(len(segments.outline.inner))
    beside = [float(falling_share(segments, image, fall, others, every)[1]) for others in (0.3, 1)]
    assert 0.6 < beside[1] < beside[0] < 1
