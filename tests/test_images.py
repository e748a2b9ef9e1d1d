import io
import os
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from thfuse_sam import image_files, images
from thfuse_sam.datasets.named_images import list_images
from thfuse_sam.errors import ImageReadError, OutputError
from thfuse_sam.images import image_size, luma, read_for_sam, read_infrared, read_visible, write_image

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (12, 10), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (12, 10, 3), dtype=np.uint8)
DEEP = np.arange(120, dtype=np.uint16).reshape(12, 10) * 40 + 7000


def png(width: int, height: int, bit_depth: int, colour_type: int, rows: bytes, after_pixels: bytes = b"") -> bytes:
    """A PNG written by hand, for kinds that no library writes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    last = (chunk(b"eXIf", after_pixels) if after_pixels else b"") + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + last


def opencv_file(path: Path, pixels: np.ndarray) -> Path:
    """Write HxW or HxWx3/4 in RGB order in OpenCV's way, which knows types that Pillow does not write."""
    if pixels.ndim == 3:
        pixels = pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    # Uncompressed: by default some versions store colour floats in a lossy way.
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if path.suffix.startswith(".tif") else []
    done, content = cv2.imencode(path.suffix, pixels, options)
    assert done
    path.write_bytes(content.tobytes())
    return path


def stretched(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values.astype(np.float64), (0.5, 99.5))
    return np.rint(((values.astype(np.float64) - low) / (high - low) * 255).clip(0, 255)).astype(np.uint8)


# What is read from each kind of file


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF", ".PNG"])
def test_grey_8_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(GREY).save(path)
    np.testing.assert_array_equal(read_infrared(path), GREY)
    np.testing.assert_array_equal(read_visible(path), np.dstack([GREY] * 3))
    assert read_infrared(path).dtype == np.uint8


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_colour_8_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(COLOUR).save(path)
    np.testing.assert_array_equal(read_visible(path), COLOUR)
    np.testing.assert_array_equal(read_infrared(path), luma(COLOUR))


def test_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "a.jpeg"
    Image.fromarray(np.full((16, 16, 3), (200, 30, 40), dtype=np.uint8)).save(path, quality=95)
    assert np.abs(read_visible(path).astype(int) - (200, 30, 40)).max() < 5


def test_alpha_is_dropped_not_composited(tmp_path: Path) -> None:
    alpha = np.zeros((12, 10), dtype=np.uint8)
    Image.fromarray(np.dstack([COLOUR, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([GREY, alpha])).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_visible(tmp_path / "rgba.png"), COLOUR)
    np.testing.assert_array_equal(read_infrared(tmp_path / "la.png"), GREY)


def test_palette_with_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putdata([0, 1])
    picture.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    np.testing.assert_array_equal(read_visible(tmp_path / "a.png"), [[[255, 0, 0], [0, 0, 255]]])


def test_one_bit(tmp_path: Path) -> None:
    pattern = np.eye(9, dtype=bool)
    Image.fromarray(pattern).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_infrared(tmp_path / "a.png"), pattern * np.uint8(255))


def test_cmyk_jpeg_is_colour(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.jpg")
    assert read_visible(tmp_path / "a.jpg").min() > 250


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_16_bit_is_stretched(tmp_path: Path, suffix: str) -> None:
    path = opencv_file(tmp_path / f"a{suffix}", DEEP)
    np.testing.assert_array_equal(read_infrared(path), stretched(DEEP))
    np.testing.assert_array_equal(read_visible(path), np.dstack([stretched(DEEP)] * 3))


def test_hot_pixels_do_not_darken_the_rest(tmp_path: Path) -> None:
    values = np.tile(np.arange(100, dtype=np.uint16) * 10 + 5000, (100, 1))
    values[0, 0] = 65535
    grey = read_infrared(opencv_file(tmp_path / "a.png", values))
    assert grey[1].min() < 5 and grey[1].max() > 250


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colour_16_bit_keeps_its_depth(tmp_path: Path, suffix: str, channels: int) -> None:
    deep = RANDOM.integers(0, 65536, (12, 10, channels), dtype=np.uint16)
    path = opencv_file(tmp_path / f"a{suffix}", deep)
    np.testing.assert_array_equal(read_visible(path), np.rint(deep[:, :, :3] / 257).astype(np.uint8))
    # Infrared stored as three equal 16-bit channels in a narrow range must not collapse into a few levels.
    path = opencv_file(tmp_path / f"b{suffix}", np.dstack([DEEP] * channels))
    assert np.abs(read_infrared(path).astype(int) - stretched(DEEP)).max() <= 1


def test_grey_and_alpha_16_bit(tmp_path: Path) -> None:
    stored = np.dstack([DEEP, np.full_like(DEEP, 65535)]).astype(">u2")
    path = tmp_path / "a.png"
    path.write_bytes(png(10, 12, 16, 4, b"".join(b"\0" + row.tobytes() for row in stored)))
    assert np.abs(read_infrared(path).astype(int) - stretched(DEEP)).max() <= 1


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_float_tiff(tmp_path: Path, kind: type, channels: int) -> None:
    values = DEEP.astype(kind) / 1000 - 8
    path = opencv_file(tmp_path / "a.tiff", values if channels == 1 else np.dstack([values] * 3))
    assert image_size(path) == (12, 10)
    assert np.abs(read_infrared(path).astype(int) - stretched(DEEP)).max() <= 1
    assert np.abs(read_visible(path).astype(int)[:, :, 0] - stretched(np.dstack([DEEP] * channels))[:, :, 0]).max() <= 1


def test_float_with_holes(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 120, dtype=np.float32).reshape(12, 10)
    values[3, 3:6] = np.nan, np.inf, -np.inf
    grey = read_infrared(opencv_file(tmp_path / "a.tif", values))
    assert grey[3, 3:6].tolist() == grey[2, 3:6].tolist()  # as a nearest pixel with a number
    assert grey[0, 0] == 0 and grey[-1, -1] == 255
    with pytest.raises(ImageReadError, match="no pixel is a finite number"):
        read_infrared(opencv_file(tmp_path / "b.tif", np.full((4, 4), np.nan, dtype=np.float32)))


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_constant_16_bit(tmp_path: Path, value: int) -> None:
    path = opencv_file(tmp_path / "a.png", np.full((4, 5), value, dtype=np.uint16))
    np.testing.assert_array_equal(read_infrared(path), np.zeros((4, 5), dtype=np.uint8))


def test_few_hot_spots_on_a_constant_background_stay(tmp_path: Path) -> None:
    values = np.full((100, 100), 3000, dtype=np.uint16)
    values[50, 50] = 9000
    grey = read_infrared(opencv_file(tmp_path / "a.png", values))
    assert grey[50, 50] == 255 and np.count_nonzero(grey) == 1


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_one_pixel_wide(tmp_path: Path, shape: tuple[int, int], kind: type) -> None:
    path = opencv_file(tmp_path / "a.png", np.full(shape, 9, dtype=kind))
    assert read_infrared(path).shape == image_size(path) == shape
    assert read_visible(path).shape == (*shape, 3)


def test_first_frame_and_page(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((6, 7), value, dtype=np.uint8)) for value in (10, 200)]
    for name in ("pages.tif", "frames.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert np.unique(read_infrared(tmp_path / name)).tolist() == [10]
        assert image_size(tmp_path / name) == (6, 7)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    blocks = np.kron(RANDOM.integers(0, 256, (2, 3)), np.ones((16, 16))).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(blocks).save(path, exif=exif)
    plain = Image.open(io.BytesIO(encoded(blocks, exif)))
    expected = np.asarray(ImageOps.exif_transpose(plain))
    assert image_size(path) == expected.shape
    assert np.abs(read_infrared(path).astype(int) - expected).max() <= 12  # JPEG is not exact


def encoded(pixels: np.ndarray, exif: Image.Exif) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", exif=exif)
    return content.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_orientation_of_deep_colour(tmp_path: Path, suffix: str, orientation: int) -> None:
    deep = RANDOM.integers(0, 65536, (12, 10, 3), dtype=np.uint16)
    path = opencv_file(tmp_path / f"a{suffix}", deep)
    content = path.read_bytes()
    if suffix == ".png":
        exif = Image.Exif()
        exif[274] = orientation
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
        path.write_bytes(png(10, 12, 16, 2, rows, after_pixels=exif.tobytes()[6:]))
    else:
        path.write_bytes(with_tiff_tag(content, 274, orientation))
    flat = np.rint(deep / 257).astype(np.uint8)
    expected = image_files.upright(flat, orientation)
    assert image_size(path) == expected.shape[:2]
    np.testing.assert_array_equal(read_visible(path), expected)


def with_tiff_tag(content: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with one tag set: its directory is copied to the end of the file."""
    start = struct.unpack_from("<I", content, 4)[0]
    count = struct.unpack_from("<H", content, start)[0]
    entries = [content[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    entries = [entry for entry in entries if struct.unpack_from("<H", entry)[0] != tag]
    entries.append(struct.pack("<HHII", tag, 4, 1, value))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    content += b"\0" * (len(content) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return content[:4] + struct.pack("<I", len(content)) + content[8:] + directory


def test_exif_after_the_pixels_counts_in_the_header_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "a.png"
    path.write_bytes(png(10, 12, 8, 0, b"".join(b"\0" + row.tobytes() for row in GREY), exif.tobytes()[6:]))
    assert image_size(path) == read_infrared(path).shape == (10, 12)


def test_broken_exif_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(GREY).save(path, exif=b"Exif\0\0XX garbage")
    assert read_infrared(path).shape == image_size(path) == (12, 10)


def test_image_for_sam(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_for_sam(tmp_path / "a.png", "vi"), COLOUR)
    np.testing.assert_array_equal(read_for_sam(tmp_path / "a.png", "ir"), np.dstack([luma(COLOUR)] * 3))


def test_luma() -> None:
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    np.testing.assert_array_equal(luma(greys)[0], np.arange(256))
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    assert luma(primaries).tolist() == [[76, 150, 29]]


def test_utf8_name_and_wrong_suffix(tmp_path: Path) -> None:
    path = tmp_path / "夜 é.png"
    Image.fromarray(GREY).save(path, format="BMP")
    np.testing.assert_array_equal(read_infrared(path), GREY)


# What is refused


def written(image: np.ndarray, kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, kind)
    return content.getvalue()


NOISE = RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated(tmp_path: Path, kind: str, share: float) -> None:
    content = written(NOISE, kind)
    path = tmp_path / "a.png"
    path.write_bytes(content[: int(len(content) * share)])
    for read in (read_visible, read_infrared):
        with pytest.raises(ImageReadError) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("tag", "value"), [(279, 5000), (273, 10_000), (257, 6000), (None, None)])
def test_float_tiff_without_all_of_its_rows(tmp_path: Path, tag: int | None, value: int | None) -> None:
    path = opencv_file(tmp_path / "a.tif", RANDOM.random((12, 10)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if tag is None else with_tiff_tag(content, tag, value))
    with pytest.raises(ImageReadError, match=r"a\.tif: (damaged or truncated|not an image)"):
        read_infrared(path)


def text_file(path: Path) -> None:
    path.write_text("no image", encoding="utf-8")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "a folder, not an image"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (text_file, "not an image"),
        (lambda path: path.write_bytes(b"II*\0\x08\0\0\0"), "damaged or truncated|not an image"),
        (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not an image"),
        (lambda path: path.write_bytes(png(40_000, 40_000, 8, 0, b"")), "megapixels"),
    ],
    ids=["missing", "folder", "empty", "text", "tiff without tags", "postscript", "bomb"],
)
@pytest.mark.parametrize("read", [read_infrared, read_visible, image_size])
def test_refused(tmp_path: Path, make: Callable[[Path], object], message: str, read: Callable[[Path], object]) -> None:
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(ImageReadError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_file_in_a_folder_that_may_not_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as context:
        context.setattr(Path, "stat", refuse)
        with pytest.raises(ImageReadError, match="permission denied"):
            read_infrared(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("content", ["png", "tiff"])
def test_bombs_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    path = tmp_path / "a.png"
    if content == "png":
        Image.fromarray(GREY).save(path)
    else:
        opencv_file(tmp_path / "a.tif", RANDOM.random((12, 10))).rename(path)
    monkeypatch.setattr(image_files, "MAX_PIXELS", 100)
    with pytest.raises(ImageReadError, match="megapixels"):
        read_infrared(path)


def test_random_damage_never_escapes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    outcomes = set()
    for kind in ("JPEG", "PNG", "BMP", "TIFF"):
        content = bytearray(written(NOISE[:24, :24], kind))
        for _ in range(40):
            damaged = bytearray(content)
            for position in RANDOM.integers(0, len(content), 6):
                damaged[position] = RANDOM.integers(0, 256)
            path.write_bytes(damaged)
            try:
                outcomes.add(read_visible(path).dtype)
            except ImageReadError:
                outcomes.add("refused")
    assert outcomes == {np.dtype(np.uint8), "refused"}


# Writing


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
@pytest.mark.parametrize("image", [GREY, COLOUR, COLOUR[::-1, ::2]], ids=["grey", "colour", "view"])
def test_write_and_read_back(tmp_path: Path, suffix: str, image: np.ndarray) -> None:
    path = tmp_path / "new" / f"夜{suffix}"
    write_image(path, image)
    np.testing.assert_array_equal(read_infrared(path) if image.ndim == 2 else read_visible(path), image)
    assert list(path.parent.iterdir()) == [path]


def test_write_jpeg(tmp_path: Path) -> None:
    smooth = np.full((16, 16, 3), (90, 120, 30), dtype=np.uint8)
    write_image(tmp_path / "a.JPG", smooth)
    assert np.abs(read_visible(tmp_path / "a.JPG").astype(int) - smooth).max() < 4


def test_write_refuses(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="unknown image suffix"):
        write_image(tmp_path / "a.xyz", GREY)
    for wrong in (GREY.astype(np.float32), np.zeros((4, 4, 4), dtype=np.uint8)):
        with pytest.raises(ValueError, match="uint8 HxW or HxWx3"):
            write_image(tmp_path / "a.png", wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    for modality in ("ir", "vi"):
        write_image(tmp_path / modality / "a.png", np.zeros((4, 4), np.uint8))
        os.mkfifo(tmp_path / modality / "x.png")
    assert list(list_images(tmp_path / "ir")) == ["a"]
    for read in (read_infrared, read_visible, image_size):
        with pytest.raises(ImageReadError, match="pipe or device"):
            read(tmp_path / "ir" / "x.png")


def test_a_reader_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, answered = tmp_path / "a.png", threading.Event()
    write_image(path, np.full((4, 4), 7, np.uint8))
    monkeypatch.setattr(image_files, "READ_SECONDS", 0.1)
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda path: (answered.wait(10), decode(path))[1])
    with pytest.raises(ImageReadError, match=r"a\.png: not read within 0\.1 s"):
        read_visible(path)
    answered.set()
    monkeypatch.setattr(image_files, "READ_SECONDS", 60.0)
    assert read_visible(path).max() == 7  # a slow one is only slow
