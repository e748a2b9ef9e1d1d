import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thfuse_sam.errors import OutputError, UsageError
from thfuse_sam.fusion import onnx
from thfuse_sam.models import build_network

SIZE = (84, 92)  # not a multiple of 8: the file has to pad and to cut


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the exporter
def test_the_file_computes_what_the_network_does(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    network = build_network("thfuse_lite", width=8, growth=4, fine_width=6, dim=16, heads=2, contrast_gain=1.5).eval()
    for parameter in [*network.base.parameters(), *network.details.parameters()]:
        nn.init.normal_(parameter, std=0.1)
    path = tmp_path / "out" / "fuse.onnx"
    assert onnx.export_onnx(network, path, *SIZE) < onnx.TOLERANCE
    # Its threads would add to one sum at the same time, and each run would give another image.
    nodes = pytest.importorskip("onnx").load(path).graph.node
    assert not any(node.op_type == "ScatterND" and any(a.s == b"add" for a in node.attribute) for node in nodes)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == list(onnx.INPUTS)
    given = onnx._inputs(*SIZE, seed=5)
    (found,) = session.run(None, {name: value.numpy() for name, value in zip(onnx.INPUTS, given, strict=True)})
    with torch.no_grad():
        np.testing.assert_allclose(found, network(*given).numpy(), atol=1e-4)


class Plain(nn.Module):
    def forward(self, ir: Tensor, vi: Tensor, ir_guidance: Tensor, vi_guidance: Tensor) -> Tensor:
        return torch.maximum(ir, vi) + 0 * (ir_guidance + vi_guidance).sum()


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Program:
        model_proto = SimpleNamespace(SerializeToString=lambda: b"something else")

    class Session:
        def __init__(self, *_: object, **__: object) -> None: ...

        def run(self, _: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.maximum(feed["ir"], feed["vi"]) + 0.01]

    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: Program())
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(OutputError, match=r"differs from the network's by 0\.01"):
        onnx.export_onnx(Plain(), tmp_path / "fuse.onnx", 32, 32)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"`export_onnx`: onnxruntime is not installed; pip install"):
        onnx.export_onnx(Plain(), tmp_path / "fuse.onnx", 32, 32)
