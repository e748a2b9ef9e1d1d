"""Speed of the fusion network: CPU time a pair beside SeAFusion's layers, the share of loading in a step, GPU rates.

    python -m benchmarks.fusion_speed --threads 2
    python -m benchmarks.fusion_speed --dataset_path datasets/sample/train --precomputed_masks_dir precomputed_masks

The stand-in has the layers of SeAFusion (Tang, Yuan, Ma, Information Fusion 82, 2022: two streams of gradient residual
dense blocks, four decoding convolutions, 166,883 parameters) with random weights: its speed, not its images.
"""

import argparse
import functools
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import Seconds, command_line, made_by, markdown_table, timed
from benchmarks.fusion_runs import masks_of, training_steps
from thfuse_sam.datasets.fusion import FusionDataset
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.fusion.loading import load_network
from thfuse_sam.fusion.replay import replayed
from thfuse_sam.masks.source import MaskSource, NoMasks
from thfuse_sam.models import build_network, count_parameters

SEAFUSION_PARAMETERS = 166_883
OTHER = "SeAFusion's layers"


class GradientDenseBlock(nn.Module):
    """Two dense 3x3 convolutions beside a depthwise gradient, joined by 1x1 convolutions."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.dense1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.dense2 = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.join = nn.Conv2d(3 * channels, out_channels, 1)
        self.right = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.down = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.widen = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """BCHW -> BC'HW."""
        gradient = self.right(x).abs() + self.down(x).abs()
        first = torch.cat([x, F.leaky_relu(self.dense1(x), 0.2)], dim=1)
        second = torch.cat([first, F.leaky_relu(self.dense2(first), 0.2)], dim=1)
        return F.leaky_relu(self.join(second) + self.widen(gradient), 0.1)


class SeAFusionLayers(nn.Module):
    """The layers of SeAFusion's network."""

    def __init__(self) -> None:
        super().__init__()
        self.streams = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1),
                nn.LeakyReLU(0.2),
                GradientDenseBlock(16, 32),
                GradientDenseBlock(32, 48),
            )
            for _ in range(2)
        )
        widths = (96, 64, 32, 16, 1)
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(low, high, 3, padding=1), nn.BatchNorm2d(high)) for low, high in pairwise(widths)
        )

    def forward(self, ir: Tensor, vi: Tensor, *_: Tensor) -> Tensor:
        """B1HW each -> B1HW."""
        x = torch.cat([stream(image) for stream, image in zip(self.streams, (vi, ir), strict=True)], dim=1)
        for layer in self.decoder[:-1]:
            x = F.leaky_relu(layer(x), 0.2)
        return torch.tanh(self.decoder[-1](x)) / 2 + 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = command_line(__doc__)
    parser.add_argument("--model_path", type=Path, help="weights (None: an untrained thfuse_lite, which is as fast)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each network, interleaved")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--dataset_path", type=Path, help="pairs: also measure the share of loading in a training step")
    parser.add_argument("--precomputed_masks_dir", type=Path, help="their masks (None: placeholders)")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--crop_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="timed training steps")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads; {made_by()}\n")
    ours = (load_network(options.model_path)[0] if options.model_path else build_network()).eval()
    other = SeAFusionLayers().eval()
    assert count_parameters(other) == SEAFUSION_PARAMETERS
    networks, size = {"this network": ours, OTHER: other}, tuple(options.size)
    with torch.inference_mode():
        print(cpu_table(networks, size, options.rounds))
        if torch.cuda.is_available():
            print("\n" + gpu_table(networks, size, torch.device("cuda")))
    if options.dataset_path is not None:
        share, step = loading_share(options)
        print(
            f"\nloading: {100 * share:.1f} % of a step of {1000 * step:.0f} ms (batch {options.batch_size} of "
            f"{options.crop_size} px, {options.num_workers} workers, median of {options.steps} steps)"
        )
    return 0


def inputs(batch: int, size: tuple[int, int], device: str = "cpu") -> list[Tensor]:
    """Images and masks: infrared, visible, and the guidance of both, which is not constant."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(batch, 6, *size, generator=generator).to(device)
    return list(values.split([1, 1, 2, 2], dim=1))


def cpu_table(networks: dict[str, nn.Module], size: tuple[int, int], rounds: int) -> str:
    """CPU time (of all threads together) and wall time a pair; rounds are interleaved."""
    given = inputs(1, size)
    spent: dict[str, list[Seconds]] = {name: [] for name in networks}
    for _ in range(rounds + 1):
        for name, network in networks.items():
            with timed() as seconds:
                network(*given)
            spent[name].append(seconds)
    medians = {name: statistics.median(one.cpu for one in runs[1:]) for name, runs in spent.items()}
    rows = []
    for name, network in networks.items():
        wall = [one.wall for one in spent[name][1:]]  # the first run allocates
        milliseconds = (f"{1000 * value:.0f}" for value in (medians[name], statistics.median(wall), min(wall)))
        ratio = f"{medians[name] / medians[OTHER]:.2f}"
        rows.append((name, f"{count_parameters(network):,}", *milliseconds, ratio))
    header = f"{size[1]}x{size[0]}, CPU", "parameters", "CPU time, ms (median)", "wall time, ms (median)", "lowest"
    return markdown_table((*header, "ratio of CPU times"), rows)


def gpu_table(networks: dict[str, nn.Module], size: tuple[int, int], device: torch.device) -> str:
    """Pairs a second on the GPU in fp16: in batches of 1 and 8, and of 1 as pairs are fused, replayed."""
    rows = []
    for name, network in networks.items():
        network.to(device)

        def run(*given: Tensor, network: nn.Module = network) -> Tensor:
            with torch.autocast(device.type, dtype=torch.float16, cache_enabled=False):
                return network(*given)

        one, eight = (inputs(batch, size, str(device)) for batch in (1, 8))
        works: tuple[Callable[[], object], ...] = (
            functools.partial(run, *one),
            functools.partial(replayed, network, run, one, "fp16"),
            functools.partial(run, *eight),
        )
        rates = [pairs / seconds_on_gpu(work) for pairs, work in zip((1, 1, 8), works, strict=True)]
        rows.append((name, *(f"{rate:.0f}" for rate in rates)))
        network.cpu()
    header = f"{size[1]}x{size[0]}, fp16, pairs/s"
    return markdown_table((header, "batch 1", "batch 1, replayed", "batch 8"), rows)


def seconds_on_gpu(work: Callable[[], object], repeats: int = 50) -> float:
    """Mean of one run, after ten that are not counted."""
    for _ in range(10):
        work()
    torch.cuda.synchronize()
    with timed() as spent:
        for _ in range(repeats):
            work()
        torch.cuda.synchronize()
    return spent.wall / repeats


def loading_share(options: argparse.Namespace) -> tuple[float, float]:
    """Which part of a training step passes in waiting for its batch, and the step's seconds; medians."""
    pairs, tree = find_pairs(options.dataset_path), options.precomputed_masks_dir
    masks: MaskSource = NoMasks() if tree is None else masks_of(tree, pairs)
    dataset = FusionDataset(pairs.pairs, masks, crop_size=options.crop_size, augment=True)
    steps = training_steps(dataset, options.batch_size, num_workers=options.num_workers)
    timed_steps = list(itertools.islice(steps, 2, options.steps + 2))  # the first two allocate
    waits = (step.wait / step.total for step in timed_steps)
    return statistics.median(waits), statistics.median(step.total for step in timed_steps)


if __name__ == "__main__":
    sys.exit(main())
