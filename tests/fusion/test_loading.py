import copy
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from thfuse_sam.errors import CheckpointError
from thfuse_sam.fusion import loading
from thfuse_sam.fusion.loading import load_network, save_network
from thfuse_sam.models import build_network
from thfuse_sam.models.thfuse_original import ORIGINAL_NAMES, ORIGINAL_PIXEL_RANGE
from thfuse_sam.thermal import as_range
from thfuse_sam.training import checkpoint as checkpoints


class Tiny(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.options = {"width": width}
        self.layer = nn.Conv2d(2, width, 3, padding=1)
        self.register_buffer("count", torch.tensor(7))


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch) -> None:
    monkeypatch.setitem(loading.NETWORKS, "tiny", Tiny)


def save(path: Path, network: nn.Module) -> None:
    spec = checkpoints.NetworkSpec("tiny", network.options)
    checkpoints.save_checkpoint(path, checkpoints.Checkpoint(spec, network.state_dict(), {}, 2, 9, {}, {}, {}, {}))


def test_network_is_rebuilt_from_the_file_alone(tmp_path) -> None:
    network = Tiny(width=5)
    save(tmp_path / "model.pth", network)
    loaded, training = load_network(tmp_path / "model.pth")
    assert loaded.options == {"width": 5} and training == {}
    assert not loaded.training
    assert torch.equal(loaded.layer.weight, network.layer.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_exported_network_is_rebuilt_in_single_precision(tmp_path, dtype) -> None:
    network = Tiny(width=5)
    path = tmp_path / "model.safetensors"
    save_network(path, copy.deepcopy(network).to(dtype), checkpoints.NetworkSpec("tiny", network.options))
    loaded, _ = load_network(path)
    assert loaded.options == {"width": 5}
    assert loaded.layer.weight.dtype == torch.float32
    assert torch.equal(loaded.layer.weight, network.layer.weight.to(dtype).float())
    assert int(loaded.count) == 7


def test_the_range_of_training_is_kept(tmp_path) -> None:
    spec = checkpoints.NetworkSpec("tiny", {"width": 3})
    for name, ir_range in (("none", None), ("own", (0.0, 40_000.0))):
        save_network(tmp_path / f"{name}.safetensors", Tiny(), spec, ir_range)
        assert as_range(load_network(tmp_path / f"{name}.safetensors")[1].get("ir_range")) == ir_range
    assert b"ir_range" not in (tmp_path / "none.safetensors").read_bytes()
    assert as_range([10**400, 1]) is None


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_former_names_of_options_are_read(tmp_path, suffix: str) -> None:
    network = build_network("thfuse_lite", width=8, growth=4, fine_width=6, dim=16, heads=2, sky=0.5)
    options = {name: value for name, value in network.options.items() if name != "sky"}
    spec, path = checkpoints.NetworkSpec("thfuse_lite", {**options, "calming": 0.5}), tmp_path / f"model{suffix}"
    if suffix == ".pth":
        content = checkpoints.Checkpoint(spec, network.state_dict(), {"calming": 0.5}, 2, 9, {}, {}, {}, {})
        checkpoints.save_checkpoint(path, content)
    else:
        save_network(path, network, spec)
    loaded, training = load_network(path)
    assert loaded.sky == 0.5 and training == ({"sky": 0.5} if suffix == ".pth" else {})


def break_file(name: str, tmp_path):
    path = tmp_path / ("model.safetensors" if "safetensors" in name else "model.pth")
    if name == "missing":
        return path
    if name == "a folder":
        path.mkdir()
    elif name == "empty":
        path.touch()
    elif name == "text":
        path.write_text("hello")
    elif name == "truncated":
        save(path, Tiny())
        path.write_bytes(path.read_bytes()[:-300])
    elif name == "code":
        torch.save({"format_version": 1, "call": os.getcwd}, path)
    elif name == "sam":
        torch.save({"image_encoder.pos_embed": torch.zeros(2)}, path)
    elif name == "newer":
        torch.save({"format_version": 99}, path)
    elif name == "incomplete":
        torch.save({"format_version": 1, "weights": {}}, path)
    elif name == "truncated safetensors":
        save_network(path, Tiny(), checkpoints.NetworkSpec("tiny", {"width": 3}))
        path.write_bytes(path.read_bytes()[:-10])
    elif name == "sam safetensors":
        safetensors.torch.save_file({"image_encoder.pos_embed": torch.zeros(2)}, path)
    elif name == "unknown network safetensors":
        save_network(path, Tiny(), checkpoints.NetworkSpec("huge", {}))
    elif name == "other options safetensors":
        save_network(path, Tiny(), checkpoints.NetworkSpec("tiny", {"depth": 3}))
    elif name == "other shapes safetensors":
        save_network(path, Tiny(), checkpoints.NetworkSpec("tiny", {"width": 4}))
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "no such file"),
        ("a folder", "is a folder; give a file in it"),
        ("empty", "not a checkpoint"),
        ("text", "not a checkpoint"),
        ("truncated", "truncated"),
        ("code", "holds code"),
        ("sam", "`sam_checkpoint`"),
        ("newer", "version 99"),
        ("incomplete", "incomplete"),
        ("truncated safetensors", "truncated"),
        ("sam safetensors", "`sam_checkpoint`"),
        ("unknown network safetensors", "'huge'"),
        ("other options safetensors", "options"),
        (
            "other shapes safetensors",
            "2 of another shape: layer.weight (3, 2, 3, 3) instead of (4, 2, 3, 3), layer.bias (3,) instead of (4,)",
        ),
    ],
)
def test_unusable_file_is_one_line_that_names_it(tmp_path, name: str, reason: str) -> None:
    path = break_file(name, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_network(path)
    assert str(path) in str(caught.value) and reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_state_dict_of_the_original_thfuse_is_a_model(tmp_path) -> None:
    torch.manual_seed(0)
    sizes = {"spatial_dim": 16, "spatial_depth": 1, "channel_dim": 16, "channel_depth": 1}
    network = build_network("thfuse", **sizes, pixel_range=ORIGINAL_PIXEL_RANGE).eval()
    original = {}
    for key, value in network.state_dict().items():
        if not key.startswith("guidance."):
            prefix = next(name for name, own in ORIGINAL_NAMES.items() if key.startswith(own))
            original[prefix + key[len(ORIGINAL_NAMES[prefix]) :]] = value
    path = tmp_path / "Final_epoch.model"
    torch.save(original, path)
    loaded, _ = load_network(path)
    assert (loaded.name, loaded.options["pixel_range"]) == ("thfuse", 255.0)
    images = torch.rand(2, 1, 1, 20, 30)
    with torch.no_grad():
        assert torch.equal(loaded(*images), network(*images))

    del original["conv_out.conv2d.bias"]
    torch.save(original, path)
    with pytest.raises(CheckpointError, match=r"Final_epoch\.model: .*reconstruction\.conv2d\.bias"):
        load_network(path)
