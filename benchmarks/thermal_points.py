"""Labelled people that masks find, with and without prompts at warm places, and what these prompts cost.

    python -m benchmarks.thermal_points --dataset DIR [--every 1] [--sam_checkpoint FILE] [--category 0]
    python -m benchmarks.thermal_points --dataset DIR --sam_model_type vit_t --untrained

DIR holds pairs and their `targets` (see `thfuse_sam/datasets/targets.py`). A target is found if the box of a segment of
the infrared image's label map overlaps with its own by an IoU of at least 0.5. All variants run in turn on each image,
so that other work on the machine slows them alike; times are those of the infrared and the visible image together.
With `--untrained`, the model has random weights: only its times mean anything. Prints a markdown table.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from benchmarks.common import command_line, made_by, markdown_table, timed
from thfuse_sam.datasets.pair_checks import read_pair
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.datasets.targets import read_targets
from thfuse_sam.images import as_rgb
from thfuse_sam.metrics.targets import TargetScore, measure_targets, target_rows
from thfuse_sam.options.generator import GENERATOR_DEFAULTS
from thfuse_sam.sam.checkpoints import resolve_sam
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.loading import load_sam
from thfuse_sam.sam.registry import MODEL_TYPES

VARIANTS: dict[str, int | Literal["auto"]] = {"grid only": 0, "auto": "auto"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line(__doc__)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="take each Nth pair only")
    parser.add_argument("--category", default="0", help="the class of targets that counts")
    parser.add_argument("--sam_model_type", default="vit_nano")
    parser.add_argument("--sam_checkpoint", type=Path)
    parser.add_argument("--untrained", action="store_true")
    options = parser.parse_args(argv)
    pairs = find_pairs(options.dataset).pairs[:: options.every]
    images = {pair.name: read_pair(pair) for pair in pairs}
    targets = read_targets(options.dataset / "targets", {name: ir.shape for name, (ir, _) in images.items()}).by_name
    settings = replace(GENERATOR_DEFAULTS[options.sam_model_type], precision="fp32")
    if options.untrained:
        torch.manual_seed(0)
        sam, weights = MODEL_TYPES[options.sam_model_type].build().eval(), "random weights"
    else:
        resolved = resolve_sam(options.sam_model_type, options.sam_checkpoint)
        sam, weights = load_sam(resolved), f"weights {resolved.sha256[:12]}"
    generators = {
        name: AutomaticMaskGenerator(sam, replace(settings, thermal_points=points)) for name, points in VARIANTS.items()
    }
    scores: dict[str, list[TargetScore]] = {name: [] for name in VARIANTS}
    seconds, segments = dict.fromkeys(VARIANTS, 0.0), dict.fromkeys(VARIANTS, 0)
    for name, (infrared, visible) in images.items():
        own = [target for target in targets.get(name, []) if target.category == options.category]
        for variant, generator in generators.items():
            with timed() as spent:
                labels = generator.label_map(as_rgb(infrared), infrared)
                generator.label_map(visible, infrared)
            seconds[variant] += spent.cpu
            segments[variant] += len(np.unique(labels[labels > 0]))
            scores[variant] += measure_targets(own, infrared, infrared, labels)
        print(name, *(f"{value:.1f}" for value in seconds.values()), file=sys.stderr, flush=True)
    print(f"{made_by()}\n{options.sam_model_type}, {weights}, {len(pairs)} pairs of {options.dataset.name}\n")
    rows = []
    for variant, own_scores in scores.items():
        found = {row.size: f"{row.found:.3f}" for row in target_rows(own_scores)} if own_scores else {}
        cost = seconds[variant] / len(pairs), seconds[variant] / seconds["grid only"]
        cells = (found.get(size, "-") for size in ("all", "large", "small"))
        rows.append((variant, *cells, f"{segments[variant] / len(pairs):.1f}", f"{cost[0]:.2f}", f"{cost[1]:.2f}"))
    people = sum(score.found is not None for score in scores["auto"])
    print(f"{people} targets of at least 150 pixels\n")
    print(markdown_table(("prompts", "found", "large", "small", "segments", "CPU s a pair", "relative"), rows))


if __name__ == "__main__":
    main()
