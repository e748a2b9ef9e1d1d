"""Fusing image pairs with a trained network: luma by the network, colour from the visible image, files, metrics."""

import csv
import dataclasses
import io
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from thfuse_sam.datasets.fusion import FusionDataset, FusionSample, to_uint8
from thfuse_sam.datasets.pairs import ImagePair, unusable_pairs
from thfuse_sam.errors import ImageReadError, ImageSizeError, ThFuseError, UsageError
from thfuse_sam.files import write_json, write_text
from thfuse_sam.fusion.inference import DEFAULT_INFERENCE, InferenceSettings, fuse_lumas, plan_batches
from thfuse_sam.images import LUMA_WEIGHTS, image_size, write_image
from thfuse_sam.masks.source import MaskSource

METRICS_CSV = "metrics.csv"
METRICS_JSON = "metrics.json"

# Below the first of these a visible pixel's colour is noise, above the second it is trusted (8-bit values).
DARK = (6.0, 30.0)  # of the brightest channel
CLIPPED = (235.0, 252.0)  # of the darkest channel, the other way round

log = logging.getLogger(__name__)

Uint8Image = NDArray[np.uint8]
# (fused, ir, vi), each uint8 HxW -> values by name
Metrics = Callable[[Uint8Image, Uint8Image, Uint8Image], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class FusedPair:
    """One pair after fusing, as an observer of `fuse_pairs` is shown it. All arrays share height and width."""

    pair: ImagePair
    path: Path  # of the fused image
    fused: Uint8Image  # HxW, luma
    infrared: Uint8Image  # HxW
    visible: Uint8Image  # HxWx3, RGB
    visible_luma: Uint8Image  # HxW
    ir_labels: NDArray[np.int64] | None  # HxW, 0 is no segment; None: there was no mask
    vi_labels: NDArray[np.int64] | None
    metrics: dict[str, float]  # empty where none are asked for


@dataclasses.dataclass
class FuseReport:
    """What `fuse_pairs` has done."""

    fused: list[Path] = dataclasses.field(default_factory=list)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)  # pair name -> reason
    masks_found: int = 0
    placeholders: int = 0
    seconds: float = 0.0
    metrics: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)  # pair name -> values


def output_path(pair: ImagePair, output_dir: Path) -> Path:
    """Where the fused image of `pair` goes: its name below `output_dir`, the visible image's suffix."""
    return output_dir / f"{pair.name}{pair.vi.suffix}"


def require_usable(pairs: Sequence[ImagePair]) -> None:
    """Raise ImageSizeError naming the first pair that cannot be fused, and how many more there are. Reads headers."""
    lines = list(unusable_pairs(pairs).values())
    if lines:
        others = f" (and at least {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise ImageSizeError(f"{lines[0]}{others}; `skip_bad` leaves such pairs out")


def require_outputs_apart(pairs: Sequence[ImagePair], output_dir: Path) -> None:
    """Raise UsageError where a fused image would replace one of the images it is made from."""
    inputs = {path.resolve() for pair in pairs for path in (pair.ir, pair.vi)}
    for pair in pairs:
        path = output_path(pair, output_dir)
        if path.resolve() in inputs:
            raise UsageError(f"`output_dir` {output_dir}: {path} is an input image; give another folder")


def fuse_luma(network: nn.Module, sample: FusionSample, device: torch.device) -> Uint8Image:
    """The network's fused image of one whole pair: uint8 HxW, see `fuse_lumas`."""
    return fuse_lumas(network, [sample], device)[0]


def add_colour(luma: Uint8Image, visible: Uint8Image) -> Uint8Image:
    """Put the visible image's colour on a fused `luma`: uint8 HxW and uint8 HxWx3 RGB -> uint8 HxWx3 RGB.

    Chroma (Cb, Cr of BT.601) is the visible image's. It is faded out where that image has no signal to take it from
    (nearly black, or clipped in all channels), and reduced where it does not fit into RGB beside the new luma: clipping
    single channels there would shift the hue, which shows as fringes around lamps. The result's luma is `luma`, up to
    rounding.
    """
    rgb = visible.astype(np.float32)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    kr, kg, kb = LUMA_WEIGHTS
    vi_luma = kr * red + kg * green + kb * blue
    trust = _ramp(rgb.max(axis=2), *DARK) * (1 - _ramp(rgb.min(axis=2), *CLIPPED))
    cb = (blue - vi_luma) / 1.772 * trust
    cr = (red - vi_luma) / 1.402 * trust
    y = luma.astype(np.float32)
    offsets = np.stack([1.402 * cr, (-kr * 1.402 * cr - kb * 1.772 * cb) / kg, 1.772 * cb], axis=2)
    fits = np.ones_like(y)
    for channel in range(3):
        offset = offsets[..., channel]
        room = np.where(offset > 0, 255 - y, y)
        fits = np.minimum(fits, room / np.maximum(np.abs(offset), 1e-6))
    return np.rint(np.clip(y[..., None] + offsets * fits[..., None], 0, 255)).astype(np.uint8)


def fuse_pairs(
    network: nn.Module,
    pairs: Sequence[ImagePair],
    mask_source: MaskSource,
    output_dir: Path,
    *,
    device: torch.device,
    gray: bool = False,
    metrics: Metrics | None = None,
    skip_bad: bool = False,
    observers: Sequence[Callable[[FusedPair], None]] = (),
    settings: InferenceSettings = DEFAULT_INFERENCE,
) -> FuseReport:
    """Fuse `pairs` into `output_dir`, each at its own size under its own name.

    `gray` writes the fused luma alone. `metrics` is called with fused luma, infrared and visible luma. An unusable
    pair raises its error, or with `skip_bad` is reported in `failures` while the rest is done. Each of `observers` is
    called after each fused pair; what it raises ends the run. With batches of several pairs, those of one size come one
    after the other.
    """
    dataset = FusionDataset(pairs, mask_source)
    network = network.to(device).eval()
    report = FuseReport()
    started = time.perf_counter()
    bar = tqdm(total=len(pairs), unit=" images", leave=False, disable=None, file=sys.stderr)
    # No workers: decoding a pair takes a fraction of the time that the network takes.
    for group in plan_batches([_size(pair, settings) for pair in pairs], settings.batch_size):
        try:
            samples = _readable(dataset, [(index, pairs[index]) for index in group], skip_bad, report)
            lumas = fuse_lumas(network, [sample for _, sample in samples], device, settings) if samples else []
        except ThFuseError as error:
            if not skip_bad:
                raise
            report.failures |= {pair.name: str(error) for pair, _ in samples}
            continue
        for (pair, sample), luma in zip(samples, lumas, strict=True):
            seen = _finish(pair, sample, luma, output_dir, gray, metrics, report)
            for observe in observers:
                observe(seen)
        bar.update(len(group))
    bar.close()
    report.seconds = time.perf_counter() - started
    return report


def _readable(
    dataset: FusionDataset, group: Sequence[tuple[int, ImagePair]], skip_bad: bool, report: FuseReport
) -> list[tuple[ImagePair, FusionSample]]:
    """The samples of a group; one that cannot be read raises, or with `skip_bad` goes into `report.failures`."""
    samples = []
    for index, pair in group:
        try:
            samples.append((pair, dataset[index]))
        except ThFuseError as error:
            if not skip_bad:
                raise
            report.failures[pair.name] = str(error)
    return samples


def _finish(
    pair: ImagePair,
    sample: FusionSample,
    luma: Uint8Image,
    output_dir: Path,
    gray: bool,
    metrics: Metrics | None,
    report: FuseReport,
) -> FusedPair:
    """Write the fused image and take it into `report`.

    Raises OutputError, in any case: what hinders one file, such as a full disk, hinders the next ones.
    """
    visible = to_uint8(sample["vi_rgb"]).transpose(1, 2, 0)
    path = output_path(pair, output_dir)
    write_image(path, luma if gray else add_colour(luma, visible))
    report.fused.append(path)
    found = int(sample["has_ir_mask"]) + int(sample["has_vi_mask"])
    report.masks_found += found
    report.placeholders += 2 - found
    infrared, visible_luma = to_uint8(sample["ir"][0]), to_uint8(sample["vi"][0])
    if metrics is not None:
        report.metrics[pair.name] = metrics(luma, infrared, visible_luma)
    return FusedPair(
        pair,
        path,
        luma,
        infrared,
        visible,
        visible_luma,
        ir_labels=sample["ir_labels"].numpy() if sample["has_ir_mask"] else None,
        vi_labels=sample["vi_labels"].numpy() if sample["has_vi_mask"] else None,
        metrics=report.metrics.get(pair.name, {}),
    )


def _size(pair: ImagePair, settings: InferenceSettings) -> tuple[int, int]:
    """(height, width) from the visible image's header, for batches of several pairs; else of no matter."""
    if settings.batch_size == 1:
        return (0, 0)
    try:
        return image_size(pair.vi)
    except ImageReadError:  # is reported when it is read
        return (0, 0)


def mean_metrics(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean over the images, for each metric over those where it is defined; nan where it is defined for none."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    columns = {name: [values[name] for values in metrics.values() if not math.isnan(values[name])] for name in names}
    return {name: sum(values) / len(values) if values else math.nan for name, values in columns.items()}


def write_metrics(output_dir: Path, metrics: Mapping[str, Mapping[str, float]], model: str) -> dict[str, float]:
    """Write `metrics.csv` and `metrics.json` (per image and mean), return the mean. Undefined values stay empty."""
    mean = mean_metrics(metrics)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *mean])
    for name, values in [*metrics.items(), ("mean", mean)]:
        writer.writerow([name, *("" if math.isnan(values[key]) else f"{values[key]:.6g}" for key in mean)])
    write_text(output_dir / METRICS_CSV, text.getvalue())
    images = {name: _json_values(values) for name, values in metrics.items()}
    write_json(output_dir / METRICS_JSON, {"model": model, "mean": _json_values(mean), "images": images})
    return mean


def _json_values(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _ramp(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """0 up to `low`, 1 from `high` on, smooth between."""
    position = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return (position * position * (3 - 2 * position)).astype(np.float32)
