import torch
from torch import Tensor

from thfuse_sam.masks.segments import find_segments, segment_contrasts, segment_levels

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
    inside, all_alike, few, nearly_none = segment_levels(find_segments(labels), image, 1.0, 0.25, 1e-6)
    assert torch.allclose(inside[0, 1], torch.tensor(0.9)) and torch.allclose(nearly_none[0, 1], torch.tensor(0.2))
    share = (all_alike[0, 1] - 0.2) / 0.6
    assert 0.1 < share < 0.5
    torch.testing.assert_close(few[0, 1], 0.2 + 0.6 * 0.25 * share / (0.25 * share + 1 - share))


def test_a_segment_that_fills_its_image_has_no_contrast() -> None:
    everything = torch.ones(1, 32, 32, dtype=torch.int64)
    segments = find_segments(everything, everything)
    assert segment_contrasts(segments, torch.rand(2, 2, 32, 32)).count_nonzero() == 0
