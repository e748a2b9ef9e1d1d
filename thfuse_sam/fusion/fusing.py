"""Fusing image pairs with a trained network: luma by the network, colour from the visible image, into files."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from thfuse_sam.align.placement import Placement, Placer
from thfuse_sam.arrays import ImageArray, Size
from thfuse_sam.cores import usable_cores, with_results
from thfuse_sam.datasets.aligned import AlignedPairs
from thfuse_sam.datasets.fusion import FusionDataset, FusionSample, to_uint8
from thfuse_sam.datasets.pair_checks import check_headers, read_headers, unusable_pairs
from thfuse_sam.datasets.pairs import ImagePair
from thfuse_sam.devices import warn_of_slow
from thfuse_sam.errors import ImageReadError, ImageSizeError, ThFuseError
from thfuse_sam.files import require_apart
from thfuse_sam.fusion.colour import add_colour, leave_room
from thfuse_sam.fusion.emphasis import EmphasisPlan, fuse_emphasised
from thfuse_sam.fusion.inference import DEFAULT_INFERENCE, plan_batches
from thfuse_sam.images import IMAGE_SUFFIXES, image_size, write_image
from thfuse_sam.masks.source import MaskSource
from thfuse_sam.options.fuse import InferenceSettings
from thfuse_sam.progress import progress_bar

# (fused, ir, vi), each uint8 HxW -> values by name
Metrics = Callable[[ImageArray, ImageArray, ImageArray], dict[str, float]]

log = logging.getLogger(__name__)

_PAIRS_PER_PROCESS = 8  # whose metrics take as long as another process needs to start


@dataclasses.dataclass(frozen=True)
class FusedPair:
    """One pair after fusing, as an observer of `fuse_pairs` is shown it. All arrays share height and width."""

    pair: ImagePair
    path: Path  # file of the fused image
    fused: ImageArray  # HxW, luma
    infrared: ImageArray  # HxW
    visible: ImageArray  # HxWx3, RGB
    visible_luma: ImageArray  # HxW
    ir_labels: NDArray[np.int64] | None  # HxW, 0 is no segment; None: the image has no mask
    vi_labels: NDArray[np.int64] | None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)  # empty where none are asked for
    placement: Placement | None = None  # None: both images are as they were read

    def common(self, image: ImageArray) -> ImageArray:
        """The rectangle of one of the images that both cameras see, which is what metrics count."""
        return image if self.placement is None else image[self.placement.common]


@dataclasses.dataclass
class FuseReport:
    """What `fuse_pairs` has done."""

    fused: list[Path] = dataclasses.field(default_factory=list)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)  # pair name -> reason
    unpaired: list[Path] = dataclasses.field(default_factory=list)  # images without a partner; the caller notes them
    masks_found: int = 0
    placeholders: int = 0
    seconds: float = 0.0
    metrics: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)  # pair name -> values

    def add(self, fused: FusedPair) -> None:
        """Count a pair whose image is written."""
        masks = [fused.ir_labels is not None, fused.vi_labels is not None]
        self.masks_found += sum(masks)
        self.placeholders += len(masks) - sum(masks)
        self.fused.append(fused.path)


def output_path(pair: ImagePair, output_dir: Path) -> Path:
    """Where the fused image of `pair` goes: its name below `output_dir`, the visible image's suffix.

    An `output_dir` with the suffix of an image is that file itself.
    """
    return output_dir if is_image_file(output_dir) else output_dir / f"{pair.name}{pair.vi.suffix}"


def is_image_file(path: Path) -> bool:
    """Whether a path for output means one image, not a folder."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def require_usable(pairs: Sequence[ImagePair], placer: Placer | None = None) -> None:
    """Raise ImageSizeError naming the first pair that cannot be fused, and how many more there are. Reads headers.

    With a `placer` the two images of a pair may differ in size; raises UsageError where its rig is of other sizes.
    """
    check = check_headers if placer is None else lambda pair: placer.frame_of(*read_headers(pair))
    lines = list(unusable_pairs(pairs, check).values())
    if lines:
        others = f" (and at least {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise ImageSizeError(f"{lines[0]}{others}; `skip_bad` leaves such pairs out")


def require_outputs_apart(
    pairs: Sequence[ImagePair], output_dir: Path, beside: Callable[[Path], Path] | None = None
) -> None:
    """Raise UsageError if a fused image, or the file that goes `beside` it, would replace one of the input images."""
    written = [output_path(pair, output_dir) for pair in pairs]
    if beside is not None:
        written += map(beside, written[:])
    require_apart("output_dir", output_dir, written, (path for pair in pairs for path in pair.images.values()))


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
    placer: Placer | None = None,
    emphasis: EmphasisPlan | None = None,
) -> FuseReport:
    """Fuse `pairs` into `output_dir`, each at its own size under its own name.

    `placer` places both images of a pair in one frame, whose size the fused image then has.
    `gray` writes the fused luma alone. `metrics` is called with fused luma, infrared and visible luma, in other
    processes if there are many pairs. An unusable pair raises its error, or with `skip_bad` is reported in `failures`
    while the rest is done. Each of `observers` is called after each fused pair; what it raises ends the run. With
    batches of several pairs, pairs of one size are fused together, and so not in the order given.
    """
    dataset = FusionDataset(pairs, mask_source) if placer is None else AlignedPairs(pairs, mask_source, placer)
    network = network.to(device).eval()
    warn_of_slow(settings.precision, device)
    report = FuseReport()
    started = time.perf_counter()

    def fuse_all() -> Iterator[FusedPair]:
        # No workers: decoding a pair takes a fraction of the time that the network takes.
        for group in plan_batches([_size(pair, settings, placer) for pair in pairs], settings.batch_size):
            try:
                samples = _readable(dataset, [(index, pairs[index]) for index in group], skip_bad, report)
                shown = [sample for _, sample in samples]
                lumas = fuse_emphasised(network, shown, device, settings, emphasis) if shown else []
            except ThFuseError as error:
                if not skip_bad:
                    raise
                report.failures |= {pair.name: str(error) for pair, _ in samples}
                samples, lumas = [], []
            for (pair, sample), luma in zip(samples, lumas, strict=True):
                fused = _fused_pair(pair, sample, luma, output_path(pair, output_dir))
                if isinstance(dataset, AlignedPairs):
                    placement = dataset.placements.pop(pair.name)
                    blended = placement.blend(luma, fused.visible_luma)
                    fused = dataclasses.replace(fused, fused=blended, placement=placement)
                # An OutputError ends the run in any case: what hinders one file, such as a full disk, hinders the next.
                written = _written(fused, gray)
                report.add(written)
                yield written
            bar.update(len(group))

    try:
        with progress_bar(total=len(pairs), unit=" images") as bar:
            for fused in _measured(fuse_all(), metrics, len(pairs)):
                if fused.metrics:
                    report.metrics[fused.pair.name] = fused.metrics
                for observe in observers:
                    observe(fused)
    except (ThFuseError, KeyboardInterrupt) as error:
        if report.fused:
            advice = "; with `skip_bad` a bad pair is left out" if isinstance(error, ImageReadError) else ""
            log.warning("stopped after %d of %d pairs%s", len(report.fused), len(pairs), advice)
        raise
    report.seconds = time.perf_counter() - started
    return report


def _written(fused: FusedPair, gray: bool) -> FusedPair:
    """The pair as its image is written, its luma with room for the colour unless it is `gray`. Raises OutputError."""
    if gray:
        write_image(fused.path, fused.fused)
        return fused
    fused = dataclasses.replace(fused, fused=leave_room(fused.fused, fused.visible))
    write_image(fused.path, add_colour(fused.fused, fused.visible))
    return fused


def _measured(fused_pairs: Iterable[FusedPair], metrics: Metrics | None, number: int) -> Iterator[FusedPair]:
    """The fused pairs with their metrics. Those of many pairs are computed in other processes while the next pairs are
    fused, because they take longer than fusing.
    """
    if metrics is None:
        yield from fused_pairs
        return
    processes = min(usable_cores(), number // _PAIRS_PER_PROCESS)
    for fused, values in with_results(fused_pairs, metrics, _grey_images, processes):
        yield dataclasses.replace(fused, metrics=values)


def _grey_images(fused: FusedPair) -> tuple[ImageArray, ImageArray, ImageArray]:
    return fused.common(fused.fused), fused.common(fused.infrared), fused.common(fused.visible_luma)


def _readable(
    dataset: FusionDataset | AlignedPairs, group: Sequence[tuple[int, ImagePair]], skip_bad: bool, report: FuseReport
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


def _fused_pair(pair: ImagePair, sample: FusionSample, luma: ImageArray, path: Path) -> FusedPair:
    return FusedPair(
        pair,
        path,
        luma,
        to_uint8(sample["ir"][0]),
        to_uint8(sample["vi_rgb"]).transpose(1, 2, 0),
        to_uint8(sample["vi"][0]),
        ir_labels=sample["ir_labels"].numpy() if sample["has_ir_mask"] else None,
        vi_labels=sample["vi_labels"].numpy() if sample["has_vi_mask"] else None,
    )


def _size(pair: ImagePair, settings: InferenceSettings, placer: Placer | None) -> Size:
    """(height, width) of the fused image from the headers; (0, 0) where those are unreadable, or no batches are
    planned.
    """
    if settings.batch_size == 1:
        return (0, 0)
    try:
        return image_size(pair.vi) if placer is None else placer.frame_of(image_size(pair.ir), image_size(pair.vi))
    except ImageReadError:  # it is reported when the image is read
        return (0, 0)
