"""Training throughput and peak memory without masks, with precomputed ones and with live ones: one Markdown table.

Every measurement is a process of its own, so that its peak memory is its own; rounds are interleaved, so that a machine
that slows down slows all modes down. Time is taken over the steps after a first one, imports and set-up excluded.

    python benchmarks/train_modes.py --dataset_path datasets/sample/train --sam_model_type vit_nano
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODES = ("none", "precomputed", "live")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_path", type=Path, default=ROOT / "datasets" / "sample" / "train")
    parser.add_argument("--sam_model_type", default="vit_nano")
    parser.add_argument("--sam_checkpoint", type=Path)
    parser.add_argument("--network", default="thfuse_lite")
    parser.add_argument("--batch_size", type=int, default=4, help="pairs in a step")
    parser.add_argument("--crop_size", type=int, default=128, help="pixels")
    parser.add_argument("--steps", type=int, default=3, help="timed steps in a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each mode")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--measure", choices=[*MODES, "prepare"], help=argparse.SUPPRESS)  # in the child processes
    parser.add_argument("--masks", type=Path, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    options = build_parser().parse_args(given)
    if options.measure is not None:
        print(json.dumps(measure(options)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        in_child("prepare", folder, given)
        results: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
        for round_number in range(options.rounds):
            for mode in MODES:
                results[mode].append(in_child(mode, folder, given))
                speed = results[mode][-1]["images_per_second"]
                print(f"round {round_number + 1}, {mode}: {speed:.2f} pairs/s", file=sys.stderr)
    print(table(results, options))
    return 0


def in_child(mode: str, folder: str, given: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), *given, "--measure", mode, "--masks", folder]
    # The package is found from a checkout that is not installed, too.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One mode's figures, in this process. `prepare` makes the mask tree for the others."""
    # Here, not above: the parent stays small, because its size would count into its children's peak.
    import torch

    from thfuse_sam.cli.common import MaskPlan, build_generator, build_mask_source
    from thfuse_sam.datasets.fusion import FusionDataset
    from thfuse_sam.datasets.pairs import find_pairs
    from thfuse_sam.devices import resolve_device
    from thfuse_sam.fusion.training import count_masks, fusion_loss
    from thfuse_sam.images import read_for_sam
    from thfuse_sam.interrupts import StopRequest
    from thfuse_sam.losses import DEFAULT_WEIGHTS, FusionLoss
    from thfuse_sam.masks.tree import MaskTree
    from thfuse_sam.models import build_network
    from thfuse_sam.report.run_facts import code_version, machine
    from thfuse_sam.training import loop

    device = resolve_device(options.device)
    pairs = find_pairs(options.dataset_path)
    used = pairs.pairs[: options.batch_size * (options.steps + 1)]
    if options.measure == "prepare":
        generator, tree = build_generator(options, device), MaskTree(options.masks)
        for pair in used:
            tree.write("ir", pair.name, generator.label_map(read_for_sam(pair.ir, "ir")))
            tree.write("vi", pair.name, generator.label_map(read_for_sam(pair.vi, "vi")))
        return {"pairs": len(used)}
    source = build_mask_source(
        MaskPlan(options.measure, "benchmark", options.masks if options.measure == "precomputed" else None),
        options,
        device,
        pairs,
    )
    dataset = FusionDataset(used, source, crop_size=options.crop_size, augment=True)

    loop.set_seed(0)
    fabric = loop.make_fabric(device)
    plain = build_network(options.network)
    network, optimizer = fabric.setup(plain, torch.optim.AdamW(plain.parameters(), lr=1e-3))
    loader, batches = loop.make_loader(dataset, options.batch_size, seed=0, num_workers=0)
    on_device: Any = fabric.setup_dataloaders(loader)
    loss = FusionLoss(DEFAULT_WEIGHTS).to(device)
    progress, stop = loop.Progress(), StopRequest()

    def take_steps(until: int) -> int:
        images = 0
        while progress.step < until:
            batches.start_at(progress.epoch, progress.batch)
            before = progress.images
            settings = loop.StepSettings(lambda step: 1e-3, grad_clip=1.0, max_steps=until)
            loop.train_epoch(
                fabric, network, optimizer, on_device, lambda *pair: fusion_loss(loss, *pair), count_masks, settings,
                progress, stop,
            )  # fmt: skip
            images += progress.images - before
            if progress.batch == len(batches):
                progress.close_epoch()
        return images

    take_steps(1)
    watch = loop.Stopwatch(0)
    images = take_steps(1 + options.steps)
    speed = watch.images_per_second(images)
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    made_by = f"{machine(device)}; {code_version()}"
    return {"images_per_second": speed, "peak_rss": peak_rss(), "peak_gpu": gpu, "made_by": made_by}


def peak_rss() -> int:
    """Largest resident size of this process so far, bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # unlike getrusage, not coloured by the parent
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def table(results: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> str:
    speeds = {mode: [result["images_per_second"] for result in found] for mode, found in results.items()}
    medians = {mode: statistics.median(values) for mode, values in speeds.items()}
    lines = [
        f"{options.network}, batch {options.batch_size} x {options.crop_size} px, {options.sam_model_type}, "
        f"{options.steps} steps, {options.rounds} interleaved rounds; {results['none'][0]['made_by']}; "
        f"{datetime.date.today()}",
        "",
        "| masks | image pairs/s (median) | lowest to highest | against none | peak RSS, MiB | peak GPU memory, MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for mode, values in speeds.items():
        memory = max(result["peak_rss"] for result in results[mode]) / 2**20
        gpu = max(result["peak_gpu"] for result in results[mode]) / 2**20
        lines.append(
            f"| {mode} | {medians[mode]:.2f} | {min(values):.2f} to {max(values):.2f} | "
            f"{medians[mode] / medians['none']:.3f} | {memory:.0f} | {gpu:.0f} |"
        )
    lines += ["", f"Precomputed against live: {medians['precomputed'] / medians['live']:.1f} times the throughput."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
