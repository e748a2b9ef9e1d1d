"""Fusing two videos or streams according to `VideoOptions`."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from thfuse_sam.arrays import ImageArray
from thfuse_sam.commands.align import build_placer
from thfuse_sam.commands.fuse import open_network
from thfuse_sam.commands.infrared import infrared_reading, trained_range
from thfuse_sam.commands.inputs import build_generator
from thfuse_sam.devices import resolve_device
from thfuse_sam.errors import counted
from thfuse_sam.files import make_directory, require_writable, write_json
from thfuse_sam.images import MODALITIES, Modality
from thfuse_sam.options.fuse import InferenceSettings
from thfuse_sam.options.video import SHIPPED_VIDEO_MODEL, VideoOptions
from thfuse_sam.thermal import InfraredReading
from thfuse_sam.video.fusing import FrameFuser, VideoReport, fuse_streams
from thfuse_sam.video.preview import Preview
from thfuse_sam.video.reading import Stream, open_stream, share_times
from thfuse_sam.video.steadiness import ThermalLevels
from thfuse_sam.video.writing import VideoWriter, choose_codec

log = logging.getLogger(__name__)


def fuse_video(options: VideoOptions) -> VideoReport:
    """Fuse the two streams into `output`, and write what is known about it beside it. Raises ThFuseError.

    After an interrupt the output holds what was fused up to there, and the report says so.
    """
    options.require_free()
    device = resolve_device(options.device)
    path, network, training = open_network(options, SHIPPED_VIDEO_MODEL)
    codec = choose_codec(options.output, options.codec)
    require_writable("output", options.output.parent)
    reading = infrared_reading(options, [], trained_range(path, training))
    infrared, visible = _open_streams(options, reading)
    share_times(infrared, visible)
    make_label_map = build_generator(options, device).label_map if options.use_sam else None
    fuser = FrameFuser(
        network.to(device).eval(),
        device,
        make_label_map=make_label_map,
        mask_every=options.mask_every,
        smooth=options.smooth,
        settings=options.part(InferenceSettings),
    )
    log.info("%s and %s; %s from %s on %s; encoder %s", options.ir, options.vi, network.name, path, device, codec)
    with _open_output(options, codec) as write:
        report = fuse_streams(
            infrared,
            visible,
            fuser,
            write,
            levels=ThermalLevels(reading, options.smooth),
            placer=build_placer(options),
            offset=options.offset,
            gray=options.gray,
            most_seconds=options.seconds,
        )
    if report.frames:
        write_json(options.output.with_suffix(".json"), {"options": options.plain(), **dataclasses.asdict(report)})
        _log(options, report)
    return report


def _open_streams(options: VideoOptions, reading: InfraredReading) -> Iterator[Stream]:
    """The infrared and the visible stream."""

    def opened(modality: Modality) -> Stream:
        return open_stream(getattr(options, modality), modality, fps=options.fps, how=reading, reopen=options.reopen)

    with ThreadPoolExecutor() as pool:  # a camera takes seconds; what the other one has shown since would be old
        return pool.map(opened, MODALITIES)


@contextlib.contextmanager
def _open_output(options: VideoOptions, codec: str) -> Iterator[Callable[[ImageArray, float], None]]:
    """What takes each fused frame and its time, for the file and for the preview. After an error no file is kept."""
    preview = None if options.preview is None else Preview(options.preview)
    if preview is not None:
        log.info("preview: open %s in a browser", preview.address)
    make_directory(options.output.parent)
    writer = VideoWriter(options.output, codec, sound=options.vi)
    keep = False

    def write(image: ImageArray, time: float) -> None:
        writer.write(image, time)
        if preview is not None:
            preview.show(image)

    try:
        yield write
        keep = True
    finally:
        writer.close(keep=keep)
        if preview is not None:
            preview.close()


def _log(options: VideoOptions, report: VideoReport) -> None:
    rate = report.frames / report.seconds if report.seconds else 0.0
    flicker = "not measured" if report.flicker is None else f"{report.flicker:.2f} grey levels"
    keys = counted(len(report.key_frames), "key frame")
    masks = f"; {keys}, masks of {report.carried} carried" if options.use_sam else ""
    end = f"; the {report.ended_first} stream ended first" if report.ended_first else ""
    log.info(
        "%s fused to %s, %.1f a second; %s, flicker %s%s%s",
        counted(report.frames, "frame"), options.output, rate, counted(max(0, len(report.scenes) - 1), "cut"), flicker,
        masks, end,
    )  # fmt: skip
    for count, what in (
        (report.unmatched, "visible frames left out: no infrared frame is near in time (see `offset`)"),
        (report.dropped, "frames of live streams dropped: they came faster than they could be fused"),
        (report.reopened, "times a stream was opened again"),
    ):
        if count:
            log.warning("%d %s", count, what)
