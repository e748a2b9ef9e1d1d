"""The mask generator against segment_anything's own: time, processor time, peak memory, masks, agreement.

All variants run in one process on the same weights and images, in turn, round by round, so that a machine that slows
down slows all of them down. Weights are random: a decoder's speed does not depend on them. What it puts out is
replaced by regions of the image, with predicted IoUs and logits as sharp as a trained model's, so that filters and
suppression have their usual work; the time that this takes is not counted. The variant `transformers` is Hugging Face's
mask-generation pipeline, where that package is installed; of the model types here it has `vit_b` only.

    python -m benchmarks.precompute --model_types vit_t --sizes 480x640 --points_per_side 32
"""

import argparse
import ctypes
import gc
import importlib.util
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from segment_anything.modeling import Sam

from benchmarks.agreement import Masks, equal_pixels, recall
from benchmarks.common import ROOT, Seconds, command_line, made_by, markdown_table, peak_memory, timed
from benchmarks.oracle import RegionOracle, own_generator, stock_masks, transformers_pipeline
from thfuse_sam.devices import resolve_device
from thfuse_sam.images import read_for_sam
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.sam.registry import MODEL_TYPES

SAMPLE = ROOT / "datasets" / "sample" / "test" / "vi" / "test_day_000.jpg"
VARIANTS = ("stock", "transformers", "fp32", "bf16", "fp16", "adaptive")
COLUMNS = ("model", "size", "variant", "s/image (median)", "CPU s", "against stock", "peak MiB", "points", "masks",
           "label map equal", "masks found again")  # fmt: skip


@dataclass
class Measured:
    """One variant on one model and image size."""

    seconds: list[Seconds] = field(default_factory=list)  # of each round, without the oracle's own
    peak: int = 0  # bytes
    masks: Masks = field(default_factory=list)
    points: int = 0  # decoded


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
    options = parser.parse_args(argv)
    if "transformers" in options.variants and importlib.util.find_spec("transformers") is None:
        parser.error("--variants transformers: the package is missing; pip install transformers, or leave it out")
    device = resolve_device(options.device)
    rows: list[Sequence[object]] = []
    for model_type in options.model_types:
        for size in options.sizes:
            height, width = (int(number) for number in size.split("x"))
            image = cv2.resize(read_for_sam(options.image, "vi"), (width, height), interpolation=cv2.INTER_AREA)
            results = measure(model_type, np.ascontiguousarray(image), options, device)
            rows += [(model_type, size, *row) for row in figures(results)]
    facts = (
        f"{options.points_per_side**2} points, {options.rounds} interleaved rounds, {torch.get_num_threads()} threads"
    )
    print(f"{facts}; {made_by(device)}\n\n{markdown_table(COLUMNS, rows, text_columns=3)}")
    return 0


def measure(
    model_type: str, image: npt.NDArray[np.uint8], options: argparse.Namespace, device: torch.device
) -> dict[str, Measured]:
    torch.manual_seed(0)
    sam = MODEL_TYPES[model_type].build().to(device).eval()
    oracle = RegionOracle(image, sam.image_encoder.img_size)
    per_batch = options.points_per_batch
    settings = GeneratorSettings(
        points_per_side=options.points_per_side, points_per_batch="auto" if per_batch == "auto" else int(per_batch)
    )
    offered = [variant for variant in options.variants if variant != "transformers" or model_type == "vit_b"]
    results = {variant: Measured() for variant in offered}
    for round_number in range(options.rounds):
        for variant, result in results.items():
            # Made anew each time, so that the peak memory is of one variant alone.
            _measure_once(_runner(variant, sam, image, oracle, settings), oracle, result, device)
            print(
                f"{model_type}, round {round_number + 1}, {variant}: {result.seconds[-1].wall:.2f} s", file=sys.stderr
            )
    return results


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


def _measure_once(run: Callable[[], Masks], oracle: RegionOracle, result: Measured, device: torch.device) -> None:
    _forget_peak(device)
    oracle.seconds, oracle.points = Seconds(), 0
    with timed() as spent:
        result.masks = run()
    result.seconds.append(Seconds(spent.wall - oracle.seconds.wall, spent.cpu - oracle.seconds.cpu))
    # Since `_forget_peak`, model included.
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
    result.peak = max(result.peak, peak)
    result.points = oracle.points


def _forget_peak(device: torch.device) -> None:
    """Let the next peak be the next run's own. On a CPU this works on Linux only."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def figures(results: dict[str, Measured]) -> list[Sequence[object]]:
    """Cells of a row for each variant; the first variant is what the others are compared with."""
    first = next(iter(results.values()))
    reference = statistics.median(spent.wall for spent in first.seconds)
    rows: list[Sequence[object]] = []
    for variant, result in results.items():
        wall, cpu = (statistics.median(getattr(spent, kind) for spent in result.seconds) for kind in ("wall", "cpu"))
        times = f"{wall:.2f}", f"{cpu:.2f}", f"{reference / wall:.2f}"
        equal, again = equal_pixels(first.masks, result.masks), recall(first.masks, result.masks)
        counts = f"{result.peak / 2**20:.0f}", result.points, len(result.masks)
        rows.append((variant, *times, *counts, f"{equal:.5f}", f"{again:.3f}"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
