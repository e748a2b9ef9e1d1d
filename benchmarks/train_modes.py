"""Training throughput and peak memory without masks, with precomputed ones and with live ones: one Markdown table.

Every measurement is a process of its own, so that its peak memory is its own; rounds are interleaved, so that a machine
that slows down slows all modes down. Time is taken over the steps after a first one, imports and set-up excluded.

    python -m benchmarks.train_modes --dataset_path datasets/sample/train --sam_model_type vit_nano
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import ROOT, command_line, figures_of, made_by, markdown_table, peak_memory

if TYPE_CHECKING:
    import torch

    from thfuse_sam.sam.generator import AutomaticMaskGenerator

MODES = ("none", "precomputed", "live")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = command_line(__doc__)
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
    given = list(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(given)
    if options.measure is not None:
        print(json.dumps(measure(options)))
        return 0
    results: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as folder:
        measured = [*given, "--masks", folder, "--measure"]
        figures_of("benchmarks.train_modes", *measured, "prepare")
        for round_number in range(options.rounds):
            for mode, figures in results.items():
                figures.append(figures_of("benchmarks.train_modes", *measured, mode))
                speed = figures[-1]["images_per_second"]
                print(f"round {round_number + 1}, {mode}: {speed:.2f} pairs/s", file=sys.stderr)
    print(table(results, options))
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One mode's figures, in this process. `prepare` makes the mask tree for the others."""
    # Imported here: the parent stays small, because its size would count into its children's peak.
    import torch

    from benchmarks.fusion_runs import masks_of, training_steps
    from thfuse_sam.datasets.fusion import FusionDataset
    from thfuse_sam.datasets.pairs import find_pairs
    from thfuse_sam.devices import resolve_device
    from thfuse_sam.images import read_for_sam
    from thfuse_sam.masks.source import LiveMasks, MaskSource, NoMasks
    from thfuse_sam.masks.tree import MaskFiles

    device = resolve_device(options.device)
    pairs = find_pairs(options.dataset_path)
    used = pairs.pairs[: options.batch_size * (options.steps + 1)]
    if options.measure == "prepare":
        generator, tree = mask_generator(options, device), MaskFiles(options.masks)
        for pair in used:
            tree.write("ir", pair.name, generator.label_map(read_for_sam(pair.ir, "ir")))
            tree.write("vi", pair.name, generator.label_map(read_for_sam(pair.vi, "vi")))
        return {"pairs": len(used)}
    sources: dict[str, Callable[[], MaskSource]] = {
        "none": NoMasks,
        "precomputed": lambda: masks_of(options.masks, pairs),
        "live": lambda: LiveMasks(mask_generator(options, device).label_map),
    }
    dataset = FusionDataset(used, sources[options.measure](), crop_size=options.crop_size, augment=True)
    steps = training_steps(dataset, options.batch_size, network=options.network, device=device)
    timed_steps = list(itertools.islice(steps, 1, options.steps + 1))  # the first one allocates
    speed = sum(step.images for step in timed_steps) / sum(step.total for step in timed_steps)
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {"images_per_second": speed, "peak_rss": peak_memory(), "peak_gpu": gpu, "made_by": made_by(device)}


def mask_generator(options: argparse.Namespace, device: "torch.device") -> "AutomaticMaskGenerator":
    from thfuse_sam.options.generator import GENERATOR_DEFAULTS
    from thfuse_sam.sam.checkpoints import resolve_sam
    from thfuse_sam.sam.generator import AutomaticMaskGenerator
    from thfuse_sam.sam.loading import load_sam

    resolved = resolve_sam(options.sam_model_type, options.sam_checkpoint)
    sam = load_sam(resolved, device)
    return AutomaticMaskGenerator(sam, GENERATOR_DEFAULTS[resolved.model_type])


def table(results: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> str:
    speeds = {mode: [one["images_per_second"] for one in figures] for mode, figures in results.items()}
    medians = {mode: statistics.median(values) for mode, values in speeds.items()}
    rows = []
    for mode, values in speeds.items():
        memory, gpu = (max(one[kind] for one in results[mode]) / 2**20 for kind in ("peak_rss", "peak_gpu"))
        spread = f"{min(values):.2f} to {max(values):.2f}"
        ratio = f"{medians[mode] / medians['none']:.3f}"
        rows.append((mode, f"{medians[mode]:.2f}", spread, ratio, f"{memory:.0f}", f"{gpu:.0f}"))
    header = "masks", "image pairs/s (median)", "lowest to highest", "against none"
    return "\n\n".join(
        (
            f"{options.network}, batch {options.batch_size} x {options.crop_size} px, {options.sam_model_type}, "
            f"{options.steps} steps, {options.rounds} interleaved rounds; {results['none'][0]['made_by']}",
            markdown_table((*header, "peak RSS, MiB", "peak GPU memory, MiB"), rows),
            f"Precomputed against live: {medians['precomputed'] / medians['live']:.1f} times the throughput.",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
