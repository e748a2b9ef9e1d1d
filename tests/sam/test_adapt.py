"""What is trained, what stays frozen, adapters, and files of both."""

import json
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import nn

from thfuse_sam.errors import CheckpointError, UsageError
from thfuse_sam.files import file_sha256
from thfuse_sam.options.finetune import LoraSettings
from thfuse_sam.sam import export
from thfuse_sam.sam.adapt import PARTS, Adaptation, load_trained_state, prepare, set_mode, trained_state
from thfuse_sam.sam.checkpoints import ResolvedSam, resolve_tuned
from thfuse_sam.sam.loading import load_sam
from thfuse_sam.sam.lora import adapted_layers, lora_layers, merged_state_dict
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.sam.registry import MODEL_TYPES, build_sam
from thfuse_sam.sam.tiny_vit import build_vit_t
from thfuse_sam.sam.weights import read_weights

LORA = LoraSettings(rank=2, alpha=4.0)


def small_vit() -> Sam:
    """A `vit_b` in miniature: the same modules and names."""
    sam = build_vit_t(64)
    sam.image_encoder = ImageEncoderViT(
        img_size=64, embed_dim=32, depth=2, num_heads=2, use_rel_pos=True, window_size=3, global_attn_indexes=(1,)
    )
    return sam


BUILDERS = {"vit": small_vit, "vit_t": partial(build_vit_t, 64), "vit_nano": partial(build_vit_nano, 64)}


def image() -> torch.Tensor:
    return torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(3))


def train_a_little(sam: Sam, adaptation: Adaptation, steps: int = 5) -> None:
    set_mode(sam, adaptation, training=True)
    optimizer = torch.optim.SGD([p for p in sam.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        sparse, dense = sam.prompt_encoder((torch.rand(1, 1, 2) * 64, torch.ones(1, 1)), None, None)
        masks, ious = sam.mask_decoder(
            sam.image_encoder(torch.rand(1, 3, 64, 64)), sam.prompt_encoder.get_dense_pe(), sparse, dense, True
        )
        optimizer.zero_grad()
        (masks.square().mean() + ious.square().mean()).backward()
        optimizer.step()
    set_mode(sam, adaptation, training=False)


def moved(before: dict[str, torch.Tensor], sam: Sam) -> set[str]:
    return {name for name, value in sam.state_dict().items() if name in before and not torch.equal(value, before[name])}


@pytest.mark.parametrize("part", PARTS)
def test_only_what_is_not_frozen_is_trained(part: str) -> None:
    torch.manual_seed(0)
    sam = build_vit_t(64)
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    adaptation = Adaptation(tuple(name for name in PARTS if name != part))
    prepare(sam, adaptation)
    train_a_little(sam, adaptation)
    changed = moved(before, sam)
    assert changed and all(name.startswith(part) for name in changed)
    assert changed <= trained_state(sam, adaptation).keys()


def test_batch_norms_of_a_frozen_encoder_do_not_drift() -> None:
    sam = build_vit_t(64)
    norms = [module for module in sam.image_encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 27
    before = [norm.running_mean.clone() for norm in norms]
    adaptation = Adaptation(("image_encoder",))
    prepare(sam, adaptation)
    train_a_little(sam, adaptation)
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    free = Adaptation()
    prepare(sam, free)
    train_a_little(sam, free)
    assert sum(not torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True)) == 27
    state = trained_state(sam, free)
    assert sum(name.endswith("running_mean") for name in state) == 27
    assert set(state) == set(sam.state_dict())


def test_everything_frozen_is_refused() -> None:
    with pytest.raises(UsageError, match="every part"):
        Adaptation(PARTS)
    assert Adaptation(PARTS, LORA).trained_parts == ()


@pytest.mark.parametrize("kind", BUILDERS)
def test_adapters_start_without_effect_and_merge_into_plain_weights(kind: str) -> None:
    torch.manual_seed(0)
    sam = BUILDERS[kind]().eval()
    plain_keys = list(sam.state_dict())
    with torch.no_grad():
        original = sam.image_encoder(image())
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    adaptation = Adaptation(("prompt_encoder", "mask_decoder"), LORA)
    prepare(sam, adaptation)
    with torch.no_grad():
        # An adapter's products are not those of a plain layer, and round otherwise.
        assert torch.allclose(sam.image_encoder(image()), original, atol=1e-5)
    train_a_little(sam, adaptation, steps=2)
    assert moved(before, sam) == set()
    with torch.no_grad():
        for name, value in sam.named_parameters():
            if "lora_B" in name:  # where training would bring them in a while
                value.normal_(std=0.1)
        tuned = sam.image_encoder(image())
    assert not torch.allclose(tuned, original, atol=1e-2)
    merged = merged_state_dict(sam)
    assert list(merged) == plain_keys
    plain = BUILDERS[kind]().eval()
    plain.load_state_dict(merged)
    with torch.no_grad():
        assert torch.allclose(plain.image_encoder(image()), tuned, atol=1e-4)
    assert all("lora" in name for name in trained_state(sam, adaptation))


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_every_model_type_has_layers_for_adapters(name: str) -> None:
    with torch.device("meta"):
        encoder = MODEL_TYPES[name].build().image_encoder
    layers = adapted_layers(encoder)
    assert len(layers) == {"vit_h": 64, "vit_l": 48, "vit_b": 24, "vit_t": 20}.get(name, len(layers)) > 0
    assert not any("patch_embed" in layer for layer in layers)


def test_adapters_have_dropout_in_training_and_the_encoder_stays_in_eval() -> None:
    sam = build_vit_t(64)
    adaptation = Adaptation(lora=LoraSettings(2, 4.0, dropout=0.5))
    prepare(sam, adaptation)
    set_mode(sam, adaptation, training=True)
    assert not any(m.training for m in sam.image_encoder.modules() if isinstance(m, nn.BatchNorm2d))
    layers = lora_layers(sam)
    assert len(layers) == 20 and all(layer.lora_dropout.training for layer in layers.values())
    set_mode(sam, adaptation, training=False)
    assert not any(module.training for module in sam.modules())


# Files


@pytest.fixture
def base(tmp_path: Path) -> ResolvedSam:
    torch.manual_seed(0)
    path = tmp_path / "base.pth"
    torch.save(build_vit_nano(64).state_dict(), path)
    return ResolvedSam("vit_nano", path, file_sha256(path))


@pytest.mark.parametrize("adaptation", [Adaptation(("image_encoder",)), Adaptation((), LORA), Adaptation()])
def test_trained_and_exported_files_compute_the_same(tmp_path: Path, base: ResolvedSam, adaptation: Adaptation) -> None:
    sam = build_sam("vit_nano", base.checkpoint)
    prepare(sam, adaptation)
    train_a_little(sam, adaptation)
    export.save_trained(tmp_path / "tuned.safetensors", trained_state(sam, adaptation), base.trained_header(adaptation))
    stored = safetensors.torch.load_file(tmp_path / "tuned.safetensors")
    assert stored.keys() == trained_state(sam, adaptation).keys()
    if "image_encoder" in adaptation.frozen:
        assert not any(name.startswith("image_encoder") for name in stored)
    resolved = resolve_tuned("auto", tmp_path / "tuned.safetensors")
    assert resolved.base == base.checkpoint  # it lies beside the trained weights
    assert resolve_tuned("auto", tmp_path / "tuned.safetensors", base=base.checkpoint) == resolved
    loaded = load_sam(resolved)
    assert resolved.model_type == "vit_nano" and not loaded.training
    for suffix in (".pth", ".safetensors"):
        export.export_sam(tmp_path / f"full{suffix}", sam)
        whole = build_sam("vit_nano", tmp_path / f"full{suffix}")
        assert list(read_weights(tmp_path / "full.pth")) == list(read_weights(base.checkpoint))
        with torch.no_grad():
            expected = sam.image_encoder(image())
            assert torch.equal(loaded.image_encoder(image()), expected)
            assert torch.allclose(whole.image_encoder(image()), expected, atol=1e-4)
        for name, value in whole.mask_decoder.state_dict().items():
            assert torch.equal(value, sam.mask_decoder.state_dict()[name])


def test_wrong_base_is_named(tmp_path: Path, base: ResolvedSam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM_CACHE", str(tmp_path / "cache"))
    adaptation = Adaptation(("image_encoder",))
    sam = build_sam("vit_nano", base.checkpoint)
    prepare(sam, adaptation)
    path = tmp_path / "elsewhere" / "tuned.safetensors"
    export.save_trained(path, trained_state(sam, adaptation), base.trained_header(adaptation))
    with pytest.raises(CheckpointError, match=r"was tuned from base\.pth .* give it by `base_checkpoint`"):
        resolve_tuned("auto", path)
    other = tmp_path / "other.pth"
    torch.save(build_vit_nano(64).state_dict(), other)
    with pytest.raises(CheckpointError, match="give the file that was tuned"):
        resolve_tuned("auto", path, base=other)
    with pytest.raises(CheckpointError, match="holds vit_nano, not vit_b"):
        resolve_tuned("vit_b", path)


def test_damaged_descriptions_and_other_parts(tmp_path: Path, base: ResolvedSam) -> None:
    path = tmp_path / "tuned.safetensors"
    for entry, word in (({"format_version": 99}, "format version 99"), ({"format_version": 1}, "damaged description")):
        safetensors.torch.save_file({"x": torch.zeros(1)}, path, {"thfuse_sam_trained": json.dumps(entry)})
        with pytest.raises(CheckpointError, match=word):
            export.read_trained_header(path)
    path.write_bytes(b"\0" * 20)
    assert export.read_trained_header(path) is None
    sam = build_sam("vit_nano", base.checkpoint)
    adaptation = Adaptation(("image_encoder",))
    prepare(sam, adaptation)
    state = trained_state(sam, adaptation)
    removed = sorted(state)[0]
    del state[removed]
    with pytest.raises(CheckpointError, match=f"1 missing: {removed}"):
        load_trained_state(sam, adaptation, state, path)


def test_export_needs_a_suffix_that_readers_know(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`export`"):
        export.export_sam(tmp_path / "model.onnx", build_vit_nano(64))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"rank": 0}, {"dropout": 1.0}])
def test_adapters_that_cannot_work(options: dict) -> None:
    with pytest.raises(UsageError, match=r"`(rank|dropout)`"):
        LoraSettings(**options)
