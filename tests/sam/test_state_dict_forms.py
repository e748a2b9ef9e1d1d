"""Checkpoints as other tools write them give the same weights as the plain file, or one sentence that helps."""

import argparse
import datetime
import logging
import pickle
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import Tensor, nn

from thfuse_sam.errors import CheckpointError
from thfuse_sam.sam.assembly import assemble_sam
from thfuse_sam.sam.checkpoints import resolve_sam, resolve_tuned
from thfuse_sam.sam.loading import load_sam
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.sam.state_dict_forms import named_weights
from thfuse_sam.sam.weights import read_weights
from thfuse_sam.state_dicts import describe_differences


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_vit_nano(64).state_dict()


def named(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights.items()}


def compiled_encoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("image_encoder.", "image_encoder._orig_mod."): value for name, value in weights.items()}


def by_part(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in weights.items():
        part, _, own = name.partition(".")
        parts[part][own] = value
    return dict(parts)


def saved_by_numpy_1(content: Any, path: Path) -> None:
    """A file whose NumPy numbers carry the module's name of NumPy 1, whichever NumPy is here."""
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


FORMS = {
    "plain": lambda w: w,
    "data parallel": lambda w: {"epoch": 10, "state_dict": named(w, "module.")},
    "lightning": lambda w: {"pytorch-lightning_version": "2.2", "state_dict": named(w, "model.")},
    "lightning around data parallel": lambda w: {"state_dict": named(w, "model.module.sam.")},
    "compiled": lambda w: named(w, "_orig_mod."),
    "compiled encoder": lambda w: {"model": compiled_encoder(w)},
    "with a loss beside": lambda w: {"state_dict": {**named(w, "net."), "loss.weight": torch.ones(2)}},
    "any entry's name": lambda w: {"checkpoint": {"my_network": w}},
    "micro_sam": lambda w: {"model_state": named(w, "sam."), "decoder_state": {"out.weight": torch.zeros(3)}},
    "averaged weights": lambda w: {"n_averaged": torch.tensor(5), **named(w, "module.")},
    "with averages": lambda w: {"ema": {k: v * 0 for k, v in w.items() if v.is_floating_point()}, "model": w},
    "numpy numbers": lambda w: {"model": w, "best": np.float64(0.9), "epoch": np.int64(7), "step": np.int32(1)},
    "numpy arrays": lambda w: {"model": w, "losses": np.arange(4.0), "names": np.array(["a", "b"]), "ok": np.bool_(1)},
    "all of numpy": lambda w: {"model": {name: value.numpy() for name, value in w.items()}, "losses": np.arange(4.0)},
    "dates and paths": lambda w: {"model": w, "time": datetime.datetime(2024, 5, 6), "path": Path("runs/a")},
    "sharded": lambda w: {k.replace("coder.", "coder._fsdp_wrapped_module.", 1): v for k, v in w.items()},
    "a dictionary for each part": lambda w: {"model": by_part(w)},
    "plain objects": lambda w: {"model": w, "args": SimpleNamespace(lr=1), "path": Path("x")},
    "options": lambda w: {"model": w, "args": argparse.Namespace(lr=1e-4, data="x")},
}


@pytest.mark.parametrize("name", ["last.ckpt", "pytorch_model.bin", "best.pt"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_give_the_weights(tmp_path: Path, weights: dict[str, Tensor], form: str, name: str) -> None:
    path = tmp_path / name
    torch.save(FORMS[form](weights), path)
    read = read_weights(path)
    assert set(read) == set(weights)
    assert all(torch.equal(read[name], value) for name, value in weights.items())


def test_numpy_numbers_of_another_numpy(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = tmp_path / "old.pth"
    saved_by_numpy_1({"model": weights, "best": np.float64(0.9), "curve": np.ones(3)}, path)
    assert set(read_weights(path)) == set(weights)


class Payload:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.proof,)


def test_an_array_of_objects_runs_no_code(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    proof, path = tmp_path / "proof", tmp_path / "evil.pth"
    torch.save({"model": weights, "curve": np.array([Payload(proof)], dtype=object)}, path)
    with pytest.raises(CheckpointError, match="refused, it holds code"):
        read_weights(path)
    assert not proof.exists()
    assert b"touch" in pickle.dumps(Payload(proof)), "the payload is one"


def floats(weights: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The weights with every tensor of floats changed."""
    return {name: change(value) if value.is_floating_point() else value for name, value in weights.items()}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_of_a_training_that_failed(tmp_path: Path, weights: dict[str, Tensor], number: float) -> None:
    name = "mask_decoder.iou_token.weight"
    path = tmp_path / "a.pth"
    torch.save({**weights, name: torch.full_like(weights[name], number)}, path)
    with pytest.raises(CheckpointError, match=f"{name} holds numbers that are not finite"):
        load_sam(resolve_sam("auto", path), "cpu")


HYPER = "mask_decoder.hf_token.weight"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda w: {**w, HYPER: torch.zeros(1, 128)}, "SAM-HQ"),
        (lambda w: {"model": {"image_encoder.trunk.pos_embed": torch.zeros(1, 96, 7, 7)}}, "SAM 2"),
        (lambda w: {"model": {"sam_mask_decoder.iou_token.weight": torch.zeros(1, 256)}}, "SAM 2"),
        (lambda w: {k: v for k, v in w.items() if k.startswith("mask_decoder.")}, "mask_decoder.*`base_checkpoint`"),
        (lambda w: {"state": {"a": 1}, "epoch": 3}, "its entries: state, epoch"),
        (lambda w: {"image_encoder.blocks.0.attn.qkv.lora_A.weight": torch.zeros(4, 8)}, "LoRA"),
        (lambda w: {"model": {"model.22.proto.cv1.conv.weight": torch.zeros(1, 1)}}, "FastSAM"),
        (lambda w: {"cls_token": torch.zeros(1)}, "its weights are cls_token"),
        (lambda w: floats(w, lambda value: value.to(torch.int8)), "no plain numbers.*int8"),
        (lambda w: floats(w, lambda value: value.to(torch.complex64)), "no plain numbers.*complex64"),
        (lambda w: floats(w, lambda value: value.to("meta")), "shapes without numbers"),
    ],
)
def test_other_files_get_their_own_sentence(
    tmp_path: Path, weights: dict[str, Tensor], content: Any, words: str
) -> None:
    path = tmp_path / "other.pth"
    torch.save(content(weights), path)
    with pytest.raises(CheckpointError, match=words) as caught:
        resolve_sam("auto", path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{path}: ")


def test_a_pickled_module_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "whole.pth"
    torch.save(nn.Linear(3, 3), path)
    with pytest.raises(CheckpointError, match=r"holds code .*state_dict\(\)"):
        read_weights(path)


@pytest.mark.parametrize("name", ["sam.pth", "sam.pth.tar"])
@pytest.mark.parametrize("save", [save_file, torch.save])
def test_the_content_decides_about_the_kind_of_file(
    tmp_path: Path, weights: dict[str, Tensor], name: str, save: Any
) -> None:
    save(weights, tmp_path / name)
    assert set(read_weights(tmp_path / name)) == set(weights)


def test_torchscript_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "sam.pt", "w") as file:
        file.writestr("sam/constants.pkl", b"")
    with pytest.raises(CheckpointError, match=r"is TorchScript.*state_dict\(\)"):
        read_weights(tmp_path / "sam.pt")


def test_a_decoder_alone_is_completed_by_its_base(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    decoder = {name: value + 1 for name, value in weights.items() if name.startswith("mask_decoder.")}
    torch.save(weights, tmp_path / "base.pth")
    torch.save(decoder, tmp_path / "decoder.pth")
    resolved = resolve_tuned("auto", tmp_path / "decoder.pth", base=tmp_path / "base.pth")
    sam = load_sam(resolved)
    assert resolved.model_type == "vit_nano"
    assert all(torch.equal(value, (weights | decoder)[name]) for name, value in sam.state_dict().items())


def test_hugging_face_names_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    for build, width, depth, heads, global_at in (
        (build_sam_vit_b, 768, 12, 12, [2, 5, 8, 11]),
        (build_sam_vit_l, 1024, 24, 16, [5, 11, 17, 23]),
        (build_sam_vit_h, 1280, 32, 16, [7, 15, 23, 31]),
    ):
        vision = transformers.SamVisionConfig(
            hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, global_attn_indexes=global_at
        )
        with torch.device("meta"):
            theirs = transformers.SamModel(transformers.SamConfig(vision_config=vision)).state_dict()
            ours = build().state_dict()
        converted = named_weights(dict(theirs))
        assert converted is not None
        assert describe_differences(ours, converted) == ""


def tiny_vit() -> Sam:
    encoder = ImageEncoderViT(
        img_size=64, embed_dim=32, depth=2, num_heads=2, out_chans=32, use_rel_pos=True, window_size=2,
        global_attn_indexes=(1,),
    )  # fmt: skip
    return assemble_sam(encoder, 64, 32, 64)


def test_hugging_face_weights_compute_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "image_size": 64}
    config = transformers.SamConfig(
        vision_config=transformers.SamVisionConfig(
            **sizes, num_hidden_layers=2, num_attention_heads=2, output_channels=32, window_size=2,
            global_attn_indexes=[1], num_pos_feats=16, mlp_dim=128,
        ),
        prompt_encoder_config=transformers.SamPromptEncoderConfig(**sizes, image_embedding_size=4),
        mask_decoder_config=transformers.SamMaskDecoderConfig(
            hidden_size=32, mlp_dim=64, iou_head_hidden_dim=32, num_attention_heads=8
        ),
    )  # fmt: skip
    theirs = transformers.SamModel(config).eval()
    path = tmp_path / "model.safetensors"
    save_file({name: value.contiguous().clone() for name, value in theirs.state_dict().items()}, path)
    ours = tiny_vit().eval()
    with caplog.at_level("INFO"):
        ours.load_state_dict(read_weights(path))
    assert "names of Hugging Face's form" in caplog.text
    image, point = torch.randn(1, 3, 64, 64), torch.tensor([[20.0, 30.0]])
    with torch.no_grad():
        expected = theirs(pixel_values=image, input_points=point[None, None])
        sparse, dense = ours.prompt_encoder((point[None], torch.ones(1, 1)), None, None)
        features = ours.image_encoder(image)
        masks, scores = ours.mask_decoder(features, ours.prompt_encoder.get_dense_pe(), sparse, dense, True)
    torch.testing.assert_close(masks, expected.pred_masks[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(scores, expected.iou_scores[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("flat", [False, True])
def test_one_of_several_models_is_named(
    weights: dict[str, Tensor], caplog: pytest.LogCaptureFixture, flat: bool
) -> None:
    other = {name: value + 1 for name, value in weights.items()}
    content = {**named(weights, "a."), **named(other, "b.")} if flat else {"a": weights, "b": other}
    with caplog.at_level(logging.INFO):
        found = named_weights(content)
    assert found is not None and all(torch.equal(found[name], value) for name, value in weights.items())
    assert "several models: a" in caplog.text and "used: a" in caplog.text
    caplog.clear()
    named_weights({"state_dict": {**named(weights, "net."), "loss.weight": torch.ones(2)}})
    assert not caplog.text
