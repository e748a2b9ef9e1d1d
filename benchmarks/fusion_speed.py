"""Speed of the fusion network: CPU time a pair beside SeAFusion's layers, the share of loading in a step, GPU rates.

    python benchmarks/fusion_speed.py --threads 2
    python benchmarks/fusion_speed.py --dataset_path datasets/sample/train --precomputed_masks_dir precomputed_masks

The stand-in has the layers of SeAFusion (Tang, Yuan, Ma, Information Fusion 82, 2022: two streams of gradient residual
dense blocks, four decoding convolutions, 166,883 parameters) with random weights: its speed, not its images.
"""

import argparse
import datetime
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# A checkout is used without installing it: this script's own folder is on the path, the package's is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from thfuse_sam.datasets.fusion import FusionDataset
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.fusion.inference import autocast
from thfuse_sam.fusion.training import fusion_loss
from thfuse_sam.losses import FusionLoss
from thfuse_sam.masks.source import NoMasks, PrecomputedMasks
from thfuse_sam.models import build_network, count_parameters
from thfuse_sam.report.run_facts import code_version, machine
from thfuse_sam.training import loop
from thfuse_sam.training.checkpoint import load_network

SEAFUSION_PARAMETERS = 166_883


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


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = build_parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    print(f"{machine(torch.device('cpu'))}, {options.threads} threads; {code_version()}; {datetime.date.today()}\n")
    ours = (load_network(options.model_path)[0] if options.model_path else build_network()).eval()
    other = SeAFusionLayers().eval()
    assert count_parameters(other) == SEAFUSION_PARAMETERS
    height, width = options.size
    with torch.inference_mode():
        print(cpu_table({"this network": ours, "SeAFusion's layers": other}, (height, width), options.rounds))
        if torch.cuda.is_available():
            print("\n" + gpu_table({"this network": ours, "SeAFusion's layers": other}, (height, width)))
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
    cpu: dict[str, list[float]] = {name: [] for name in networks}
    wall: dict[str, list[float]] = {name: [] for name in networks}
    for round_number in range(rounds + 1):
        for name, network in networks.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            network(*given)
            if round_number > 0:  # the first one allocates
                cpu[name].append(time.process_time() - cpu_started)
                wall[name].append(time.perf_counter() - started)
    reference = statistics.median(cpu["SeAFusion's layers"])
    lines = [
        f"| {size[1]}x{size[0]}, CPU | parameters | CPU time, ms (median) | wall time, ms (median) | lowest "
        "| ratio of CPU times |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, network in networks.items():
        median, wall_median = statistics.median(cpu[name]), statistics.median(wall[name])
        lines.append(
            f"| {name} | {count_parameters(network):,} | {1000 * median:.0f} | {1000 * wall_median:.0f} "
            f"| {1000 * min(wall[name]):.0f} | {median / reference:.2f} |"
        )
    return "\n".join(lines)


def gpu_table(networks: dict[str, nn.Module], size: tuple[int, int]) -> str:
    """Pairs a second on the GPU in fp16, with batches of 1 and 8."""
    lines = [f"| {size[1]}x{size[0]}, {torch.cuda.get_device_name()}, fp16 | batch 1, pairs/s | batch 8, pairs/s |"]
    lines.append("|---|---:|---:|")
    device = torch.device("cuda")
    for name, network in networks.items():
        network.to(device)
        rates = []
        for batch in (1, 8):
            given = inputs(batch, size, "cuda")
            with autocast(device, "fp16"):
                rates.append(batch / seconds_on_gpu(lambda: network(*given)))  # noqa: B023 (called here)
        lines.append(f"| {name} | {rates[0]:.0f} | {rates[1]:.0f} |")
        network.cpu()
    return "\n".join(lines)


def seconds_on_gpu(work: Callable[[], object], repeats: int = 50) -> float:
    for _ in range(10):
        work()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def loading_share(options: argparse.Namespace) -> tuple[float, float]:
    """Which part of a training step passes in waiting for its batch, and the step's seconds; medians."""
    pairs = find_pairs(options.dataset_path)
    folders = {"ir": pairs.ir_dir, "vi": pairs.vi_dir}
    tree = options.precomputed_masks_dir
    masks = NoMasks() if tree is None else PrecomputedMasks(tree, folders)  # type: ignore[arg-type]
    dataset = FusionDataset(pairs.pairs, masks, crop_size=options.crop_size, augment=True)
    loader, batches = loop.make_loader(dataset, options.batch_size, seed=0, num_workers=options.num_workers)
    network, loss = build_network(), FusionLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    waits, steps, epoch = [], [], 0
    while len(steps) < options.steps + 2:
        batches.start_at(epoch)
        remaining = iter(loader)
        # The first batch of an epoch waits for workers that have nothing ahead; that is a cost of epochs, counted too.
        while len(steps) < options.steps + 2:
            started = time.perf_counter()
            batch = next(remaining, None)
            if batch is None:
                break
            waits.append(time.perf_counter() - started)
            optimizer.zero_grad(set_to_none=True)
            fusion_loss(loss, network, batch)["total"].backward()
            optimizer.step()
            steps.append(time.perf_counter() - started)
        epoch += 1
    shares = [wait / step for wait, step in zip(waits[2:], steps[2:], strict=True)]
    return statistics.median(shares), statistics.median(steps[2:])


if __name__ == "__main__":
    sys.exit(main())
