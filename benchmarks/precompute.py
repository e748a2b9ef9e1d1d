"""The mask generator against segment_anything's own: time, processor time, peak memory, masks, agreement.

All variants run in one process on the same weights and images, in turn, round by round, so that a machine that slows
down slows all of them down. Weights are random: a decoder's speed does not depend on them. What it puts out is
replaced by regions of the image, with predicted IoUs and logits as sharp as a trained model's, so that filters and
suppression have their usual work; the time that this takes is not counted. The variant `transformers` is Hugging Face's
mask-generation pipeline, where that package is installed; of the model types here it has `vit_b` only.

    python benchmarks/precompute.py --model_types vit_t --sizes 480x640 --points_per_side 32
"""

import argparse
import ctypes
import datetime
import gc
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the package is found from a checkout that is not installed, too

from thfuse_sam.devices import resolve_device  # noqa: E402
from thfuse_sam.images import read_for_sam  # noqa: E402
from thfuse_sam.masks.format import label_map  # noqa: E402
from thfuse_sam.options.generator import GeneratorSettings  # noqa: E402
from thfuse_sam.report.run_facts import code_version, machine  # noqa: E402
from thfuse_sam.sam.decoder import DecodedPoints, Decoder  # noqa: E402
from thfuse_sam.sam.generator import AutomaticMaskGenerator  # noqa: E402
from thfuse_sam.sam.registry import MODEL_TYPES  # noqa: E402

REGIONS = (220, 110, 40)  # of an image, for each of the decoder's three masks
SAMPLE = ROOT / "datasets" / "sample" / "test" / "vi" / "test_day_000.jpg"
VARIANTS = ("stock", "transformers", "fp32", "bf16", "fp16", "adaptive")

Masks = list[npt.NDArray[np.bool_]]


class RegionOracle:
    """Logits and predicted IoUs for points of one image: the regions that a point lies in, at three scales.

    Args:
        image: uint8 HxWx3, RGB.
        side: of the encoder's input in pixels.
    """

    def __init__(self, image: npt.NDArray[np.uint8], side: int, regions: Sequence[int] = REGIONS) -> None:
        self.seconds = 0.0  # wall time spent in here
        self.cpu_seconds = 0.0
        self.points = 0  # asked about
        low = side // 4
        scale = low / max(image.shape[:2])
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        small = cv2.pyrMeanShiftFiltering(cv2.resize(image, size, interpolation=cv2.INTER_AREA), 6, 18)
        self._random = np.random.default_rng(0)
        self._labels = [self._segment(small, count) for count in regions]
        self._regions = [self._describe(labels, low) for labels in self._labels]

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points Nx2 (x, y in the encoder's input) -> logits Nx3xLxL, predicted IoUs Nx3, on the points' device."""
        started, cpu_started = time.perf_counter(), time.process_time()
        logits, ious = [], []
        for x, y in (points.cpu().numpy() / 4).astype(int):
            found = []
            for labels, regions in zip(self._labels, self._regions, strict=True):
                row, column = min(y, labels.shape[0] - 1), min(x, labels.shape[1] - 1)
                found.append(regions[int(labels[row, column])])
            # Two points in one region do not make quite the same masks.
            shift = (x * 7919 + y * 104729) % 1000 / 1000 - 0.5
            logits.append(torch.stack([region for region, _ in found]).float() + shift)
            ious.append([quality + 0.04 * shift for _, quality in found])
        made = torch.stack(logits).to(points.device), torch.tensor(ious, dtype=torch.float32, device=points.device)
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu_started
        self.points += len(points)
        return made

    def _segment(self, image: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.int32]:
        """A watershed from `count` random places: labels 1 and up."""
        height, width = image.shape[:2]
        edges = cv2.morphologyEx(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        labels = np.zeros((height, width), dtype=np.int32)
        count = min(count, height * width // 4 + 1)
        places = self._random.choice(height * width, count, replace=False)
        labels.flat[places] = np.arange(1, count + 1)
        labels = cv2.watershed(cv2.merge([edges] * 3), labels)
        # The borders between regions belong to none of them: take the neighbour's.
        return cv2.dilate(np.maximum(labels, 0).astype(np.float32), np.ones((3, 3))).astype(np.int32)

    def _describe(self, labels: npt.NDArray[np.int32], low: int) -> dict[int, tuple[Tensor, float]]:
        """Logits LxL and quality of each region. Better ones have sharper borders."""
        regions = {}
        for label in np.unique(labels):
            inside = (labels == label).astype(np.uint8)
            distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)
            full = np.full((low, low), -20, dtype=np.float32)
            full[: labels.shape[0], : labels.shape[1]] = distance
            quality = self._random.random()
            noise = self._random.normal(0, 0.25, (low, low))
            logits = (np.clip(full * (4 + 16 * quality), -25, 25) + noise).astype(np.float32)
            # In half precision: hundreds of them are held, and count in what is measured as peak memory.
            regions[int(label)] = torch.from_numpy(logits).half(), 0.7 + 0.28 * quality
        return regions


@dataclass(frozen=True)
class _OraclePoints:
    predicted_ious: Tensor
    made: Tensor  # Nx3xLxL, by the oracle
    real: DecodedPoints

    def logits(self, indices: Tensor) -> Tensor:
        real = self.real.logits(indices)  # for its cost and its shape
        return self.made.flatten(0, 1)[indices, : real.shape[1], : real.shape[2]]


class OracleDecoder:
    """Runs a decoder of ours and puts the oracle's output in place of its."""

    def __init__(self, decoder: Decoder, oracle: RegionOracle) -> None:
        self._decoder = decoder
        self._oracle = oracle

    def prepare(self, features: Tensor, input_size: tuple[int, int]) -> Any:
        return self._decoder.prepare(features, input_size)

    def decode(self, image: Any, points: Tensor) -> _OraclePoints:
        real = self._decoder.decode(image, points)
        logits, predicted_ious = self._oracle(points)
        return _OraclePoints(predicted_ious, logits, real)


def stock_masks(sam: Sam, image: npt.NDArray[np.uint8], oracle: RegionOracle, settings: dict[str, Any]) -> list[Any]:
    """The stock generator's records, with the oracle's output in place of the decoder's."""
    asked: list[Tensor] = []
    prompt_encoder, mask_decoder = sam.prompt_encoder.forward, sam.mask_decoder.forward

    def encode_prompt(points: tuple[Tensor, Tensor], boxes: None, masks: None) -> tuple[Tensor, Tensor]:
        asked[:] = [points[0][:, 0]]
        return prompt_encoder(points=points, boxes=boxes, masks=masks)

    def decode(**arguments: Any) -> tuple[Tensor, Tensor]:
        mask_decoder(**arguments)
        return oracle(asked[0])

    sam.prompt_encoder.forward, sam.mask_decoder.forward = encode_prompt, decode
    try:
        return list(SamAutomaticMaskGenerator(sam, **settings).generate(image))
    finally:
        del sam.prompt_encoder.forward, sam.mask_decoder.forward


def transformers_pipeline(oracle: RegionOracle, device: torch.device) -> Callable[..., dict[str, Any]]:
    """Hugging Face's pipeline on a `vit_b`, with the oracle's output in place of the decoder's."""
    from transformers import SamConfig, SamImageProcessor, SamModel, pipeline

    model = SamModel(SamConfig()).eval()
    forward = model.forward

    def decode(input_points: Tensor, **inputs: Any) -> Any:
        outputs = forward(input_points=input_points, **inputs)
        logits, predicted_ious = oracle(input_points[0, :, 0])
        outputs["pred_masks"], outputs["iou_scores"] = logits[None], predicted_ious[None]
        return outputs

    model.forward = decode
    made: Callable[..., dict[str, Any]] = pipeline(
        "mask-generation", model=model, image_processor=SamImageProcessor(), device=device
    )
    return made


def own_generator(sam: Sam, oracle: RegionOracle, settings: GeneratorSettings) -> AutomaticMaskGenerator:
    """Our generator, with the oracle's output in place of the decoder's."""
    generator = AutomaticMaskGenerator(sam, settings)
    generator.decoder = OracleDecoder(generator.decoder, oracle)
    return generator


@dataclass
class Measured:
    """One variant on one model and image size."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak: int = 0  # bytes
    masks: Masks = field(default_factory=list)
    points: int = 0  # decoded


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_types", nargs="+", choices=list(MODEL_TYPES), default=["vit_nano", "vit_t", "vit_b"])
    parser.add_argument("--sizes", nargs="+", default=["480x640", "768x1024"], help="heightxwidth in pixels")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["stock", "fp32", "adaptive"])
    parser.add_argument("--image", type=Path, default=SAMPLE)
    parser.add_argument("--points_per_side", type=int, default=32)
    parser.add_argument("--points_per_batch", default="auto", help="of our generator; the stock one has its default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if "transformers" in options.variants and importlib.util.find_spec("transformers") is None:
        parser.error("--variants transformers: the package is missing; pip install transformers, or leave it out")
    device = resolve_device(options.device)
    print(heading(options, device))
    for model_type in options.model_types:
        for size in options.sizes:
            height, width = (int(number) for number in size.split("x"))
            image = cv2.resize(read_for_sam(options.image, "vi"), (width, height), interpolation=cv2.INTER_AREA)
            results = measure(model_type, np.ascontiguousarray(image), options, device)
            for line in rows(model_type, size, results):
                print(line, flush=True)
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
            print(f"{model_type}, round {round_number + 1}, {variant}: {result.seconds[-1]:.2f} s", file=sys.stderr)
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
    changes: dict[str, Any] = {"adaptive_points": True} if variant == "adaptive" else {"precision": variant}
    generator = own_generator(sam, oracle, GeneratorSettings(**{**vars(settings), **changes}))
    return lambda: [instance.mask for instance in generator.generate(image)]


def _measure_once(run: Callable[[], Masks], oracle: RegionOracle, result: Measured, device: torch.device) -> None:
    _forget_peak(device)
    oracle.seconds, oracle.cpu_seconds, oracle.points = 0.0, 0.0, 0
    started, cpu_started = time.perf_counter(), time.process_time()
    result.masks = run()
    result.seconds.append(time.perf_counter() - started - oracle.seconds)
    result.cpu_seconds.append(time.process_time() - cpu_started - oracle.cpu_seconds)
    result.peak = max(result.peak, _peak(device))
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


def _peak(device: torch.device) -> int:
    """Bytes since `_forget_peak`, model included; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)


def heading(options: argparse.Namespace, device: torch.device) -> str:
    return "\n".join(
        [
            f"{options.points_per_side**2} points, {options.rounds} interleaved rounds; {machine(device)}, "
            f"{torch.get_num_threads()} threads; {code_version()}; {datetime.date.today()}",
            "",
            "| model | size | variant | s/image (median) | CPU s | against stock | peak MiB | points | masks | "
            "label map equal | masks found again |",
            "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
    )


def rows(model_type: str, size: str, results: dict[str, Measured]) -> list[str]:
    """The first variant is what the others are compared with."""
    first = next(iter(results.values()))
    lines = []
    for variant, result in results.items():
        seconds, reference = statistics.median(result.seconds), statistics.median(first.seconds)
        lines.append(
            f"| {model_type} | {size} | {variant} | {seconds:.2f} | {statistics.median(result.cpu_seconds):.2f} | "
            f"{reference / seconds:.2f} | {result.peak / 2**20:.0f} | {result.points} | {len(result.masks)} | "
            f"{equal_pixels(first.masks, result.masks):.5f} | {recall(first.masks, result.masks):.3f} |"
        )
    return lines


def equal_pixels(expected: Masks, found: Masks) -> float:
    """Share of pixels at which the label maps of two lists of masks agree; 1 where both are empty."""
    if not expected or not found:
        return float(len(expected) == len(found))
    one, other = (label_map(masks, masks[0].shape) for masks in (expected, found))
    return float((one == other).mean())


def recall(expected: Masks, found: Masks, iou: float = 0.8) -> float:
    """Share of the expected masks that a found one overlaps by at least that IoU; 1 where none is expected."""
    return float((best_ious(expected, found) >= iou).mean()) if expected else 1.0


def best_ious(expected: Masks, found: Masks) -> npt.NDArray[np.float32]:
    """For each expected mask the largest IoU with a found one; 0 where none is found."""
    if not expected or not found:
        return np.zeros(len(expected), np.float32)
    one, other = (np.stack(masks).reshape(len(masks), -1).astype(np.float32) for masks in (expected, found))
    common = one @ other.T
    ious: npt.NDArray[np.float32] = (common / (one.sum(1)[:, None] + other.sum(1)[None] - common)).max(1)
    return ious


if __name__ == "__main__":
    sys.exit(main())
