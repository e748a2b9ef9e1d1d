"""The rewritten mask decoder against segment_anything's own, with random weights."""

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from thfuse_sam.sam.decoder import PointDecoder, ReferenceDecoder
from thfuse_sam.sam.geometry import Frame
from thfuse_sam.sam.postprocess import upsample_logits


def build(grid: int, channels: int, heads: int = 8, depth: int = 2, masks: int = 3) -> Sam:
    """A model without an encoder, for embeddings of grid x grid tokens."""
    torch.manual_seed(0)
    encoder = nn.Identity()
    encoder.img_size = 16 * grid
    transformer = TwoWayTransformer(depth=depth, embedding_dim=channels, num_heads=heads, mlp_dim=64)
    sam = Sam(
        encoder,
        PromptEncoder(channels, (grid, grid), (16 * grid, 16 * grid), mask_in_chans=4),
        MaskDecoder(transformer_dim=channels, transformer=transformer, num_multimask_outputs=masks),
    ).eval()
    for name, parameter in sam.named_parameters():
        if "norm" in name or name.endswith("bias"):
            nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    return sam


def inputs(sam: Sam, points: int) -> tuple[Tensor, Tensor]:
    """An image embedding, and points in pixels of the encoder's input."""
    random = torch.Generator().manual_seed(1)
    grid, channels = sam.prompt_encoder.image_embedding_size[0], sam.prompt_encoder.embed_dim
    features = torch.randn((1, channels, grid, grid), generator=random)
    return features, torch.rand((points, 2), generator=random, dtype=torch.float64) * 16 * grid


@pytest.mark.parametrize(
    ("sam", "size", "points"),
    [
        (build(4, 128), (64, 64), 5),
        (build(4, 128), (40, 64), 3),
        (build(4, 128), (64, 11), 3),
        (build(64, 256), (768, 1024), 2),
        (build(5, 64, heads=4, depth=3), (80, 50), 4),
        (build(3, 32, heads=2, depth=1, masks=2), (1, 48), 1),
    ],
    ids=["vit_nano", "wide", "tall", "SAM", "deeper", "shallow"],
)
@torch.no_grad()
def test_equals_the_reference_decoder(sam: Sam, size: tuple[int, int], points: int) -> None:
    features, coordinates = inputs(sam, points)
    stock = ReferenceDecoder(sam).decode(features, coordinates)
    fast = PointDecoder(sam)
    found = fast.decode(fast.prepare(features, size), coordinates)
    assert torch.allclose(found.predicted_ious, stock.predicted_ious, rtol=0, atol=1e-5)

    masks = torch.arange(stock.predicted_ious.numel())
    expected, logits = stock.logits(masks), found.logits(masks)
    rows, columns = logits.shape[1:]
    largest = expected.abs().max().item()
    assert torch.allclose(logits, expected[:, :rows, :columns], rtol=0, atol=1e-5 * largest)
    # What was left out has no influence on the masks at the image's size.
    side = sam.image_encoder.img_size
    upsampled = [upsample_logits(part, Frame((30, 40), size, side)) for part in (logits, expected)]
    assert torch.allclose(*upsampled, rtol=0, atol=1e-5 * largest)


@torch.no_grad()
def test_leaves_out_what_is_padding() -> None:
    sam = build(64, 32)
    context = PointDecoder(sam).prepare(inputs(sam, 1)[0], (768, 1024))
    assert context.unpadded == (49, 64)


@pytest.mark.parametrize("wanted", [[], [0], [4], [1, 2, 7], [0, 1, 2, 3, 4, 5, 6, 7, 8]])
@torch.no_grad()
def test_logits_of_some_masks_are_those_of_all(wanted: list[int]) -> None:
    sam = build(4, 32)
    features, coordinates = inputs(sam, 3)
    fast = PointDecoder(sam)
    found = fast.decode(fast.prepare(features, (40, 64)), coordinates)
    everything = found.logits(torch.arange(9))
    assert torch.allclose(found.logits(torch.tensor(wanted, dtype=torch.int64)), everything[wanted], atol=1e-6)


@torch.no_grad()
def test_prompts_do_not_see_each_other() -> None:
    sam = build(4, 32)
    features, coordinates = inputs(sam, 6)
    fast = PointDecoder(sam)
    context = fast.prepare(features, (64, 64))
    together = fast.decode(context, coordinates).logits(torch.arange(18))
    alone = torch.cat([fast.decode(context, point[None]).logits(torch.arange(3)) for point in coordinates])
    assert torch.allclose(together, alone, atol=1e-5)


def test_tokens_take_each_others_place_only_without_gradients_and_never_those_of_the_image() -> None:
    sam = build(4, 64)
    features, _ = inputs(sam, 3)
    decoder = PointDecoder(sam)
    sparse = torch.rand(3, 2, sam.prompt_encoder.embed_dim)
    with torch.no_grad():
        context = decoder.prepare(features, (64, 64))
        first, again = decoder.decode_all(context, sparse), decoder.decode_all(context, sparse)
    with_gradients = decoder.decode_all(context, sparse.requires_grad_())
    for one, two, three in zip(first, again, with_gradients, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(three.detach(), one, rtol=0, atol=1e-5)
    with_gradients[0].sum().backward()
    assert sparse.grad is not None and sparse.grad.abs().sum() > 0


@torch.no_grad()
def test_half_precision_is_near_and_leaves_the_weights() -> None:
    sam = build(4, 64)
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    features, coordinates = inputs(sam, 3)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        fast = PointDecoder(sam, dtype)
        results.append(fast.decode(fast.prepare(features, (64, 64)), coordinates).logits(torch.arange(9)))
    assert 0 < (results[0] - results[1]).abs().mean() < 0.05 * results[0].abs().mean()
    assert all(torch.equal(value, before[name]) for name, value in sam.state_dict().items())


@torch.no_grad()
def test_reference_decoder_computes_in_half_precision_when_asked() -> None:
    sam = build(3, 32)
    features, coordinates = inputs(sam, 2)
    full, half = (
        ReferenceDecoder(sam, dtype).decode(features, coordinates).logits(torch.arange(6))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().mean() < 0.05 * full.abs().mean()


def test_weights_are_read_anew_for_each_image() -> None:
    sam = build(3, 32)
    features, coordinates = inputs(sam, 1)
    fast = PointDecoder(sam)
    with torch.no_grad():
        sam.mask_decoder.transformer.layers[1].cross_attn_token_to_image.k_proj.weight.mul_(3)
        sam.mask_decoder.output_upscaling[0].weight.mul_(2)
        stock = ReferenceDecoder(sam).decode(features, coordinates).logits(torch.arange(3))
        found = fast.decode(fast.prepare(features, (48, 48)), coordinates).logits(torch.arange(3))
    assert torch.allclose(found, stock, atol=1e-5)


def test_supports_plain_models_only() -> None:
    assert PointDecoder.supports(build(3, 32))

    class Adapter(nn.Linear):
        pass

    adapted = build(3, 32)
    adapted.mask_decoder.transformer.layers[1].cross_attn_image_to_token.q_proj = Adapter(32, 16)
    assert not PointDecoder.supports(adapted)
    replaced = build(3, 32)
    replaced.mask_decoder = nn.Identity()
    assert not PointDecoder.supports(replaced)
