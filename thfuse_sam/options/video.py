"""Options of `thfuse-video`, which fuses two videos or streams."""

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Literal

from thfuse_sam.errors import OptionError
from thfuse_sam.files import VIDEO_SUFFIXES
from thfuse_sam.options.align import AlignmentOptions
from thfuse_sam.options.fields import AUTO, option, redefault
from thfuse_sam.options.fuse import InferenceSettings
from thfuse_sam.options.shared import DeviceOptions, InfraredOptions, LiveSamOptions, ModelOptions

SHIPPED_VIDEO_MODEL = Path("models/thfuse_tiny.safetensors")


def is_video(place: str) -> bool:
    """Whether `place` names a video or a stream, and no image or folder."""
    return "://" in place or place.startswith("/dev/video") or Path(place).suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class StreamOptions(InfraredOptions, group="streams: see docs/video.md"):
    """What is read."""

    ir: str = option(
        MISSING,
        "infrared stream: a video file, an address such as rtsp://..., a stack (TIFF), or images such as ir/%04d.png",
        metavar="PLACE",
    )
    vi: str = option(MISSING, "visible stream, likewise", metavar="PLACE")
    ir_range: tuple[float | Literal["dataset", "image"], ...] | None = redefault(
        InfraredOptions,
        "ir_range",
        None,
        help="numbers of frames of more than 8 bits that become black and white; image: of each frame its own, "
        "averaged over `smooth` seconds",
        metavar="LOW HIGH|image",
        default_text="as the network was trained, else image",
    )
    offset: float = option(0.0, "seconds that are added to the times of the infrared stream", metavar="SECONDS")
    fps: float = option(25.0, "frames a second of stacks and images, which do not say it", above=0)
    reopen: int = option(3, "how often a live stream that broke is opened again, one try a second", low=0)
    seconds: float | None = option(None, "end after this many seconds of the video", above=0, default_text="its end")


@dataclass(frozen=True, kw_only=True)
class VideoOptions(
    StreamOptions, ModelOptions, LiveSamOptions, AlignmentOptions, DeviceOptions, InferenceSettings, group="output"
):
    """Which streams are fused by which network, and what is written."""

    model_path: Path | None = redefault(
        ModelOptions, "model_path", None, default_text=f"the shipped {SHIPPED_VIDEO_MODEL}"
    )
    use_sam: bool = redefault(
        LiveSamOptions, "use_sam", False, help="make masks with SAM on key frames and carry them by optical flow (slow)"
    )
    mask_every: int = option(
        0, "frames from one key frame to the next; 0: only where the scene changes; with `use_sam`", low=0
    )
    smooth: float = option(
        0.3, "seconds over which thermal range, brightness and masks are averaged; 0: not at all", low=0
    )
    output: Path = option(
        Path("fused.mp4"), "video file; facts about it go beside it, to fused.json", aliases=("-o",), metavar="FILE"
    )
    codec: str = option(
        AUTO, "video encoder, by its name in FFmpeg; auto: H.264 where there is an encoder, else MPEG-4"
    )
    preview: int | None = option(
        None, "port of this machine at which a browser shows the fused frames as they come", low=0, high=65_535
    )
    gray: bool = option(False, "write the fused video in grey, without the visible stream's colour")
    overwrite: bool = option(False, "replace the file if it exists")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_every and not self.use_sam:
            raise OptionError("mask_every", self.mask_every, "is about masks, and none are made; add `use_sam`")
        if self.ir == self.vi:
            raise OptionError("vi", self.vi, "is the infrared stream as well; give two streams")
        if self.ir_channel is not None:
            raise OptionError("ir_channel", self.ir_channel, "is for images; give both streams by `ir` and `vi`")

    def require_free(self) -> None:
        """Raise OptionError where the output, or what is written beside it, is there already, or it is read."""
        for path in (self.output, self.output.with_suffix(".json")):
            if path.exists() and not self.overwrite:
                raise OptionError("output", self.output, f"{path} exists; choose another file, or add `overwrite`")
        for place in (self.ir, self.vi):
            if Path(place).resolve() == self.output.resolve():
                raise OptionError("output", self.output, "is one of the streams that are read; choose another file")
