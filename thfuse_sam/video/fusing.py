"""Fusing the matched frames of two streams.

What a frame takes over from those before it (grey levels, masks, brightness) is done in the order of the frames. The
network, which takes most of the time, sees several frames at once: threads that share one frame wait for each other
whenever the decoder or the encoder has a core. Reading, preparing, finishing and encoding overlap with it.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thfuse_sam.align.placement import Placement, Placer
from thfuse_sam.arrays import ImageArray, size_of
from thfuse_sam.cores import keep_freed_memory
from thfuse_sam.datasets.fusion import to_uint8
from thfuse_sam.devices import warn_of_slow
from thfuse_sam.errors import VideoError
from thfuse_sam.fusion.colour import finished
from thfuse_sam.fusion.inference import DEFAULT_INFERENCE, fuse_batch
from thfuse_sam.fusion.misalignment import noticed_offset
from thfuse_sam.images import as_rgb, luma
from thfuse_sam.masks.format import LabelMap, guidance_inputs
from thfuse_sam.models import FusionNetwork
from thfuse_sam.options.fuse import InferenceSettings
from thfuse_sam.threads import worker_threads
from thfuse_sam.video.masks import CarriedMasks, FrameMask, moved
from thfuse_sam.video.matching import Ahead, Unmatched, matched, open_frames
from thfuse_sam.video.reading import Frame, Stream
from thfuse_sam.video.steadiness import Brightness, CutDetector, FlickerMeter, Smoothed, ThermalLevels

log = logging.getLogger(__name__)

_LAST_SECONDS = 30.0  # that computing has to end: if the process ended around it, PyTorch would abort
_MOST_AT_ONCE = 4  # frames in the network; more would make a camera's picture late

MakeLabelMap = Callable[[ImageArray, ImageArray | None], LabelMap]


@dataclass(frozen=True, eq=False)
class Pair:
    """A matched pair of frames, ready for the network. The images share height and width."""

    time: float  # of the visible frame, seconds
    infrared: ImageArray  # HxW
    visible: ImageArray  # HxWx3, RGB
    visible_luma: ImageArray  # HxW
    is_cut: bool
    placement: Placement | None = None  # None: both frames are as they were read


@dataclass(frozen=True, eq=False)
class PreparedFrame:
    """A pair with what the network needs of it, float32."""

    pair: Pair
    step: float  # seconds since the frame before
    ir: Tensor  # 1x1xHxW in [0, 1]
    vi: Tensor  # of the visible luma, likewise
    masks: list[FrameMask]  # of both streams; empty: none are made
    guidance: list[Tensor]  # 1x2xHxW for each mask


@dataclass
class VideoReport:
    """What was fused."""

    frames: int = 0
    seconds: float = 0.0  # of work
    unmatched: int = 0  # visible frames left out because no infrared frame is near in time
    ended_first: str | None = None  # "infrared" or "visible": the stream whose end left frames of the other one over
    dropped: int = 0  # frames of live streams that came faster than they could be fused
    reopened: int = 0  # how often a live stream broke and was opened again
    scenes: list[float] = field(default_factory=list)  # when each begins, seconds
    key_frames: list[float] = field(default_factory=list)  # times of the frames whose masks SAM made
    carried: int = 0  # frames whose masks were carried from a key frame by optical flow
    flicker: float | None = None  # see `FlickerMeter`
    alignment: str = "none"  # in words
    matrix: list[list[float]] | None = None  # 3x3, from pixels of the infrared stream to those of the visible one
    interrupted: bool = False

    def add(self, frame: PreparedFrame) -> None:
        """Count a frame that is written."""
        self.frames += 1
        if frame.pair.is_cut:
            self.scenes.append(frame.pair.time)
        if frame.masks and frame.masks[0].carried:
            self.carried += 1
        elif frame.masks:
            self.key_frames.append(frame.pair.time)


class FrameFuser:
    """Fuses the frames of a video: `prepare`, `run`, `finish`, of which only `run` does not need their order.

    Args:
        network: a fusion network on `device`, in evaluation mode. Its last stage is taken over, to be steadied.
        make_label_map: makes masks of key frames from an image and the infrared image; None: no masks.
        mask_every: frames from one key frame to the next; 0: only at cuts.
        smooth: seconds, see `steadiness.Smoothed`.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        make_label_map: MakeLabelMap | None = None,
        mask_every: int = 0,
        smooth: float = 0.3,
        settings: InferenceSettings = DEFAULT_INFERENCE,
    ) -> None:
        warn_of_slow(settings.precision, device)
        self._network, self._device, self._settings = network, device, settings
        self._every = mask_every
        self._masks = None if make_label_map is None else [CarriedMasks(make_label_map) for _ in range(2)]
        self._brightness = Brightness(smooth)
        self._guidance = [Smoothed[Any](smooth) for _ in range(2)]
        self._lift = Smoothed[Any](smooth)
        self._since_key = 0
        self._last = 0.0

    @property
    def at_once(self) -> int:
        """How many frames `run` is given at once; a GPU takes one after the other."""
        return min(torch.get_num_threads(), _MOST_AT_ONCE) if self._device.type == "cpu" else 1

    def prepare(self, pair: Pair) -> PreparedFrame:
        """The next frame for the network, with its masks."""
        step, self._last = pair.time - self._last, pair.time
        ir, vi = (torch.from_numpy(image)[None, None].float() / 255 for image in (pair.infrared, pair.visible_luma))
        masks = self._next_masks(pair)
        guidance = [self._guided(stream, mask, step) for stream, mask in enumerate(masks)]
        return PreparedFrame(pair, step, ir, vi, masks, guidance)

    def run(self, frame: PreparedFrame) -> Tensor:
        """What the network makes of a frame, float 1x1xHxW in [0, 1]; of any frame, in any thread."""
        return fuse_batch(self._network, (frame.ir, frame.vi, *frame.guidance), self._device, self._settings)

    def finish(self, frame: PreparedFrame, fused: Tensor) -> ImageArray:
        """The fused luma of the next frame, uint8 HxW, of what `run` made of it."""
        if frame.masks and isinstance(self._network, FusionNetwork):
            fused = fused + self._lifted(fused, frame)
        pair = frame.pair
        sources = pair.infrared, pair.visible_luma
        return self._brightness.steadied(to_uint8(fused[0, 0]), sources, frame.step, pair.is_cut)

    def _next_masks(self, pair: Pair) -> list[FrameMask]:
        if self._masks is None:
            return []
        self._since_key += 1
        is_key = pair.is_cut or (self._every > 0 and self._since_key >= self._every)
        if is_key:
            self._since_key = 0
        images = ((as_rgb(pair.infrared), pair.infrared), (pair.visible, pair.visible_luma))
        return [
            stream.mask(image, grey, pair.infrared, is_key=is_key, is_cut=pair.is_cut)
            for stream, (image, grey) in zip(self._masks, images, strict=True)
        ]

    def _guided(self, stream: int, mask: FrameMask, step: float) -> Tensor:
        """Guidance of a frame, float 1x2xHxW, averaged with that of the frames before where it has moved to."""
        values = guidance_inputs(mask.labels).transpose(1, 2, 0)
        return torch.from_numpy(_averaged(self._guidance[stream], values, mask, step)).permute(2, 0, 1)[None]

    def _lifted(self, fused: Tensor, frame: PreparedFrame) -> Tensor:
        """What the network's last stage adds, averaged in the same way: float 1x1xHxW."""
        mask = frame.masks[0]
        labels = torch.from_numpy(mask.labels.astype(np.int64))[None]
        assert isinstance(self._network, FusionNetwork)
        with torch.no_grad():
            lift = self._network.keep_contrast(fused, frame.ir, frame.vi, labels) - fused
        return torch.from_numpy(_averaged(self._lift, lift[0, 0].numpy(), mask, frame.step))[None, None]


def _averaged(average: Smoothed[Any], values: Any, mask: FrameMask, step: float) -> Any:
    if mask.places is None:
        average.restart()
    elif average.value is not None:
        average.value = moved(average.value, mask.places)
    return average.add(values, step)


def pairs_of(
    infrared: Iterator[Frame],
    visible: Iterator[Frame],
    offset: float,
    levels: ThermalLevels,
    placing: "Placing",
    unmatched: Unmatched,
) -> Iterator[Pair]:
    """Matched frames as images in one frame."""
    cuts, last = (CutDetector(), CutDetector()), 0.0
    for ir, vi in matched(infrared, visible, offset, unmatched):
        grey = levels.grey(ir.values, max(0.0, vi.time - last), ir.missing)
        last = vi.time
        grey, colours = placing.images(grey, vi.values)
        visible_luma = luma(colours)
        is_cut = [detector.is_cut(image) for detector, image in zip(cuts, (grey, visible_luma), strict=True)]
        yield Pair(vi.time, grey, colours, visible_luma, any(is_cut), placing.placement)


class Placing:
    """Brings both streams into one frame: as their first frames show, since cameras are fixed to each other.

    While they do not show it for sure, others are tried: the second, the fourth, the eighth and so on.

    Args:
        placer: None: frames of equal size are taken as they are, and others resampled to the visible ones' size; a
            line says if they seem to be out of register.
    """

    def __init__(self, placer: Placer | None) -> None:
        self._placer = placer
        self._frames = 0
        self.placement: Placement | None = None

    def images(self, infrared: ImageArray, visible: ImageArray) -> tuple[ImageArray, ImageArray]:
        """Both images in the frame: uint8 HxW and HxWx3. Raises UsageError where a rig is of other sizes."""
        sizes = size_of(infrared), size_of(visible)
        former = None if self.placement is None else self.placement.alignment
        self._frames += 1
        if self._placer is None and self._frames == 1:
            self._notice(infrared, visible)
        if self._placer is None and sizes[0] == sizes[1]:
            self.placement = None  # of frames of other sizes before
            return infrared, visible
        is_new = former is None or (former.ir_size, former.vi_size) != sizes
        is_unsure = former is not None and not former.confident
        if is_new or (is_unsure and self._frames & (self._frames - 1) == 0):
            self.placement = (self._placer or Placer("size")).place(infrared, visible)
            if is_new or self.placement.alignment.confident:
                log.info("infrared frames: %s", self.placement.alignment)
        assert self.placement is not None
        return self.placement.images(infrared, visible)

    @property
    def facts(self) -> tuple[str, list[list[float]] | None]:
        """The alignment in words, and its matrix, see `VideoReport`."""
        if self.placement is None:
            return "none", None
        return str(self.placement.alignment), self.placement.alignment.applied.tolist()

    def _notice(self, infrared: ImageArray, visible: ImageArray) -> None:
        offset = noticed_offset(infrared, luma(visible))
        if offset is not None:
            log.warning(
                "the streams are out of register by %.1f %% of the width, people may appear twice; `align` similarity "
                "or a `rig` mends it",
                100 * offset,
            )


def _until(pairs: Iterable[Pair], seconds: float | None) -> Iterator[Pair]:
    """The pairs of the first `seconds` of the video; None: all."""
    first: float | None = None
    for pair in pairs:
        first = pair.time if first is None else first
        if seconds is not None and pair.time - first >= seconds:
            return
        yield pair


def _finished(
    fuser: FrameFuser, frames: Iterable[tuple[PreparedFrame, "Future[Tensor]"]], gray: bool
) -> Iterator[tuple[PreparedFrame, ImageArray, ImageArray]]:
    """Each frame, its fused luma, and the picture as it is written."""
    for frame, running in frames:
        fused = fuser.finish(frame, running.result())
        yield frame, fused, finished(fused, frame.pair.visible, frame.pair.placement, gray=gray)


def fuse_streams(
    infrared: Stream,
    visible: Stream,
    fuser: FrameFuser,
    write: Callable[[ImageArray, float], None],
    *,
    levels: ThermalLevels,
    placer: Placer | None = None,
    offset: float = 0.0,
    gray: bool = False,
    most_seconds: float | None = None,
) -> VideoReport:
    """Fuse two streams until one of them ends.

    Args:
        placer: see `Placing`.
        write: is given each fused frame, uint8 HxWx3 RGB (HxW with `gray`), and its time in seconds.
        most_seconds: end after this time of the video; None: no limit.

    After Ctrl-C or SIGTERM the report of what was fused is returned, with `interrupted` set.

    Raises:
        VideoError: no two frames belong together.
        ThFuseError: a stream cannot be read, or a frame not be written.
    """
    report, unmatched, flicker, placing = VideoReport(), Unmatched(), FlickerMeter(), Placing(placer)
    started = time.perf_counter()
    keep_freed_memory()
    with worker_threads(fuser.at_once) as pool:
        sources = [open_frames(stream) for stream in (infrared, visible)]
        pairs = pairs_of(iter(sources[0]), iter(sources[1]), offset, levels, placing, unmatched)
        prepared = (fuser.prepare(pair) for pair in _until(pairs, most_seconds))
        running = Ahead((frame, pool.submit(fuser.run, frame)) for frame in prepared)
        pictures = Ahead(_finished(fuser, running, gray))
        try:
            for frame, fused, picture in pictures:
                flicker.add(frame.pair.infrared, frame.pair.visible_luma, fused, frame.pair.is_cut)
                write(picture, frame.pair.time)
                report.add(frame)
        except KeyboardInterrupt:
            report.interrupted = True
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for source in sources:
                source.close()
            for ahead in (running, pictures):
                ahead.close(_LAST_SECONDS)
    report.seconds = time.perf_counter() - started
    report.unmatched, report.ended_first, report.flicker = unmatched.frames, unmatched.ended_first, flicker.flicker
    report.alignment, report.matrix = placing.facts
    report.dropped = sum(source.dropped for source in sources)
    report.reopened = infrared.reopened + visible.reopened
    if not report.frames and not report.interrupted:
        raise VideoError(
            f"{infrared.name}, {visible.name}: no two frames belong together in time; "
            "check `offset`, and that both hold frames"
        )
    return report
