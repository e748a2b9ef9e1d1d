"""What bf16 and adaptive points change about the masks of real photos, and what they save.

    python -m benchmarks.mask_agreement --photos DIR [--images 20] [--points_per_side 32]

The shipped `vit_nano` with its own thresholds, against the same in fp32 with the full grid. For each mask of that one
the best IoU among the masks found: its mean; the share of masks that are found again, with at least 0.8; the mean of
these. Prints one markdown table.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.agreement import Masks, best_ious
from benchmarks.common import command_line, markdown_table, timed
from thfuse_sam.datasets.named_images import list_images
from thfuse_sam.images import read_for_sam
from thfuse_sam.options.generator import GENERATOR_DEFAULTS
from thfuse_sam.sam.checkpoints import resolve_sam
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.loading import load_sam

REFERENCE = "fp32, full grid"
VARIANTS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "bf16": {"precision": "bf16"},
    "adaptive points": {"adaptive_points": True},
    "bf16, adaptive points": {"precision": "bf16", "adaptive_points": True},
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line(__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20, help="at most so many, evenly from all of them")
    parser.add_argument("--modality", choices=("ir", "vi"), default="vi")
    parser.add_argument("--points_per_side", type=int, default=32)
    options = parser.parse_args(argv)
    paths = list(list_images(options.photos).values())
    paths = [paths[index] for index in np.linspace(0, len(paths) - 1, min(options.images, len(paths))).astype(int)]
    resolved = resolve_sam("vit_nano")
    sam = load_sam(resolved)
    settings = replace(GENERATOR_DEFAULTS["vit_nano"], points_per_side=options.points_per_side)
    generators = {name: AutomaticMaskGenerator(sam, replace(settings, **changes)) for name, changes in VARIANTS.items()}
    counts = {name: count_points(generator) for name, generator in generators.items()}
    seconds = dict.fromkeys(VARIANTS, 0.0)
    masks: dict[str, list[Masks]] = {name: [] for name in VARIANTS}
    for path in paths:
        image = read_for_sam(path, options.modality)
        for name, generator in generators.items():
            with timed() as spent:
                masks[name].append([instance.mask for instance in generator.generate(image)])
            seconds[name] += spent.cpu
        print(path, *(len(per_image[-1]) for per_image in masks.values()), file=sys.stderr, flush=True)
    print(
        f"{len(paths)} images, {options.points_per_side**2} points, {torch.get_num_threads()} threads, "
        f"weights {resolved.sha256[:12]}\n"
    )
    rows = []
    for name, per_image in masks.items():
        ious = np.concatenate([best_ious(*both) for both in zip(masks[REFERENCE], per_image, strict=True)])
        again = ious >= 0.8
        means = (f"{sum(counts[name]) / len(paths):.0f}", f"{sum(map(len, per_image)) / len(paths):.1f}")
        agreement = f"{ious.mean():.4f}", f"{again.mean():.3f}", f"{ious[again].mean():.4f}"
        rows.append((name, f"{seconds[name] / len(paths):.2f}", *means, *agreement))
    header = "variant", "CPU s an image", "points decoded", "masks an image"
    print(markdown_table((*header, "mean best IoU", "found again", "mean of these"), rows))


def count_points(generator: AutomaticMaskGenerator) -> list[int]:
    """A list that grows by the number of points of each call of the decoder."""
    counts: list[int] = []
    decode = generator.decoder.decode

    def counted(context: Any, prompts: torch.Tensor) -> Any:
        counts.append(len(prompts))
        return decode(context, prompts)

    generator.decoder.decode = counted  # type: ignore[method-assign]
    return counts


if __name__ == "__main__":
    main()
