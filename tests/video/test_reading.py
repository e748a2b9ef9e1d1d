"""Streams: what is read of a video, a stack or images, with which times, and what is refused."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.video.clips import HEIGHT, WIDTH, scene, write_clip
from tests.video.servers import HttpFile, MjpegCamera, RtspCamera, TcpCamera
from thfuse_sam.errors import ImageKindError, OptionError, ThFuseError, UsageError
from thfuse_sam.false_colour import colour_table
from thfuse_sam.images import Modality, luma, read_infrared, read_visible
from thfuse_sam.thermal import AS_STORED, InfraredReading
from thfuse_sam.video import reading
from thfuse_sam.video.reading import Stream, open_stream, share_times
from thfuse_sam.video.steadiness import ThermalLevels


def opened(
    place: Path | str,
    modality: Modality = "ir",
    fps: float = 25,
    reopen: int = 0,
    how: InfraredReading = AS_STORED,
) -> Stream:
    return open_stream(str(place), modality, fps=fps, how=how, reopen=reopen)


def test_sixteen_bit_numbers_are_read_as_they_are(tmp_path: Path) -> None:
    deep = [np.full((HEIGHT, WIDTH), 7000 + 1000 * k, np.uint16) for k in range(3)]
    frames = list(opened(write_clip(tmp_path / "ir.mkv", deep)).frames())
    assert [int(frame.values[0, 0]) for frame in frames] == [7000, 8000, 9000]
    assert frames[0].values.dtype == np.uint16


def test_frames_have_the_times_of_a_variable_rate(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.3, 0.31, 1.0]
    clip = write_clip(tmp_path / "vi.mkv", [scene(k) for k in range(5)], times=times)
    frames = list(opened(clip, "vi").frames())
    assert [frame.time for frame in frames] == pytest.approx(times)
    assert np.array_equal(frames[2].values, scene(2))


@pytest.mark.parametrize("kind", ["gray10le", "gray12le", "gray16le"])
def test_numbers_are_those_of_the_file_whatever_its_depth(tmp_path: Path, kind: str) -> None:
    clip = write_clip(tmp_path / "ir.mkv", [np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) % 1000])
    deep = tmp_path / "deep.mkv"
    av = reading.import_av()
    with av.open(str(clip)) as container, av.open(str(deep), "w") as output:
        stream = output.add_stream("ffv1", rate=25, width=WIDTH, height=HEIGHT, pix_fmt=kind)
        (frame,) = container.decode(video=0)
        numbers = frame.to_ndarray()
        output.mux([*stream.encode(av.VideoFrame.from_ndarray(numbers, format=kind)), *stream.encode()])
    (read,) = opened(deep).frames()
    assert np.array_equal(read.values, numbers)


@pytest.mark.parametrize("suffix", [".mp4", ".tiff"])
def test_infrared_in_false_colours_is_turned_back_or_refused(tmp_path: Path, suffix: str) -> None:
    warm = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    coloured = [colour_table("ironbow")[warm], colour_table("ironbow")[warm[:, ::-1]]]
    path = tmp_path / f"ir{suffix}"
    if suffix == ".mp4":
        write_clip(path, coloured, codec="mpeg4")
    else:
        Image.fromarray(coloured[0]).save(path, save_all=True, append_images=[Image.fromarray(coloured[1])])
    with pytest.raises(ImageKindError, match="false colours, like ironbow"):
        list(opened(path).frames())
    first, second = (frame.values for frame in opened(path, how=InfraredReading(colormap="ironbow")).frames())
    assert np.abs(first.astype(int) - warm).mean() < 6 and np.abs(second.astype(int) - warm[:, ::-1]).mean() < 6
    greys = [frame.values for frame in opened(path, how=InfraredReading(gray=True)).frames()]
    assert [grey.shape for grey in greys] == [(HEIGHT, WIDTH)] * 2
    assert np.abs(greys[0].astype(int) - luma(coloured[0])).mean() < 6


@pytest.mark.parametrize("modality", ["ir", "vi"])
def test_frames_are_upright_and_have_square_pixels(tmp_path: Path, modality: Modality) -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[: HEIGHT // 2, : WIDTH // 2] = 200  # top left
    turned = write_clip(tmp_path / "vi.mp4", [image], codec="mpeg4", rotation=-90)  # as phones do it
    (frame,) = opened(turned, modality).frames()
    assert frame.values.shape[:2] == (WIDTH, HEIGHT) and frame.values.flags.c_contiguous
    bright = frame.values > 100
    assert bright[:30, 30:].all() and not bright[:30, :20].any() and not bright[36:].any()  # top right
    wide = write_clip(tmp_path / "wide.mp4", [image], codec="mpeg4", aspect=Fraction(3, 2))
    (frame,) = opened(wide, modality).frames()
    assert frame.values.shape[:2] == (HEIGHT, 96)


@pytest.mark.parametrize("modality", ["ir", "vi"])
def test_frames_of_any_width_lie_in_memory_without_gaps(tmp_path: Path, modality: Modality) -> None:
    clip = write_clip(tmp_path / "vi.mp4", [scene(width=WIDTH + 10)], codec="mpeg4")
    (frame,) = opened(clip, modality).frames()
    assert frame.values.flags.c_contiguous  # as OpenCV's optical flow needs them


def test_stacks_are_read_page_by_page(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((HEIGHT, WIDTH), 500 * k, np.uint16)) for k in range(4)]
    pages[0].save(tmp_path / "ir.tiff", save_all=True, append_images=pages[1:])
    frames = list(opened(tmp_path / "ir.tiff", fps=10).frames())
    assert [(frame.time, int(frame.values[3, 3])) for frame in frames] == [(0, 0), (0.1, 500), (0.2, 1000), (0.3, 1500)]


@pytest.mark.parametrize("pattern", ["f%d.png", "f*.png", ""])
def test_images_of_a_pattern_come_in_their_order(tmp_path: Path, pattern: str) -> None:
    for number in (1, 2, 10):
        Image.fromarray(np.full((HEIGHT, WIDTH), number, np.uint16)).save(tmp_path / f"f{number}.png")
    (tmp_path / "._f1.png").write_bytes(b"what macOS keeps")
    frames = list(opened(f"{tmp_path}/{pattern}").frames())
    assert [int(frame.values[0, 0]) for frame in frames] == [1, 2, 10]


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "16 bits", "float"])
def test_visible_stacks_are_read_as_images(tmp_path: Path, mode: str) -> None:
    numbers = np.linspace(0, 4000, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    if mode in ("16 bits", "float"):
        page = Image.fromarray(numbers.astype(np.uint16 if mode == "16 bits" else np.float32))
    else:
        page = Image.fromarray(scene()).convert(mode)
    page.save(tmp_path / "vi.tiff", save_all=True, append_images=[page])
    expected = read_visible(tmp_path / "vi.tiff")
    for frame in opened(tmp_path / "vi.tiff", "vi").frames():
        assert np.array_equal(frame.values, expected)
    assert expected.std() > 20


@pytest.mark.parametrize(
    ("place", "kind"),
    [("stack", "8 bits"), ("stack", "16 bits"), ("folder", "8 bits"), ("folder", "16 bits"), ("folder", "alpha")],
)
def test_pixels_without_data_are_filled_as_in_single_images(tmp_path: Path, place: str, kind: str) -> None:
    values = np.random.default_rng(0).integers(100, 130, (HEIGHT, WIDTH)).astype(np.uint8)
    values[20:30, 10:20] = 0
    path, tags = tmp_path / "1.tif", {42113: "0"}  # as GDAL notes the number that means no data
    if kind == "alpha":
        alpha = np.where(values == 0, 0, 255).astype(np.uint8)
        Image.fromarray(np.dstack([values, alpha]), "LA").save(path)
    else:
        Image.fromarray(values.astype(np.uint16) * 256 if kind == "16 bits" else values).save(path, tiffinfo=tags)
    if place == "folder":
        (tmp_path / "2.tif").symlink_to(path)
    frame = next(opened(path if place == "stack" else tmp_path).frames())
    grey = ThermalLevels(AS_STORED, 0).grey(frame.values, 0, frame.missing)
    assert np.array_equal(grey, read_infrared(path))
    assert frame.missing is not None and np.array_equal(frame.missing, values == 0)


def test_a_gap_in_numbered_images_remains_one(tmp_path: Path) -> None:
    for number in (7, 8, 11):
        Image.fromarray(np.full((HEIGHT, WIDTH), number, np.uint8)).save(tmp_path / f"f{number:03d}.png")
    frames = list(opened(f"{tmp_path}/f%03d.png", fps=10).frames())
    assert [(frame.time, int(frame.values[0, 0])) for frame in frames] == [(0, 7), (0.1, 8), (0.4, 11)]


@pytest.mark.parametrize("numbers", [(0, 10, 20, 30, 50), [1700000000000 + ms for ms in (0, 40, 81, 121, 201)]])
def test_numbers_may_be_those_of_every_tenth_frame_or_milliseconds(tmp_path: Path, numbers: Sequence[int]) -> None:
    for number in numbers:
        Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / f"{number}.png")
    times = [frame.time for frame in opened(f"{tmp_path}/%d.png", fps=10).frames()]
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.5], abs=0.01)


def shared_numbers(folder: Path, ir: list[str], vi: list[str], pattern: str = "") -> list[list[int]]:
    """The frame of each image, when infrared images of the names `ir` and visible ones of `vi` share their times."""
    for kind, names in (("ir", ir), ("vi", vi)):
        (folder / kind).mkdir()
        for name in names:
            Image.new("L", (WIDTH, HEIGHT)).save(folder / kind / f"{name}.png")
    streams = opened(f"{folder}/ir{pattern}", fps=1), opened(f"{folder}/vi{pattern}", "vi", fps=1)
    share_times(*streams)
    return [[round(frame.time) for frame in stream.frames()] for stream in streams]


@pytest.mark.parametrize(
    ("ir", "vi", "expected"),
    [
        (range(5, 8), range(8), [[5, 6, 7], [*range(8)]]),
        (range(8), range(5, 8), [[*range(-5, 3)], [0, 1, 2]]),
        (range(3), range(1000, 1003), [[0, 1, 2], [0, 1, 2]]),  # cameras that count from elsewhere begin together
        (range(7, 400, 40), range(0, 400, 40), [[*range(10)], [*range(10)]]),
    ],
)
def test_patterns_whose_numbers_overlap_share_them(
    tmp_path: Path, ir: range, vi: range, expected: list[list[int]]
) -> None:
    names = [[f"{number:04d}" for number in numbers] for numbers in (ir, vi)]
    assert shared_numbers(tmp_path, *names, "/%04d.png") == expected


@pytest.mark.parametrize(("before", "after"), [("", ""), ("ir_cam1_", ""), ("FLIR", "_ir")])
def test_an_image_that_one_folder_lacks_shifts_no_other(tmp_path: Path, before: str, after: str) -> None:
    ir = [f"{before}{number:02d}{after}" for number in (1, 2, 4, 20)]
    assert shared_numbers(tmp_path, ir, ["01", "02", "03", "04", "20"]) == [[0, 1, 3, 4], [0, 1, 2, 3, 4]]


def test_images_that_are_paired_in_their_order_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert shared_numbers(tmp_path, ["a", "b"], ["a", "b", "c"]) == [[0, 1], [0, 1, 2]]
    assert "ir (2 images) and" in caplog.text and "paired in their order" in caplog.text


def test_palettes_are_colours(tmp_path: Path) -> None:
    av = reading.import_av()
    warm = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    palette = np.full((256, 4), 255, np.uint8)
    palette[:, 1:] = colour_table("ironbow")  # alpha first
    with av.open(str(tmp_path / "ir.mov"), "w") as output:
        stream = output.add_stream("png", rate=25, width=WIDTH, height=HEIGHT, pix_fmt="pal8")
        frame = av.VideoFrame.from_ndarray((warm, palette), format="pal8")
        output.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(ImageKindError, match="false colours, like ironbow"):
        list(opened(tmp_path / "ir.mov").frames())
    (read,) = opened(tmp_path / "ir.mov", how=InfraredReading(colormap="ironbow")).frames()
    assert np.abs(read.values.astype(int) - warm).mean() < 2


def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with reading.import_av().open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = reading.import_av().AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    for name, words in (
        ("none.mp4", "no such file"),
        ("%03d.png", "no such file"),
        ("text.mp4", "cannot be opened"),
        ("sound.mkv", "has no video"),
    ):
        with pytest.raises(OptionError, match=f"`ir` .*{name}: {words}") as error:
            opened(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UsageError, match="pip install"):
        opened("x.mp4")


def test_a_damaged_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "vi.mkv", [scene(k) for k in range(8)])
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    assert 1 <= len(list(opened(clip, "vi").frames())) < 8


@pytest.mark.parametrize("kind", [TcpCamera, RtspCamera, MjpegCamera])
def test_a_camera_that_breaks_is_opened_again_and_its_times_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[TcpCamera]
) -> None:
    monkeypatch.setattr(reading, "WAIT_SECONDS", 0.05)
    images = [scene(k) for k in range(8)]
    content = images if kind is MjpegCamera else write_clip(tmp_path / "a.ts", images, codec="mpeg4").read_bytes()
    stream = opened(kind(content, 2).address, "vi", reopen=1)
    frames = list(stream.frames())
    times = [frame.time for frame in frames]
    assert stream.is_live and stream.reopened == 1
    assert len(frames) >= 14 and times == sorted(set(times)) and times[8] > 0.05
    assert np.abs(frames[3].values.astype(int) - images[3]).mean() < 6


def test_a_file_by_http_is_no_camera_and_is_read_once(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.ts", [scene(k) for k in range(8)], codec="mpeg4")
    stream = opened(HttpFile(clip.read_bytes(), 2).address, "vi", reopen=1)
    frames = list(stream.frames())
    assert not stream.is_live and stream.reopened == 0
    assert [frame.time for frame in frames] == pytest.approx([k / 25 for k in range(8)], abs=1e-3)


def test_the_times_of_a_camera_begin_when_its_frames_no_longer_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "vi.mkv", [scene(k) for k in range(10)])
    stream = opened(clip, "vi")
    stream.is_live = True
    # Five frames had waited while another camera was opened; one comes late.
    came = [0.2, 0.201, 0.202, 0.203, 0.204, 0.244, 0.33, 0.33, 0.364, 0.404]
    clock = iter([0.0, *came])
    monkeypatch.setattr(reading, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    times = [frame.time for frame in stream.frames()]
    assert times == pytest.approx([0.2, 0.201, 0.202, 0.203, 0.204, 0.244, 0.284, 0.324, 0.364, 0.404], abs=2e-3)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonesuch://a"])
def test_an_address_that_nobody_answers_is_one_line(address: str) -> None:
    with pytest.raises(ThFuseError, match="cannot be opened"):
        opened(address)
