"""What an interrupt leaves of a video is whole."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.video.clips import read_clip, scene
from thfuse_sam.video.writing import VideoWriter, choose_codec


class _Interrupted:
    """A container at whose third packet Ctrl-C comes just before it is written."""

    def __init__(self, container: Any) -> None:
        self._container, self._calls = container, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def mux(self, packets: Any) -> None:
        self._calls += 1
        if self._calls == 3:
            signal.raise_signal(signal.SIGINT)
        self._container.mux(packets)


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_frames_are_shown_in_their_order(tmp_path: Path, suffix: str) -> None:
    writer = VideoWriter(tmp_path / f"fused{suffix}", choose_codec(tmp_path / f"fused{suffix}", "auto"))
    for index in range(12):
        writer.write(scene(4 * index), index / 25)
    writer.close()
    times, frames = read_clip(writer.path)
    assert np.diff(times) == pytest.approx(1 / 25, abs=2e-3)
    assert all(np.abs(frames[k].astype(int) - scene(4 * k)).mean() < 20 for k in range(12))


def test_no_packet_is_lost_by_an_interrupt(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "fused.mp4", "mpeg4")
    writer._container = _Interrupted(writer._container)
    with pytest.raises(KeyboardInterrupt):
        for index in range(9):
            writer.write(scene(index), index / 25)
    writer.close()
    assert writer.frames == len(read_clip(tmp_path / "fused.mp4")[0]) == 3
