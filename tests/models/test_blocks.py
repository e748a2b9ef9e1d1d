import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thfuse_sam.models.blocks import (
    ChannelAttention,
    PooledSpatialAttention,
    cell_means,
    channels_to_space,
    clamp_keeping_gradients,
    pad_to_multiple,
    pointwise,
    space_to_channels,
    upsample,
)


def test_padding_mirrors_where_it_can() -> None:
    image = torch.arange(5.0).reshape(1, 1, 1, 5).expand(1, 1, 5, 5)
    padded, (top, left) = pad_to_multiple(image, 8)
    assert padded.shape == (1, 1, 8, 8)
    assert (top, left) == (1, 1)
    assert padded[0, 0, 0].tolist() == [1, 0, 1, 2, 3, 4, 3, 2]


def test_padding_repeats_the_border_where_there_is_too_little_to_mirror() -> None:
    image = torch.arange(3.0).reshape(1, 1, 1, 3).expand(1, 1, 3, 3)
    padded, (top, left) = pad_to_multiple(image, 16)
    assert padded.shape == (1, 1, 16, 16)
    assert torch.equal(padded[..., top : top + 3, left : left + 3], image)
    assert padded[0, 0, 0, 0] == 0
    assert padded[0, 0, 0, -1] == 2


def test_padding_leaves_a_fitting_image_alone() -> None:
    image = torch.rand(1, 1, 16, 24)
    assert pad_to_multiple(image, 8)[0] is image


@pytest.mark.parametrize(
    ("value", "gradient", "expected"),
    [
        (0.5, 1.0, 1.0),
        (0.5, -1.0, -1.0),
        (1.5, 1.0, 1.0),  # lowers the value: leads back
        (1.5, -1.0, 0.0),
        (-0.5, -1.0, -1.0),
        (-0.5, 1.0, 0.0),
    ],
)
def test_clamp_drops_only_gradients_that_lead_away(value: float, gradient: float, expected: float) -> None:
    values = torch.tensor([value], requires_grad=True)
    clamped = clamp_keeping_gradients(values)
    clamped.backward(torch.tensor([gradient]))
    assert clamped.item() == min(max(value, 0.0), 1.0)
    assert values.grad is not None
    assert values.grad.item() == expected


def test_pooled_attention_equals_full_attention_on_small_images() -> None:
    torch.manual_seed(0)
    attention = PooledSpatialAttention(8, heads=2, grid=4)
    x = torch.rand(1, 4, 3, 8)
    tokens = x.reshape(1, 12, 8)
    query = attention.query(tokens).reshape(1, 12, 2, 4).transpose(1, 2)
    key, value = (part.reshape(1, 12, 2, 4).transpose(1, 2) for part in attention.key_value(tokens).chunk(2, dim=-1))
    weights = (query @ key.transpose(-2, -1) / 4**0.5).softmax(-1)
    expected = attention.proj((weights @ value).transpose(1, 2).reshape(1, 12, 8)).reshape(1, 4, 3, 8)
    torch.testing.assert_close(attention(x), expected)


def test_channel_attention_ignores_how_large_the_image_is() -> None:
    torch.manual_seed(0)
    attention = ChannelAttention(8, heads=2)
    x = torch.rand(1, 4, 4, 8)
    tiled = x.repeat(1, 2, 3, 1)
    torch.testing.assert_close(attention(tiled)[:, :4, :4], attention(x))


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("factor", [1, 2, 3, 8])
def test_enlarged_images_are_pytorchs_with_and_without_gradients(channels: int, factor: int) -> None:
    x = torch.rand(2, channels, 5, 7)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    assert torch.equal(upsample(x, factor), expected)
    with torch.no_grad():
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.testing.assert_close(upsample(x.contiguous(memory_format=layout), factor), expected)


@pytest.mark.parametrize("factor", [1, 2])
def test_pixels_become_channels_and_again_pixels(factor: int) -> None:
    image, cells = torch.rand(2, 3, 4, 6), torch.rand(2, 8, 3, 5)
    with torch.no_grad():
        for layout in (torch.contiguous_format, torch.channels_last):
            own = space_to_channels(image.contiguous(memory_format=layout), factor)
            assert torch.equal(own, F.pixel_unshuffle(image, factor))
            assert own.is_contiguous(memory_format=torch.channels_last)
            own = channels_to_space(cells.contiguous(memory_format=layout), factor)
            assert torch.equal(own, F.pixel_shuffle(cells, factor))
            assert own.is_contiguous()


def test_a_pointwise_convolution_is_pytorchs() -> None:
    conv, x = nn.Conv2d(6, 4, 1), torch.rand(2, 6, 5, 7)
    with torch.no_grad():
        torch.testing.assert_close(pointwise(conv, x), conv(x))
        assert pointwise(conv, x).is_contiguous(memory_format=torch.channels_last)


def test_cell_means_are_means_of_squares() -> None:
    images = torch.rand(2, 3, 8, 16)
    torch.testing.assert_close(cell_means(images, 4), F.avg_pool2d(images, 4))
