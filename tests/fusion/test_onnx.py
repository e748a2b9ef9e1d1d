import inspect
import itertools
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from thfuse_sam import onnx_files
from thfuse_sam.datasets.fusion import fusion_sample
from thfuse_sam.datasets.pair_checks import read_pair
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.errors import OutputError, UsageError
from thfuse_sam.fusion import onnx
from thfuse_sam.fusion.colour import add_colour, leave_room
from thfuse_sam.fusion.inference import fuse_lumas
from thfuse_sam.fusion.loading import load_network
from thfuse_sam.images import luma
from thfuse_sam.models import build_network

ROOT = Path(__file__).resolve().parents[2]


def require_exporter() -> Any:
    """onnxruntime, where this PyTorch can export; else the test is skipped."""
    pytest.importorskip("onnxscript")
    if onnx_files._DEFERRED not in inspect.signature(torch.export.export).parameters:
        pytest.skip("this PyTorch cannot export for all sizes")
    return pytest.importorskip("onnxruntime")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the exporter
@pytest.mark.parametrize("name", ["thfuse_lite", "thfuse"])
def test_the_file_fuses_as_the_package_does(name: str, tmp_path: Path) -> None:
    onnxruntime = require_exporter()
    torch.manual_seed(0)
    small = {
        "thfuse_lite": {"width": 8, "growth": 4, "fine_width": 6, "dim": 16, "heads": 2},
        "thfuse": {"spatial_dim": 16, "spatial_depth": 1, "channel_dim": 16, "channel_depth": 1},
    }[name]
    network = build_network(name, **small, contrast_gain=1.5, sky=1.0, selection=1.0).eval()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.1)
    path = tmp_path / "out" / "fuse.onnx"
    assert onnx.export_onnx(network, path) <= onnx.TOLERANCE
    # Its threads would add to one sum at the same time, and each run would give another image.
    nodes = pytest.importorskip("onnx").load(path).graph.node
    assert not any(node.op_type == "ScatterND" and any(a.s == b"add" for a in node.attribute) for node in nodes)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = [read_pair(pair) for pair in find_pairs(ROOT / "datasets" / "sample" / "test").pairs[:2]]
    for batch, height, width in ((1, 240, 320), (2, 97, 110), (1, 66, 301)):
        *_, ir_labels, vi_labels = (value.numpy() for value in onnx.example_inputs(batch, height, width, seed=5))
        ir, vi = (np.stack([pair[kind][:height, :width] for pair in images[:batch]]) for kind in (0, 1))
        for masks in ({"ir_labels": ir_labels, "vi_labels": vi_labels}, {}):
            found, found_luma = session.run(None, {"ir": ir, "vi": vi, **masks})
            for i, image in enumerate(found):
                labels = (ir_labels[i], vi_labels[i]) if masks else (None, None)
                (luma,) = fuse_lumas(network, [fusion_sample("a", ir[i], vi[i], *labels)], torch.device("cpu"))
                own = add_colour(leave_room(luma, vi[i]), vi[i])
                levels = np.rint(255 * found_luma[i])
                assert np.abs(levels - luma).max() <= 1 and (levels == luma).mean() > 0.999
                assert np.abs(image.astype(int) - own)[levels == luma].max() <= 1


class ItsVisibleImage(nn.Module):
    """In place of a fusion network."""

    def forward(self, ir: Tensor, vi: Tensor, *_: Tensor) -> Tensor:
        return vi


def test_luma_is_rounded_as_for_the_package() -> None:
    red, green, blue = np.meshgrid(np.arange(256), np.arange(256), np.arange(0, 256, 4))
    vi = np.stack([red, green, blue], -1).astype(np.uint8).reshape(1, 2048, -1, 3)
    thousandths = vi.astype(int) @ [299, 587, 114]
    assert (thousandths % 1000 == 500).sum() > 1000  # halves
    none = torch.zeros(1, 1, 1, dtype=torch.int64)
    _, found = onnx.ImageFusion(ItsVisibleImage())(torch.zeros(vi.shape[:3]).byte(), torch.from_numpy(vi), none, none)
    np.testing.assert_array_equal(np.rint(255 * found.numpy()), luma(vi[0])[None])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the exporter
def test_the_example_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_exporter()
    monkeypatch.chdir(tmp_path)
    network, _ = load_network(ROOT / "models" / "thfuse_lite.safetensors")
    onnx.export_onnx(network.eval(), Path("thfuse_lite.onnx"))
    random = np.random.default_rng(0)
    for name, shape in (("ir.png", (60, 81)), ("vi.png", (60, 81, 3))):
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(name)
    text = (ROOT / "docs" / "testing.md").read_text("utf-8").partition("<!-- onnx python -->\n")[2]
    code = textwrap.dedent("".join(itertools.takewhile(lambda line: line[:4].strip() == "", text.splitlines(True))))
    assert len(code.splitlines()) <= 15
    exec(code, {})  # noqa: S102
    with Image.open("fused.png") as fused:
        assert fused.size == (81, 60) and fused.mode == "RGB"


class Plain(nn.Module):
    def forward(self, ir: Tensor, vi: Tensor, *_: Tensor) -> Tensor:
        return torch.maximum(ir, vi)


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Session:
        def __init__(self, *_: object, **__: object) -> None: ...

        def run(self, _: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.zeros_like(feed["vi"]), np.zeros(feed["ir"].shape, np.float32)]

    monkeypatch.setattr(onnx_files, "_DEFERRED", "mod")  # an argument that every version has
    monkeypatch.setattr(onnx, "_program", lambda _: b"something else")
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(OutputError, match=r"differs from the network's by (0\.\d|1)"):
        onnx.export_onnx(Plain(), tmp_path / "fuse.onnx")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"`export_onnx`: onnxruntime is not installed; pip install"):
        onnx.export_onnx(Plain(), tmp_path / "fuse.onnx")


def test_an_old_pytorch_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(torch.export, "export", lambda module, inputs: None)
    with pytest.raises(UsageError, match=r"`export_onnx`: PyTorch \S+ cannot export for all sizes; install a newer"):
        onnx.export_onnx(Plain(), tmp_path / "fuse.onnx")
