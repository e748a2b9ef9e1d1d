"""Writing a fused video with the sound of another file: beside its place first, and playable after an interrupt."""

import contextlib
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from thfuse_sam.arrays import ImageArray
from thfuse_sam.errors import OptionError, OutputError
from thfuse_sam.files import partial_path
from thfuse_sam.interrupts import delay_interrupts
from thfuse_sam.video.reading import import_av

log = logging.getLogger(__name__)

CODECS = ("libx264", "libopenh264", "mpeg4")  # the first one that the build of FFmpeg has
_SETTINGS = {
    "libx264": {"preset": "veryfast", "crf": "18"},
    "libx265": {"x265-params": "log-level=error"},
    "mpeg4": {"q": "3"},
}
_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi", ".ts": "mpegts"}
_TIME_BASE = Fraction(1, 60_000)  # exact for 24, 25, 30, 50, 60 and 30000/1001 frames a second, as far as MPEG-4 goes


def choose_codec(output: Path, codec: str) -> str:
    """The encoder for `output`. Raises OptionError: unknown suffix, or this build of FFmpeg has no such encoder."""
    av = import_av()
    if output.suffix.lower() not in _FORMATS:
        raise OptionError("output", output, f"unknown suffix; use one of {', '.join(_FORMATS)}")
    # In AVI frames have no times of their own, and H.264 stores them in another order.
    usual = ("mpeg4",) if output.suffix.lower() == ".avi" else CODECS
    for name in usual if codec == "auto" else (codec,):
        with contextlib.suppress(ValueError):
            if av.Codec(name, "w").type == "video":
                return name
    known = ", ".join(name for name in (*CODECS, "ffv1") if name in av.codecs_available)
    raise OptionError("codec", codec, f"this build of FFmpeg has no such video encoder; use one of {known}")


class VideoWriter:
    """A video file that is being written; the file at `path` is replaced when it is closed.

    Args:
        path: the suffix decides the container.
        codec: from `choose_codec`.
        sound: a file whose sound is kept; None: no sound.
    """

    def __init__(self, path: Path, codec: str, sound: str | None = None) -> None:
        self.path, self.frames = path, 0
        self._av, self._codec = import_av(), codec
        self._partial = partial_path(path)
        self._first = 0.0
        self._last = 0.0
        self._stream: Any = None
        self._sound = _Sound.open(self._av, sound)
        try:
            self._container = self._av.open(str(self._partial), "w", format=_FORMATS[path.suffix.lower()])
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror}); check space and permissions") from None

    def write(self, image: ImageArray, time: float) -> None:
        """Add a frame, uint8 HxWx3 RGB or HxW, that is shown from `time` on, seconds. Raises OutputError.

        It is brought to the size of the first one.
        """
        with delay_interrupts(), self._output_errors():  # one between encoding and writing would lose a packet
            if self._stream is None:
                self._begin(image, time)
            picture = np.pad(image, ((0, -image.shape[0] % 2), (0, -image.shape[1] % 2), (0, 0))[: image.ndim], "edge")
            frame = self._av.VideoFrame.from_ndarray(picture, format="gray" if image.ndim == 2 else "rgb24")
            stored = {"width": self._stream.width, "height": self._stream.height, "format": self._stream.pix_fmt}
            frame = frame.reformat(**stored, dst_colorspace="ITU709", dst_color_range="MPEG")
            frame.pts, frame.time_base = round((time - self._first) / _TIME_BASE), _TIME_BASE
            self._container.mux(self._stream.encode(frame))
            self.frames += 1
            self._last = time
            self._sound.copy_until(time, self._container)

    def close(self, *, keep: bool = True) -> None:
        """End the file and put it into its place; with `keep` False, or without a frame, leave nothing."""
        try:
            with delay_interrupts(), self._output_errors():
                if self._stream is not None and keep:
                    self._container.mux(self._stream.encode())
                self._sound.close()
                self._container.close()
                if self._stream is not None and keep:
                    self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _begin(self, image: ImageArray, time: float) -> None:
        self._first = time
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            log.info("%dx%d: encoders take even sizes, the border is repeated once", width, height)
        self._stream = self._container.add_stream(self._codec, rate=25, options=_SETTINGS.get(self._codec, {}))
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = _TIME_BASE
        self._sound.add_to(self._container, time)

    @contextlib.contextmanager
    def _output_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"{self.path}: cannot be written ({reason}); try another `codec` or suffix") from None


class _Sound:
    """The sound of a file, copied packet by packet; nothing where there is none."""

    def __init__(self, av: Any, container: Any) -> None:
        self._av, self._container = av, container
        self._stream = container.streams.audio[0] if container is not None else None
        self._waiting: Any = None
        self._start = self._first = 0.0

    @classmethod
    def open(cls, av: Any, place: str | None) -> "_Sound":
        if place is None or not Path(place).is_file():
            return cls(av, None)
        try:
            container = av.open(place)
        except (OSError, ValueError):  # an image sequence, for example
            return cls(av, None)
        if container.streams.audio:
            return cls(av, container)
        container.close()
        return cls(av, None)

    def add_to(self, output: Any, first: float) -> None:
        """`first`: time of the first frame of the video, seconds."""
        if self._stream is None:
            return
        try:
            self._output_stream = output.add_stream_from_template(self._stream)
        except ValueError:
            log.warning("sound left out: its codec %s does not fit the file; use .mkv", self._stream.codec_context.name)
            self._container.close()
            self._stream = None
            return
        self._start = (self._container.start_time or 0) / self._av.time_base
        self._first = first + self._start
        self._packets = (packet for packet in self._container.demux(self._stream) if packet.dts is not None)

    def copy_until(self, time: float, output: Any) -> None:
        """Copy what is heard before `time`, seconds of the video's stream."""
        while self._stream is not None:
            packet = self._waiting or next(self._packets, None)
            self._waiting = packet
            if packet is None or float(packet.pts * packet.time_base) > time + self._start:
                return
            self._waiting = None
            shift = round(self._first / packet.time_base)
            if packet.pts >= shift:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = self._output_stream
                output.mux(packet)

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
