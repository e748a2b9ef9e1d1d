"""Model types: recognition, building from checkpoints, and `vit_t` against the published implementation."""

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from segment_anything import sam_model_registry
from torch import nn

from thfuse_sam.errors import CheckpointError, UsageError
from thfuse_sam.sam import tiny_vit
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.sam.registry import MODEL_TYPES, build_sam, find_model_type
from thfuse_sam.sam.tiny_vit import ConvNorm, TinyViT, build_vit_t
from thfuse_sam.sam.weights import recognise_model_type


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_every_type_is_recognised_by_its_own_weights(name: str) -> None:
    kind = MODEL_TYPES[name]
    with torch.device("meta"):
        sam = kind.build()
    assert kind.name == name
    assert recognise_model_type(sam.state_dict()) == name
    assert sam.image_encoder.img_size == (640 if name == "vit_nano" else 1024)


@pytest.mark.parametrize("name", [name for name, kind in MODEL_TYPES.items() if kind.url])
def test_published_types_have_a_full_checksum(name: str) -> None:
    kind = MODEL_TYPES[name]
    assert kind.sha256 is not None
    assert len(bytes.fromhex(kind.sha256)) == 32
    assert kind.url is not None
    assert kind.url.endswith(kind.file_name)


def test_unknown_type() -> None:
    with pytest.raises(UsageError, match=r"`sam_model_type` vit_x: .*vit_h, vit_l, vit_b, vit_t, vit_nano"):
        find_model_type("vit_x")


@pytest.mark.parametrize("image_size", [64, 128])
def test_nano_of_another_size_in_half_precision(tmp_path: Path, image_size: int) -> None:
    source = build_vit_nano(image_size)
    path = tmp_path / "nano.safetensors"
    halves = {name: value.half() if value.is_floating_point() else value for name, value in source.state_dict().items()}
    save_file({name: value.contiguous() for name, value in halves.items()}, path)
    sam = build_sam("vit_nano", path, "cpu")
    assert sam.image_encoder.img_size == image_size
    assert not sam.training
    for name, value in sam.state_dict().items():
        assert value.dtype == source.state_dict()[name].dtype
        assert torch.equal(value, halves[name].to(value.dtype))


def test_loaded_model_computes_as_the_saved_one_and_leaves_the_file_free(tmp_path: Path) -> None:
    source = build_vit_nano(64).eval()
    path = tmp_path / "nano.pth"
    torch.save({"state_dict": source.state_dict(), "epoch": 3}, path)
    sam = build_sam("vit_nano", path)
    path.write_bytes(b"overwritten")
    image = sam.preprocess(torch.rand(1, 3, 64, 50) * 255)
    with torch.no_grad():
        assert torch.equal(sam.image_encoder(image), source.image_encoder(image))
    assert {parameter.device.type for parameter in sam.parameters()} == {"cpu"}
    assert all(parameter.requires_grad for parameter in sam.parameters())


def test_wrong_type_names_the_right_one_and_a_key(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    torch.save(build_vit_nano(64).state_dict(), path)
    with pytest.raises(CheckpointError) as caught:
        build_sam("vit_t", path)
    message = str(caught.value)
    assert message.startswith(f"{path}: is a vit_nano, not a vit_t; use `sam_model_type` vit_nano")
    assert "image_encoder.patch_embed.seq.0.c.weight" in message
    assert "\n" not in message
    assert len(message) - len(str(path)) < 900


def test_incomplete_and_altered_weights(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    weights = build_vit_nano(64).state_dict()
    del weights["mask_decoder.iou_token.weight"]
    weights["mask_decoder.extra"] = torch.zeros(1)
    weights["image_encoder.norm.bias"] = torch.zeros(7)
    torch.save(weights, path)
    with pytest.raises(CheckpointError) as caught:
        build_sam("vit_nano", path)
    for part in (
        "1 missing: mask_decoder.iou_token.weight",
        "1 unknown: mask_decoder.extra",
        "image_encoder.norm.bias (7,) instead of (128,)",
    ):
        assert part in str(caught.value)


def test_weights_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "linear.pt"
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"no Segment Anything checkpoint .* 2 unknown: weight, bias"):
        build_sam("vit_b", path)


@pytest.mark.slow
def test_checkpoint_of_the_official_builder_loads(tmp_path: Path) -> None:
    source = sam_model_registry["vit_b"]()
    path = tmp_path / "sam_vit_b.pth"
    torch.save(source.state_dict(), path)
    sam = build_sam("vit_b", path)
    path.unlink()
    weights = source.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in sam.state_dict().items())
    assert torch.equal(sam.pixel_mean, source.pixel_mean)


def test_vit_t_trains_at_any_size() -> None:
    encoder = TinyViT(64)
    embedding = encoder(torch.rand(2, 3, 64, 64))
    assert embedding.shape == (2, 256, 4, 4)
    embedding.square().mean().backward()
    used = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    unused = {name for name, _ in encoder.named_parameters()} - used
    assert unused == {"norm_head.weight", "norm_head.bias", "head.weight", "head.bias"}


def test_vit_t_folds_its_norms_and_divides_its_tokens_only_to_encode(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the statistics of a trained model; and a gradient sees the same function, with nothing overwritten."""
    monkeypatch.setattr(tiny_vit, "ROWS_AT_ONCE", 16)
    monkeypatch.setattr(tiny_vit, "TOKENS_AT_ONCE", 200)  # one of the largest windows, four of the smaller ones
    torch.manual_seed(0)
    encoder = build_vit_t(64).image_encoder.eval()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    image, slope = torch.randn(1, 3, 64, 64), torch.randn(1, 256, 4, 4)
    with torch.no_grad():
        found = encoder(image)
    folded = ConvNorm.forward
    try:
        ConvNorm.forward = nn.Sequential.forward  # type: ignore[assignment,method-assign]
        expected = encoder(image.requires_grad_())
    finally:
        ConvNorm.forward = folded  # type: ignore[method-assign]
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    (expected * slope).sum().backward()
    plain = image.grad
    image.grad = None
    (encoder(image) * slope).sum().backward()
    assert image.grad is not None and plain is not None
    assert torch.allclose(image.grad, plain, rtol=0, atol=1e-4 * plain.abs().max().item())


@pytest.mark.slow
def test_vit_t_equals_the_published_implementation() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports timm by an old name
        published = pytest.importorskip("mobile_sam", reason="mobilesam-mirror is not installed").sam_model_registry
        other = published["vit_t"]()
    sam = build_vit_t()
    weights = sam.state_dict()
    expected = other.state_dict()
    assert weights.keys() == expected.keys()
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in expected.items()
    }

    generator = torch.Generator().manual_seed(0)
    for name, value in weights.items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        # Every parameter away from its start, so that each one counts; variances stay positive.
        value.copy_(1 + 0.1 * noise.abs() if "running_var" in name else value + 0.05 * noise)
    other.load_state_dict(weights)
    image = torch.randn((1, 3, 1024, 1024), generator=generator)
    with torch.no_grad():
        # In eval mode the other one looks its attention biases up when the mode is set.
        found, reference = sam.eval().image_encoder(image), other.eval().image_encoder(image)
    assert reference.std() > 0.1
    assert torch.allclose(found, reference, atol=1e-4)
