"""A fusion network on a GPU as a CUDA graph: launching its many short kernels one by one takes longer than they run."""

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

MOST_PIXELS = 2**20  # of a batch; kernels for more run longer than it takes to launch them
_BEFORE = 4  # batches of one shape in a row that the network runs on as usual; a capture costs as much time as some
_TOLERANCE = 1e-2  # by which a replay's image may differ from that of the network; in 16 bits sums round otherwise

Inputs = Sequence[Tensor | None]
Run = Callable[..., Tensor]


@dataclass
class _Kept:
    """What is kept of a network: what its last inputs were like, how many were, and what runs it on such inputs."""

    key: Any = None
    count: int = 0
    run: Run | None = None  # the graph; None: there is none, so the network runs as usual


class _Networks(threading.local):
    """Each thread has its own: a graph reads and writes the same memory at each replay."""

    def __init__(self) -> None:
        self.kept: weakref.WeakKeyDictionary[nn.Module, _Kept] = weakref.WeakKeyDictionary()


_networks = _Networks()


def replayed(network: nn.Module, run: Run, inputs: Inputs, kind: object) -> Tensor:
    """What `run` makes of the network's inputs on a GPU; after a few batches of one shape by a CUDA graph.

    The result is overwritten by the next call.

    Args:
        run: computes with `network`; must neither wait for the GPU nor depend on anything but the inputs.
        kind: whatever else the result depends on, such as the precision.
    """
    kept = _networks.kept.setdefault(network, _Kept())
    # A graph holds the addresses of the weights, and memory that was made in inference mode stays in it.
    weights = [tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())]
    key = kind, [None if one is None else one.shape for one in inputs], weights, torch.is_inference_mode_enabled()
    if kept.key != key:
        kept.key, kept.count, kept.run = key, 0, None
    kept.count += 1
    if kept.count == _BEFORE + 1:
        kept.run = capture(run, inputs)
    return (kept.run or run)(*inputs)


def capture(run: Run, inputs: Inputs) -> Run | None:
    """`run` as a CUDA graph for inputs of these shapes; None where it cannot be one."""
    own = [None if one is None else one.clone() for one in inputs]
    try:
        replay, expected = _captured(run, own)
        difference = float((replay(*inputs) - expected).abs().max())
        if not difference <= _TOLERANCE:
            raise RuntimeError(f"its values differ by {difference:.2g}")
    except RuntimeError as error:
        log.info("fusing without a CUDA graph: %s", str(error).partition("\n")[0])
        return None
    return replay


def _captured(run: Run, own: Inputs) -> tuple[Run, Tensor]:
    """A function that replays `run`, and what `run` itself makes of `own`, the memory that the graph reads."""
    device = next(one.device for one in own if one is not None)
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(current)
    graph = torch.cuda.CUDAGraph()
    # Around the capture, too: older versions of PyTorch leave its stream in use where it fails.
    with torch.cuda.device(device), torch.cuda.stream(side):
        expected = run(*own)  # the libraries allocate what they need, which they may not while a graph is captured
        # By default the stream would be one of whichever GPU was captured on first.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            result = run(*own)
    current.wait_stream(side)
    result.fill_(torch.nan)  # so that a graph that does nothing is noticed

    def replay(*inputs: Tensor | None) -> Tensor:
        for place, one in zip(own, inputs, strict=True):
            if place is not None and one is not None:
                place.copy_(one)
        graph.replay()
        return result

    return replay, expected
