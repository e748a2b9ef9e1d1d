"""Streams of frames with times: video files, cameras and addresses (through PyAV), stacks and sequences of images."""

import glob
import itertools
import logging
import os
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageSequence, UnidentifiedImageError

from thfuse_sam.arrays import Mask
from thfuse_sam.errors import ImageKindError, OptionError, UsageError, VideoError
from thfuse_sam.false_colour import turn_back
from thfuse_sam.folder_patterns import by_number
from thfuse_sam.image_files import Refusal, decode_page
from thfuse_sam.images import (
    IMAGE_SUFFIXES,
    ImageArray,
    Modality,
    infrared_of_colours,
    infrared_values_and_missing,
    luma,
    read_visible,
    values_and_missing,
    visible_of,
)
from thfuse_sam.options.video import is_video
from thfuse_sam.thermal import InfraredReading

log = logging.getLogger(__name__)

TIMEOUT = (10.0, 5.0)  # seconds to open an address, and to wait for its next frame
_UNTIMED = ("mpjpeg", "mjpeg")  # formats of FFmpeg whose frames have no times of their own
WAIT_SECONDS = 1.0  # before a stream that broke is opened again
_LIVE = re.compile(r"(?!https?:|file:)[a-z0-9+]+://|/dev/video")
_STACKS = (".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a stream."""

    time: float  # seconds since the stream began
    values: npt.NDArray[Any]  # infrared: HxW, the numbers of the file; visible: uint8 HxWx3, RGB
    missing: Mask | None = None  # infrared pixels without data, bool HxW; None: only the numbers themselves say it


class Stream(Protocol):
    """What is read: `frames` may be called once."""

    name: str  # as it was given
    is_live: bool  # whether frames come when they come, so that one that is not taken in time is lost
    reopened: int  # how often it broke and was opened again

    def frames(self) -> Iterator[Frame]:
        """The frames in the order of their times. Raises ThFuseError."""
        ...


def import_av() -> Any:
    """The package av (PyAV). Raises UsageError where it is not installed."""
    try:
        import av
    except ImportError:
        raise UsageError("video needs PyAV, which is not installed; run: pip install 'th-fuse-sam[video]'") from None
    return av


def open_stream(place: str, modality: Modality, *, fps: float, how: InfraredReading, reopen: int = 3) -> Stream:
    """The stream at `place`: a file, an address, a stack (TIFF), or a pattern of images such as "ir/%04d.png".

    Args:
        fps: frames a second of stacks and sequences, which do not say it.
        how: how infrared images are read.
        reopen: how often a live stream that broke is opened again.

    Raises:
        OptionError: there is no such file, or it has no video.
        UsageError: PyAV is missing.
    """
    if not is_video(place):
        files, is_numbered = _files(place)
        if not files:
            raise OptionError(modality, place, "no such file; give a video, an address or a pattern like ir/%04d.png")
        first = files[0][1]
        if len(files) == 1 and first.suffix.lower() in _STACKS:
            return _Stack(place, first, modality, fps, how)
        if any(path.suffix.lower() in IMAGE_SUFFIXES for _, path in files):
            return _Sequence(place, files, is_numbered, modality, fps, how)
    return _Video(place, modality, how, reopen)


def share_times(infrared: Stream, visible: Stream) -> None:
    """Let images of two streams whose numbers say it belong together: by patterns such as %04d if the numbers overlap,
    in folders if most names have the same numbers. Others begin together, and a warning says so if names differ.
    """
    if not (isinstance(infrared, _Sequence) and isinstance(visible, _Sequence)):
        return
    both = infrared, visible
    if all(stream.is_numbered for stream in both):
        first, last = ([stream.files[end][0] for stream in both] for end in (0, -1))
        is_shared = max(first) <= min(last)
    else:
        keys = [stream.keys() for stream in both]
        is_shared = all(own == sorted({*own}) for own in keys)
        is_shared = is_shared and 2 * len({*keys[0]} & {*keys[1]}) > min(map(len, keys))
        if is_shared:
            ranks = {key: rank for rank, key in enumerate(sorted({*keys[0], *keys[1]}))}
            for stream, own in zip(both, keys, strict=True):
                stream.files = [(ranks[key], path) for key, (_, path) in zip(own, stream.files, strict=True)]
    if is_shared:
        infrared.clock = visible.clock = _clock(visible.files)
    elif [path.stem for _, path in infrared.files] != [path.stem for _, path in visible.files]:
        log.warning(
            "%s (%d images) and %s (%d): names differ, so images are paired in their order from the first ones",
            infrared.name, len(infrared.files), visible.name, len(visible.files),
        )  # fmt: skip


def _clock(files: list[tuple[int, Path]]) -> tuple[int, int]:
    """The first number, and the commonest step from one to the next: 10 if it is every tenth frame, 40 if they are
    milliseconds.
    """
    numbers = [number for number, _ in files]
    steps = [after - before for before, after in itertools.pairwise(numbers) if after > before]
    return numbers[0], statistics.median_low(statistics.multimode(steps) or [1])


def _files(place: str) -> tuple[list[tuple[int, Path]], bool]:
    """The files that a path, a glob or a pattern with a number, such as %04d, names, with the number that each has
    by the pattern, or in the order of their names, as people count; and whether it is that of a pattern.
    """
    if Path(place).is_file():
        return [(0, Path(place))], False
    if match := re.search(r"%0?\d*d", place):
        before, after = place[: match.start()], place[match.end() :]
        texts = glob.glob(f"{glob.escape(before)}*{glob.escape(after)}")  # noqa: PTH207, for absolute ones too
        numbers = {text: text[len(before) : len(text) - len(after)] for text in texts}
        return sorted((int(number), Path(text)) for text, number in numbers.items() if number.isdecimal()), True
    if Path(place).is_dir():
        texts = [text for text in glob.glob(f"{glob.escape(place)}/*") if text.lower().endswith(IMAGE_SUFFIXES)]  # noqa: PTH207
    else:
        texts = glob.glob(place)  # noqa: PTH207, for absolute ones too
    return [*enumerate(Path(text) for text in sorted(texts, key=by_number))], False


@dataclass
class _Sequence:
    """Images, each a frame."""

    name: str
    files: list[tuple[int, Path]]  # the number of each frame, and its image
    is_numbered: bool  # by a pattern
    modality: Modality
    fps: float
    how: InfraredReading
    is_live = False
    reopened = 0

    def __post_init__(self) -> None:
        self.clock = _clock(self.files)

    def keys(self) -> list[tuple[int, ...]]:
        """The numbers in each name, without those before the first one that differs."""
        stems = [path.stem for _, path in self.files]
        start = len(os.path.commonprefix(stems).rstrip("0123456789"))  # noqa: RUF071, of text
        return [tuple(map(int, re.findall("[0-9]+", stem[start:]))) for stem in stems]

    def frames(self) -> Iterator[Frame]:
        first, step = self.clock
        for number, path in self.files:
            moment = (number - first) / step / self.fps
            if self.modality == "vi":
                yield Frame(moment, read_visible(path))
            else:
                yield Frame(moment, *infrared_values_and_missing(path, self.how))


@dataclass
class _Stack:
    """The pages of a TIFF file."""

    name: str
    path: Path
    modality: Modality
    fps: float
    how: InfraredReading
    is_live = False
    reopened = 0

    def frames(self) -> Iterator[Frame]:
        try:
            with Image.open(self.path) as image:
                for index, page in enumerate(ImageSequence.Iterator(image)):
                    if self.modality == "vi":
                        yield Frame(index / self.fps, visible_of(decode_page(page)))
                    elif len(page.getbands()) == 1 and page.mode != "P":
                        yield Frame(index / self.fps, *values_and_missing(decode_page(page), self.how))
                    else:
                        values = np.array(page.convert("RGB"))
                        yield Frame(index / self.fps, _grey(values, self.how, self.name, is_first=index == 0))
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise VideoError(f"{self.name}: cannot be read ({error}); is the file whole?") from None


class _Video:
    """What PyAV opens. Errors of the first opening are those of the option of its modality."""

    def __init__(self, name: str, modality: Modality, how: InfraredReading, reopen: int) -> None:
        self.name, self.modality, self._how = name, modality, how
        self._is_first = True
        self.is_live = _LIVE.match(name) is not None
        self.reopened = 0
        self._reopen = reopen
        self._last = -1.0  # time of the last frame, seconds
        self._av = import_av()
        self._errors = (OSError, ValueError, self._av.FFmpegError)
        if "://" not in name and not Path(name).exists():
            raise OptionError(modality, name, "no such file; check the path")
        try:
            self._container = self._open()
        except self._errors as error:
            raise OptionError(modality, name, f"cannot be opened ({_reason(error)}); is it a video?") from None
        if not self._container.streams.video:
            self._container.close()
            raise OptionError(modality, name, "has no video, perhaps only sound; give a file with video")
        codec = self._container.streams.video[0].codec_context
        if codec is None or not codec.codec.is_decoder:
            self._container.close()
            raise OptionError(modality, name, "has a codec that this build of FFmpeg cannot decode; convert the video")
        self.is_live = self.is_live or self._has_no_end()

    def frames(self) -> Iterator[Frame]:
        started = time.monotonic()
        tries = 0
        while True:
            try:
                for frame in self._decoded(started):
                    tries = 0
                    yield frame
                broken = "ended"
            except self._errors as error:
                broken = _reason(error)
            if not self.is_live:
                if broken != "ended":  # what was read is fused
                    log.warning("%s: broken, read up to there (%s)", self.name, broken)
                return
            while True:
                if tries == self._reopen:
                    return
                tries += 1
                time.sleep(WAIT_SECONDS)
                try:
                    self._container = self._open()
                except self._errors as error:
                    log.warning("%s: cannot be opened again (%s), try %d", self.name, _reason(error), tries)
                    continue
                self.reopened += 1
                log.warning("%s: %s; opened again", self.name, broken)
                break

    def _has_no_end(self) -> bool:
        """Whether what comes by HTTP is a camera, and no file."""
        container = self._container
        is_endless = container.duration is None and (container.size <= 0 or "hls" in container.format.name)
        return is_endless and self.name.startswith(("http:", "https:"))

    def _open(self) -> Any:
        options = {"rtsp_transport": "tcp"} if self.name.startswith("rtsp") else {}
        kind = "v4l2" if self.name.startswith("/dev/video") else None
        return self._av.open(self.name, format=kind, options=options, timeout=TIMEOUT if "://" in self.name else None)

    def _decoded(self, started: float) -> Iterator[Frame]:
        """Frames of the open container.

        The clocks of live streams have nothing in common. So a frame's time is when it would have come without delay:
        its own time, and the least that frames came later by, since `started`. That of what had waited is when it came.
        """
        container = self._container
        with container:
            stream = container.streams.video[0]
            stream.thread_type = "SLICE" if self.is_live else "AUTO"  # AUTO: frames come later
            is_untimed = self.is_live and container.format.name in _UNTIMED
            zero = -float("inf") if self.is_live else (container.start_time or 0) / self._av.time_base
            for frame in container.decode(stream):
                came = time.monotonic() - started
                stamp = frame.time if frame.time is not None else self._last + 1 / float(stream.average_rate or 25)
                stamp = came if is_untimed else stamp
                zero = max(zero, stamp - came) if self.is_live else zero
                moment = stamp - zero
                if moment > self._last:  # a frame that goes back in time is one of a damaged file
                    self._last = moment
                    yield Frame(moment, self._values(frame, stream.sample_aspect_ratio or 1))

    def _values(self, frame: Any, aspect: Fraction | int) -> npt.NDArray[Any]:
        """The frame as players show it: upright, with square pixels. `aspect`: width of its pixels by their height."""

        def shown(kind: str) -> npt.NDArray[Any]:
            values = frame.to_ndarray(format=kind, width=round(frame.width * aspect))
            return np.ascontiguousarray(np.rot90(values, round(frame.rotation / 90)))

        first, self._is_first = self._is_first, False
        if self.modality == "vi":
            return shown("rgb24")
        if len(frame.format.components) == 1 and not frame.format.name.startswith("pal"):
            return shown(frame.format.name if frame.format.components[0].bits > 8 else "gray")
        if first or self._how.colormap is not None:
            grey = _grey(shown("rgb24"), self._how, self.name, is_first=first)
            if self._how.colormap is not None:
                return grey
        return shown("gray")


def _grey(colours: ImageArray, how: InfraredReading, name: str, *, is_first: bool) -> ImageArray:
    """An infrared frame in colours, uint8 HxWx3, as HxW. Only of the first one it is asked what its colours mean.

    Raises ImageKindError.
    """
    if is_first:
        try:
            return infrared_of_colours(colours, how)
        except Refusal as error:
            raise ImageKindError(f"{name}: {error}") from None
    return luma(colours) if how.colormap is None else turn_back(colours, how.colormap)[0]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
