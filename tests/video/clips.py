"""Small videos for tests."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

av = pytest.importorskip("av")

HEIGHT, WIDTH = 48, 64
_FORMATS = {"uint8": {2: "gray", 3: "rgb24"}, "uint16": {2: "gray16le"}}


def write_clip(
    path: Path,
    frames: Sequence[npt.NDArray[Any]],
    *,
    fps: float = 25,
    times: Sequence[float] | None = None,
    codec: str = "ffv1",
    sound: bool = False,
    rotation: int = 0,
    aspect: Fraction = Fraction(1),
) -> Path:
    """Frames, HxW uint8 or uint16 or HxWx3, as a video without loss, or as MPEG-4 Part 2.

    Players turn it by `rotation` degrees counter-clockwise, and its pixels are `aspect` times as wide as high.
    """
    base = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        kind = _FORMATS[str(frames[0].dtype)][frames[0].ndim]
        stream.pix_fmt = "yuv420p" if codec != "ffv1" else {"rgb24": "bgr0"}.get(kind, kind)
        stream.codec_context.time_base = base
        stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        speech = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for index, values in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(values), format=kind)
            frame = frame.reformat(format=stream.pix_fmt)
            seconds = times[index] if times is not None else index / fps
            frame.pts, frame.time_base = round(seconds * 1000), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if speech is not None:
            container.mux(_tone(speech, len(frames) / fps))
    return path


def _tone(stream: Any, seconds: float) -> list[Any]:
    packets = []
    wave = np.sin(np.arange(0, seconds, 1 / 8000) * 2 * np.pi * 440).astype(np.float32)[None]
    for start in range(0, wave.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(wave[:, start : start + 1024].copy(), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, start
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def scene(shift: int = 0, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> npt.NDArray[np.uint8]:
    """A smooth texture, moved to the right by `shift` pixels: uint8 HxWx3."""
    y, x = np.mgrid[:height, :width]
    values = [np.sin((x - shift) / (4 + seed + k)) * np.cos(y / (5 + k)) for k in range(3)]
    return (128 + 80 * np.stack(values, axis=2)).astype(np.uint8)


def read_clip(path: Path) -> tuple[list[float], list[npt.NDArray[np.uint8]]]:
    """Times and frames, uint8 HxWx3."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [float(frame.time) for frame in frames], [frame.to_ndarray(format="rgb24") for frame in frames]
