"""CUDA graphs themselves need a GPU; a program that reads and writes fixed memory takes their place here."""

import contextlib
import logging
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from tests.reliability.pretended_cuda import pretended_cuda
from thfuse_sam.fusion import inference, replay
from thfuse_sam.models import NETWORKS, build_network
from thfuse_sam.options.fuse import InferenceSettings

NEEDS_PRETENDED = pytest.mark.skipif(
    not hasattr(torch._C, "_ensureCUDADeviceGuardSet"), reason="needs a newer torch to pretend that there is a GPU"
)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[replay.Inputs]]:
    """Memory that the graphs read which were captured."""
    captured: list[replay.Inputs] = []

    def fake(run: replay.Run, own: replay.Inputs) -> tuple[replay.Run, Tensor]:
        captured.append(own)
        expected = run(*own)
        result = expected.clone()

        def replayed(*inputs: Tensor | None) -> Tensor:
            for place, one in zip(own, inputs, strict=True):
                if place is not None and one is not None:
                    place.copy_(one)
            return result.copy_(run(*own))

        return replayed, expected

    monkeypatch.setattr(replay, "_captured", fake)
    monkeypatch.setattr(replay, "_BEFORE", 1)
    yield captured


@torch.no_grad()
def test_equal_batches_in_a_row_are_captured_and_replayed(captures: list[replay.Inputs]) -> None:
    layer = nn.Linear(3, 3)
    runs = []

    def run(one: Tensor, none: None) -> Tensor:
        runs.append(one)
        return layer(one)  # type: ignore[no-any-return]

    for number, size in enumerate((4, 4, 4, 5, 4, 4)):
        given = torch.rand(size, 3)
        assert torch.equal(replay.replayed(layer, run, [given, None], "fp32"), layer(given))
        assert len(captures) == (0, 1, 1, 1, 1, 2)[number]
    layer.weight.mul_(2)  # where it is
    assert torch.equal(replay.replayed(layer, run, [given, None], "fp32"), layer(given))
    assert runs[-1] is captures[1][0]
    replay.replayed(layer, run, [given, None], "fp16")
    assert runs[-1] is given
    replay.replayed(layer, run, [given, None], "fp16")
    layer.weight = nn.Parameter(layer.weight.clone())  # elsewhere
    assert torch.equal(replay.replayed(layer, run, [given, None], "fp16"), layer(given))
    assert runs[-1] is given


@torch.no_grad()
def test_a_graph_with_other_values_is_not_used(captures: list[replay.Inputs], caplog: pytest.LogCaptureFixture) -> None:
    layer, values = nn.Linear(3, 3), iter(torch.arange(10.0))
    run = lambda one: one + next(values)  # noqa: E731
    with caplog.at_level(logging.INFO):
        for expected in (0, 3, 4):
            assert replay.replayed(layer, run, [torch.zeros(2)], None).tolist() == [expected] * 2
    assert "fusing without a CUDA graph: its values differ by 1" in caplog.text


@torch.no_grad()
def test_a_capture_that_fails_leaves_the_stream_as_it_was(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    current = ["default"]  # streams of this thread, the last one is in use

    class Using(contextlib.AbstractContextManager[None]):
        def __init__(self, stream: object) -> None:
            self.stream = str(stream)

        def __enter__(self) -> None:
            current.append(self.stream)

        def __exit__(self, *_: object) -> None:
            del current[current.index(self.stream) :]

    class Capturing(Using):
        """As in PyTorch 2.6: where the capture cannot be ended, its stream stays in use."""

        def __init__(self, graph: object, stream: object, **_: object) -> None:
            super().__init__("capturing")

        def __exit__(self, *_: object) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    side = mock.MagicMock(__str__=lambda _: "side")
    fakes = {"Stream": lambda _: side, "stream": Using, "graph": Capturing, "CUDAGraph": mock.Mock}
    fakes |= {"current_stream": mock.MagicMock(), "device": contextlib.nullcontext}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    with caplog.at_level(logging.INFO):
        assert replay.capture(torch.neg, [torch.zeros(2)]) is None
    assert "operation failed" in caplog.text and current == ["default"]


@NEEDS_PRETENDED
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_what_becomes_a_graph_does_not_wait(name: str) -> None:
    network = build_network(name, contrast_gain=1.0, sky=1.0, selection=1.0).eval()
    with pretended_cuda() as traffic:
        network.to("cuda")
        images = [image.to("cuda") for image in torch.rand(1, 6, 40, 56).split([1, 1, 2, 2], dim=1)]
        traffic.forget()
        with torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False):
            network(*images)
    assert traffic.reasons == []


@NEEDS_PRETENDED
@pytest.mark.parametrize("with_graph", [True, False])
def test_fused_images_are_equal(
    with_graph: bool, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    captured = request.getfixturevalue("captures") if with_graph else []
    torch.manual_seed(0)
    network = build_network("thfuse_lite", width=8, growth=4, fine_width=6, dim=16, heads=2, contrast_gain=1.0).eval()
    settings = InferenceSettings(precision="bf16")
    labels = torch.zeros(1, 40, 56, dtype=torch.int64)
    labels[0, 10:20, 10:20] = 1
    batches = [[*torch.rand(1, 6, 40, 56).split([1, 1, 2, 2], dim=1), labels] for _ in range(6)]
    expected = [inference.fuse_batch(network, batch, torch.device("cpu"), settings) for batch in batches]
    with pretended_cuda(), caplog.at_level(logging.INFO):
        network.to("cuda")
        found = [inference.fuse_batch(network, batch, torch.device("cuda"), settings) for batch in batches]
    assert len(captured) == with_graph
    assert ("fusing without a CUDA graph" in caplog.text) is not with_graph
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, atol=0.02, rtol=0)
