"""The mask generator against segment_anything's own: time, processor time, peak memory, masks, agreement.

Every measurement is a process of its own, so that peak memory is that of one variant, and that the stock generator's
memory is freed and its threads wait as they do where this package is not used. Rounds are interleaved, so that a
machine that slows down slows all variants down. Each process first tries a few points, whose time does not count: users
have many images.

Weights are random: a decoder's speed does not depend on them. What it puts out is replaced by regions of the image,
with predicted IoUs and logits as sharp as a trained model's, so that filters and suppression have their usual work; the
time that this takes is not counted. The variant `transformers` is Hugging Face's mask-generation pipeline, where that
package is installed; of the model types here it has `vit_b` only.

    python -m benchmarks.precompute --model_types vit_t --sizes 480x640 --points_per_side 32
"""

import argparse
import importlib.util
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from segment_anything.modeling import Sam

from benchmarks.agreement import Masks, equal_pixels, recall
from benchmarks.common import ROOT, command_line, figures_of, made_by, markdown_table, peak_memory, timed
from benchmarks.oracle import RegionOracle, own_generator, stock_masks, transformers_pipeline
from thfuse_sam.devices import resolve_device
from thfuse_sam.images import read_for_sam
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.sam.generator import MOST_THREADS
from thfuse_sam.sam.registry import MODEL_TYPES

SAMPLE = ROOT / "datasets" / "sample" / "test" / "vi" / "test_day_000.jpg"
OTHERS = ("stock", "transformers")
OTHERS_ENVIRONMENT = {"GOMP_SPINCOUNT": "300000"}  # libgomp's default, for which this package sets another
VARIANTS = (*OTHERS, "fp32", "bf16", "fp16", "adaptive")
COLUMNS = ("model", "size", "variant", "s/image (median)", "CPU s", "against stock", "peak MiB", "points", "masks",
           "label map equal", "masks found again")  # fmt: skip


@dataclass
class Measured:
    """One process: a variant on one model and image size."""

    wall: float  # seconds, without the oracle's own
    cpu: float
    peak: int  # bytes, of the whole process
    points: int  # decoded
    masks: Masks


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = command_line(__doc__)
    parser.add_argument("--model_types", nargs="+", choices=list(MODEL_TYPES), default=["vit_nano", "vit_t", "vit_b"])
    parser.add_argument("--sizes", nargs="+", default=["480x640", "768x1024"], help="heightxwidth in pixels")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["stock", "fp32", "adaptive"])
    parser.add_argument("--image", type=Path, default=SAMPLE)
    parser.add_argument("--points_per_side", type=int, default=32)
    parser.add_argument("--points_per_batch", default="auto", help="of our generator; the stock one has its default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    # In the child processes: the file for their masks.
    parser.add_argument("--masks", type=Path, help=argparse.SUPPRESS)
    given = list(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(given)
    if "transformers" in options.variants and importlib.util.find_spec("transformers") is None:
        parser.error("--variants transformers: the package is missing; pip install transformers, or leave it out")
    if options.masks is not None:
        print(json.dumps(measure(options)))
        return 0
    rows: list[Sequence[object]] = []
    for model_type, size in itertools.product(options.model_types, options.sizes):
        variants = [variant for variant in options.variants if variant != "transformers" or model_type == "vit_b"]
        results = in_turn([*given, "--model_types", model_type, "--sizes", size], variants, options.rounds)
        rows += [(model_type, size, *row) for row in figures(results)]
    facts = (
        f"{options.points_per_side**2} points, {options.rounds} interleaved rounds, {torch.get_num_threads()} threads"
    )
    print(f"{facts}; {made_by(resolve_device(options.device))}\n\n{markdown_table(COLUMNS, rows, text_columns=3)}")
    return 0


def in_turn(arguments: Sequence[str], variants: Sequence[str], rounds: int) -> dict[str, list[Measured]]:
    """Each variant's rounds, for `arguments` with one model type and one size."""
    results: dict[str, list[Measured]] = {variant: [] for variant in variants}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "masks.npy"
        for round_number, (variant, runs) in itertools.product(range(rounds), results.items()):
            environment: dict[str, Any] = OTHERS_ENVIRONMENT if variant in OTHERS else {}
            further = ["--variants", variant, "--masks", str(file)]
            spent = figures_of("benchmarks.precompute", *arguments, *further, **environment)
            runs.append(Measured(**spent, masks=list(np.load(file))))
            print(f"round {round_number + 1}, {variant}: {runs[-1].wall:.2f} s", file=sys.stderr)
    return results


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One variant's figures, in this process: the fields of `Measured` but the masks, which go to their file."""
    [model_type], [size], [variant] = options.model_types, options.sizes, options.variants
    device = resolve_device(options.device)
    height, width = (int(number) for number in size.split("x"))
    image = read_for_sam(options.image, "vi")
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    torch.manual_seed(0)
    sam = MODEL_TYPES[model_type].build().to(device).eval()
    oracle = RegionOracle(image, sam.image_encoder.img_size)
    per_batch = options.points_per_batch
    settings = GeneratorSettings(
        points_per_side=options.points_per_side, points_per_batch="auto" if per_batch == "auto" else int(per_batch)
    )
    _runner(variant, sam, image, oracle, replace(settings, points_per_side=min(4, options.points_per_side)))()
    run = _runner(variant, sam, image, oracle, settings)
    oracle.seconds, oracle.points = 0.0, 0
    with timed() as spent:
        masks = run()
    own_on_cpu = variant not in OTHERS and device.type == "cpu"
    threads = min(torch.get_num_threads(), MOST_THREADS) if own_on_cpu else 1  # that have asked the oracle
    np.save(options.masks, np.array(masks, dtype=bool).reshape(-1, height, width))
    return {
        "wall": spent.wall - oracle.seconds / threads,
        "cpu": spent.cpu - oracle.seconds,
        "peak": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory(),
        "points": oracle.points,
    }


def _runner(
    variant: str, sam: Sam, image: npt.NDArray[np.uint8], oracle: RegionOracle, settings: GeneratorSettings
) -> Callable[[], Masks]:
    if variant == "stock":
        stock = {"points_per_side": settings.points_per_side}
        return lambda: [record["segmentation"] for record in stock_masks(sam, image, oracle, stock)]
    if variant == "transformers":
        segment, photo = transformers_pipeline(oracle, sam.device), Image.fromarray(image)
        return lambda: [np.asarray(mask) for mask in segment(photo, points_per_crop=settings.points_per_side)["masks"]]
    changes = {"adaptive_points": True} if variant == "adaptive" else {"precision": variant}
    generator = own_generator(sam, oracle, replace(settings, **changes))
    return lambda: [instance.mask for instance in generator.generate(image)]


def figures(results: dict[str, list[Measured]]) -> list[Sequence[object]]:
    """Cells of a row for each variant; the first variant is what the others are compared with."""
    first = next(iter(results.values()))
    reference = statistics.median(run.wall for run in first)
    rows: list[Sequence[object]] = []
    for variant, runs in results.items():
        wall, cpu = (statistics.median(getattr(run, kind) for run in runs) for kind in ("wall", "cpu"))
        times = f"{wall:.2f}", f"{cpu:.2f}", f"{reference / wall:.2f}"
        expected, last = first[-1].masks, runs[-1]
        equal, again = equal_pixels(expected, last.masks), recall(expected, last.masks)
        counts = f"{max(run.peak for run in runs) / 2**20:.0f}", last.points, len(last.masks)
        rows.append((variant, *times, *counts, f"{equal:.5f}", f"{again:.3f}"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
