"""The faster way through the image encoders, against the encoders themselves."""

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from thfuse_sam.sam import encoder as module
from thfuse_sam.sam.encoder import convert_encoder, encode_images
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.sam.tiny_vit import TinyViT

SIDE = 80  # pixels: 5x5 places, which the windows of 3 do not divide


def vit(use_rel_pos: bool = True) -> ImageEncoderViT:
    """A small encoder of two windowed and one global block, no parameter of which is zero."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=SIDE, embed_dim=32, depth=3, num_heads=4, out_chans=16, window_size=3, global_attn_indexes=(1,),
        use_rel_pos=use_rel_pos,
    ).eval()  # fmt: skip
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return encoder


def images(count: int = 2, side: int = SIDE) -> torch.Tensor:
    return torch.randn((count, 3, side, side), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("use_rel_pos", [True, False])
@pytest.mark.parametrize("at_once", [1, 1000, 2**22])  # a row, some sequences, everything
@torch.no_grad()
def test_vit_equals_the_encoder_itself(use_rel_pos: bool, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BIAS_VALUES_CPU", at_once)
    encoder = vit(use_rel_pos)
    expected = encoder(images())
    assert torch.allclose(encode_images(encoder, images()), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
def test_relative_positions_count() -> None:
    """The comparison would not see a bias that is left out if it hardly mattered."""
    encoder = vit()
    expected = encode_images(encoder, images())
    encoder.blocks[1].attn.rel_pos_w.zero_()
    assert (encode_images(encoder, images()) - expected).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize("encoder", [TinyViT(64), build_vit_nano(64).image_encoder], ids=["vit_t", "vit_nano"])
@torch.no_grad()
def test_other_encoders_run_as_they_are(encoder: nn.Module) -> None:
    expected = encoder.eval()(images(1, 64))
    found = encode_images(encoder, images(1, 64))
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
def test_half_precision_is_near_and_leaves_the_weights() -> None:
    encoder = vit()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    expected = encode_images(encoder, images(1))
    found = encode_images(encoder, images(1), torch.bfloat16)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().mean() < 0.05 * expected.abs().mean()
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(value.dtype == torch.float32 for value in encoder.state_dict().values())


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("use_rel_pos", [True, False])
@torch.no_grad()
def test_converted_weights_give_the_same_bits(use_rel_pos: bool, dtype: torch.dtype, in_place: bool) -> None:
    encoder = vit(use_rel_pos)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    expected = encode_images(encoder, images(), dtype)
    converted = convert_encoder(encoder, dtype, in_place=in_place)
    assert torch.equal(encode_images(converted, images(), dtype), expected)
    assert converted.blocks[0].mlp.lin1.weight.dtype == dtype
    if in_place:
        assert converted is encoder
    else:
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
        assert converted.pos_embed is encoder.pos_embed, "what is not converted is shared"
