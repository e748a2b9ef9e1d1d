"""Two videos become one: sizes, sound, cuts, interrupts, bad input."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.align import scenes
from tests.video.clips import HEIGHT, WIDTH, av, read_clip, scene, write_clip
from tests.video.servers import MjpegCamera, RtspCamera
from thfuse_sam.align.placement import Placer
from thfuse_sam.cli.commands import video
from thfuse_sam.cli.main import main
from thfuse_sam.datasets.fusion import fusion_sample
from thfuse_sam.fusion.colour import finished
from thfuse_sam.fusion.inference import fuse_lumas
from thfuse_sam.fusion.loading import load_network, save_network
from thfuse_sam.images import write_image
from thfuse_sam.models import build_network
from thfuse_sam.options.video import is_video
from thfuse_sam.shipped import shipped_root
from thfuse_sam.thermal import AS_STORED
from thfuse_sam.training.checkpoint import NetworkSpec
from thfuse_sam.video.fusing import FrameFuser, Placing, VideoReport, fuse_streams
from thfuse_sam.video.matching import Ahead
from thfuse_sam.video.reading import Frame, open_stream
from thfuse_sam.video.steadiness import ThermalLevels


def clips(folder: Path, number: int = 10, ir_shape: tuple[int, int] = (HEIGHT, WIDTH)) -> tuple[str, str]:
    ir = [scene(k, height=ir_shape[0], width=ir_shape[1])[..., 0].astype(np.uint16) * 20 + 7000 for k in range(number)]
    return (
        str(write_clip(folder / "ir.mkv", ir)),
        str(write_clip(folder / "vi.mkv", [scene(k, seed=2) for k in range(number)], codec="mpeg4", sound=True)),
    )


def test_two_videos_become_one_with_sound(tmp_path: Path) -> None:
    output = tmp_path / "fused.mp4"
    assert main(["fuse", *clips(tmp_path, ir_shape=(24, 32)), "-o", str(output)]) == 0
    times, frames = read_clip(output)
    assert times == pytest.approx([k / 25 for k in range(10)], abs=1e-3)
    assert frames[0].shape == (HEIGHT, WIDTH, 3)
    with av.open(str(output)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        assert sum(packet.duration for packet in container.demux(audio=0)) > 2000  # of 3200 samples
    facts = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    assert facts["frames"] == 10 and facts["scenes"] == [0] and facts["flicker"] <= 0.3
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob(".*"))


def test_folders_of_frames_become_a_video_where_the_output_is_one(tmp_path: Path) -> None:
    for folder in ("ir", "vi"):
        for number in range(2 if folder == "ir" else 0, 6):
            write_image(tmp_path / folder / f"{number}.png", scene(number)[..., 0] if folder == "ir" else scene(number))
    assert main(["fuse", str(tmp_path / "ir"), f"{tmp_path}/vi/%d.png", "-o", str(tmp_path / "fused.mp4")]) == 0
    assert len(read_clip(tmp_path / "fused.mp4")[0]) == 5  # the first has no infrared image near in time


def test_odd_sizes_grey_and_the_shorter_video(tmp_path: Path) -> None:
    ir = write_clip(tmp_path / "ir.mkv", [scene(k, height=47, width=63)[..., 0] for k in range(4)])
    vi = write_clip(tmp_path / "vi.mkv", [scene(k, height=47, width=63) for k in range(9)])
    options = ["--ir", str(ir), "--vi", str(vi), "-o", str(tmp_path / "x.mkv"), "--gray", "--codec", "mpeg4"]
    assert video.main(options) == 0
    times, frames = read_clip(tmp_path / "x.mkv")
    assert len(times) == 4 and frames[0].shape == (48, 64, 3)
    assert np.abs(frames[0].astype(int) - frames[0][..., :1]).max() <= 2


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (["--codec", "nonesuch"], "no such video encoder", 2),
        (["-o", "fused.gif"], "unknown suffix", 2),
        (["--offset", "100"], "no two frames belong together", 1),
        (["--mask_every", "5"], "add --use_sam", 2),
        (["--vi", "ir.mkv"], "is the infrared stream as well", 2),
        (["--ir", "none.mp4"], "no such file", 2),
        (["-o", "vi.mkv", "--overwrite"], "is one of the streams", 2),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str, status: int
) -> None:
    ir, vi = clips(tmp_path, 4)
    before = {*tmp_path.iterdir()}
    if words[0] == "-o":
        words = ["-o", str(tmp_path / words[1]), *words[2:]]
    words = [ir if word == "ir.mkv" else word for word in words]
    given = ["--ir", ir, "--vi", vi, "-o", str(tmp_path / "fused.mp4"), *words]
    assert video.main(given) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1 and message in lines[0]
    assert {*tmp_path.iterdir()} == before


def test_the_range_is_that_of_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, _ = load_network(shipped_root() / "models/thfuse_tiny.safetensors")
    path = tmp_path / "own.safetensors"
    save_network(path, network, NetworkSpec(network.name, network.options), (0, 40_000))
    streams = zip(("--ir", "--vi"), clips(tmp_path, 2), strict=True)
    given = [*(word for pair in streams for word in pair), "--model_path", str(path), "-o", str(tmp_path / "fused.mp4")]
    for words, told in (([], True), (["--ir_range", "image"], False)):
        assert video.main([*given, "--overwrite", *words]) == 0
        line = f"0 becomes black and 40000 white (as {path} was trained)"
        assert (line in capsys.readouterr().err) is told


@pytest.mark.parametrize("folder", ["ir", "vi"])
def test_frames_whose_size_changes_are_brought_to_that_of_the_first(tmp_path: Path, folder: str) -> None:
    for name in ("ir", "vi"):
        for number in range(4):
            scale = 2 if name == folder and number > 1 else 1
            image = scene(number, height=HEIGHT // scale, width=WIDTH // scale)
            write_image(tmp_path / name / f"{number}.png", image[..., 0] if name == "ir" else image)
    assert main(["fuse", str(tmp_path / "ir"), str(tmp_path / "vi"), "-o", str(tmp_path / "fused.mp4")]) == 0
    assert [frame.shape for frame in read_clip(tmp_path / "fused.mp4")[1]] == [(HEIGHT, WIDTH, 3)] * 4


def test_frames_whose_sizes_become_equal_are_taken_as_they_are() -> None:
    placing = Placing(None)
    placing.images(np.zeros((24, 32), np.uint8), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    assert placing.placement is not None
    placing.images(np.zeros((24, 32), np.uint8), np.zeros((24, 32, 3), np.uint8))
    assert placing.placement is None


def test_an_existing_file_is_kept_unless_told(tmp_path: Path) -> None:
    words = ["fuse", *clips(tmp_path, 3), "-o", str(tmp_path / "fused.mp4")]
    for name in ("fused.json", "fused.mp4"):
        (tmp_path / name).write_text("mine")
        assert main(words) == 2 and (tmp_path / name).read_text() == "mine"
    assert main([*words, "--overwrite"]) == 0 and len(read_clip(tmp_path / "fused.mp4")[0]) == 3


def test_an_interrupt_leaves_a_playable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thfuse_sam.video.writing import VideoWriter

    write = VideoWriter.write

    def interrupted(self: VideoWriter, image: np.ndarray, time: float) -> None:
        if self.frames == 4:
            raise KeyboardInterrupt
        write(self, image, time)

    monkeypatch.setattr(VideoWriter, "write", interrupted)
    assert main(["fuse", *clips(tmp_path, 12), "-o", str(tmp_path / "fused.mp4")]) == 130
    assert len(read_clip(tmp_path / "fused.mp4")[0]) == 4


def test_an_interrupt_before_the_first_frame_says_that_nothing_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from thfuse_sam.video.writing import VideoWriter

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoWriter, "write", interrupted)
    assert main(["fuse", *clips(tmp_path, 3), "-o", str(tmp_path / "fused.mp4")]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "fused.mp4").exists()


def test_an_interrupt_waits_for_what_still_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ahead.close, "__defaults__", (0.0,))
    begun, ended = [], []

    def make(image: np.ndarray, infrared: np.ndarray | None) -> np.ndarray:
        begun.append(1)
        time.sleep(0.1 if len(begun) > 2 else 0.0)
        ended.append(1)
        return np.zeros(image.shape[:2], np.uint8)

    def write(image: np.ndarray, moment: float) -> None:
        while len(begun) < 3:
            time.sleep(0.01)
        raise KeyboardInterrupt

    fuser = FrameFuser(build_network("thfuse_tiny").eval(), torch.device("cpu"), make_label_map=make, mask_every=1)
    ir, vi = clips(tmp_path, 8)
    streams = [open_stream(ir, "ir", fps=25, how=AS_STORED), open_stream(vi, "vi", fps=25, how=AS_STORED)]
    report = fuse_streams(*streams, fuser, write, levels=ThermalLevels(AS_STORED, 0.3))
    assert report.interrupted and len(begun) == len(ended)


def test_masks_are_made_on_key_frames_and_carried_between(tmp_path: Path) -> None:
    ir, vi = clips(tmp_path, 8)
    made = []

    def make(image: np.ndarray, infrared: np.ndarray | None) -> np.ndarray:
        made.append(image.shape)
        labels = np.zeros(image.shape[:2], np.uint8)
        labels[10:30, 10:40] = 1
        return labels

    torch.manual_seed(0)
    network = build_network("thfuse_tiny", contrast_gain=1.0).eval()
    fuser = FrameFuser(network, torch.device("cpu"), make_label_map=make, mask_every=3)
    streams = [open_stream(ir, "ir", fps=25, how=AS_STORED), open_stream(vi, "vi", fps=25, how=AS_STORED)]
    written: list[np.ndarray] = []
    report = fuse_streams(
        *streams, fuser, lambda image, time: written.append(image), levels=ThermalLevels(AS_STORED, 0.3)
    )
    assert report.key_frames == pytest.approx([0, 0.12, 0.24], abs=1e-3) and report.carried == 5
    assert len(made) == 6 and len(written) == report.frames == 8


class _Cut:
    """A stream of two scenes."""

    name, is_live, reopened = "cut", False, 0

    def __init__(self, infrared: bool) -> None:
        self._infrared = infrared

    def frames(self) -> Iterator[Frame]:
        for k in range(8):
            image = scene(0) if k < 4 else 255 - scene(0, seed=9)[::-1]
            yield Frame(k / 25, image[..., 0] if self._infrared else image)


def test_nothing_of_the_former_scene_is_left_after_a_cut() -> None:
    torch.manual_seed(0)
    network = build_network("thfuse_tiny").eval()

    def fused(smooth: float) -> list[np.ndarray]:
        frames: list[np.ndarray] = []
        fuser = FrameFuser(network, torch.device("cpu"), smooth=smooth)
        levels = ThermalLevels(AS_STORED, smooth)
        report = fuse_streams(_Cut(True), _Cut(False), fuser, lambda image, time: frames.append(image), levels=levels)
        assert report.scenes == pytest.approx([0, 4 / 25])
        return frames

    assert np.array_equal(fused(1.0)[4], fused(0.0)[4])


class _Uneven(torch.nn.Module):
    """A network that takes longest for the first of any four frames, and gives the infrared image back.

    The first four frames wait for each other, so that each of four threads runs it, however busy the machine is.
    """

    def __init__(self, broken_at: int | None = None) -> None:
        super().__init__()
        self.broken_at = broken_at
        self.begun = threading.Barrier(4, timeout=60)
        self.threads: dict[int, int] = {}  # of each thread that ran it

    def forward(self, ir: torch.Tensor, vi: torch.Tensor) -> torch.Tensor:
        number = round(255 * float(ir[0, 0, 0, 0]))
        if number == self.broken_at:
            raise RuntimeError(f"broken at {number}")
        if number < 4:
            self.begun.wait()
        time.sleep(0.03 if number % 4 == 0 else 0.0)
        self.threads[threading.get_ident()] = torch.get_num_threads()
        return ir


class _Numbered:
    """A stream whose frames have their number as their only value."""

    name, is_live, reopened = "numbered", False, 0

    def __init__(self, infrared: bool) -> None:
        self._infrared = infrared

    def frames(self) -> Iterator[Frame]:
        for k in range(12):
            yield Frame(k / 25, np.full((HEIGHT, WIDTH) if self._infrared else (HEIGHT, WIDTH, 3), k, np.uint8))


@pytest.mark.parametrize(("cores", "shares"), [(4, [1, 1, 1, 1]), (7, [1, 2, 2, 2])])
def test_frames_that_are_fused_at_once_keep_their_order_and_errors_arrive(cores: int, shares: list[int]) -> None:
    former = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        network, numbers = _Uneven(), []

        def fused(network: torch.nn.Module) -> None:
            fuser = FrameFuser(network, torch.device("cpu"), smooth=0)
            streams, levels = (_Numbered(True), _Numbered(False)), ThermalLevels(AS_STORED, 0)
            fuse_streams(*streams, fuser, lambda image, _: numbers.append(image[0, 0]), levels=levels, gray=True)

        fused(network)
        assert numbers == list(range(12)) and sorted(network.threads.values()) == shares
        with pytest.raises(RuntimeError, match="broken at 7"):
            fused(_Uneven(broken_at=7))
        assert numbers[12:] == list(range(7)) and torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(former)


def test_frames_are_fused_as_single_images_are() -> None:
    torch.manual_seed(0)
    network, frames = build_network("thfuse_tiny").eval(), []
    fuser, levels = FrameFuser(network, torch.device("cpu"), smooth=0), ThermalLevels(AS_STORED, 0)
    fuse_streams(_Cut(True), _Cut(False), fuser, lambda image, _: frames.append(image), levels=levels)
    for infrared, visible, fused in zip(_Cut(True).frames(), _Cut(False).frames(), frames, strict=True):
        sample = fusion_sample("a", infrared.values, visible.values, None, None)
        (grey,) = fuse_lumas(network, [sample], torch.device("cpu"))
        assert np.array_equal(finished(grey, visible.values, None, gray=False), fused)


def test_words_that_name_videos() -> None:
    assert is_video("a.MP4") and is_video("rtsp://camera/1") and is_video("/dev/video0")
    assert not is_video("a.png") and not is_video("folder") and not is_video("ir/%04d.png")


class _Rig:
    """The stream of one of two cameras that are not in register; what they see is dark at first."""

    name, is_live, reopened = "rig", False, 0

    def __init__(self, infrared: bool, dark: int) -> None:
        self._infrared, self._dark = infrared, dark

    def frames(self) -> Iterator[Frame]:
        infrared, visible = scenes.pair(6)
        infrared = scenes.moved(infrared, 2, 1.03, (12, 5))[0]
        image = infrared if self._infrared else np.stack([visible] * 3, axis=2)
        for k in range(self._dark + 3):
            yield Frame(k / 25, image if k >= self._dark else np.zeros_like(image))


def test_cameras_are_aligned_as_soon_as_frames_show_how(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    fuser = FrameFuser(build_network("thfuse_tiny").eval(), torch.device("cpu"))
    caplog.set_level("INFO")

    def fused(placer: Placer | None, dark: int) -> VideoReport:
        streams = _Rig(True, dark), _Rig(False, dark)
        return fuse_streams(*streams, fuser, lambda *_: None, levels=ThermalLevels(AS_STORED, 0.3), placer=placer)

    assert "moved by 4" in fused(Placer("similarity"), 3).alignment  # of the fourth frame
    assert "left as it is" in caplog.text
    assert fused(None, 0).alignment == "none" and "out of register by 4" in caplog.text


def test_two_cameras_are_fused_and_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write_clip(tmp_path / "ir.ts", [scene(k) for k in range(250)], codec="mpeg4").read_bytes()
    # As cameras do, they go on for longer than they are watched: what comes at once matches by chance alone.
    ir, vi = RtspCamera(content, pause=0.2), MjpegCamera(25 * [scene(k, seed=2) for k in range(25)], pause=0.02)
    words = ["--ir", ir.address, "--vi", vi.address, "-o", str(tmp_path / "fused.mp4"), "--reopen", "0"]
    assert video.main([*words, "--preview", "0", "--offset", "0", "--seconds", "0.5"]) == 0
    assert len(read_clip(tmp_path / "fused.mp4")[0]) >= 1
