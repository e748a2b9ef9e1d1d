"""A picture in a report shows the pixels that the networks saw, whatever the source file is like."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thfuse_sam.images import read_infrared, read_visible
from thfuse_sam.report.pictures import Pictures

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (20, 30), np.uint8)
COLOUR = RANDOM.integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.jpg"])
def test_what_browsers_show_is_copied(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    Image.fromarray(COLOUR).save(source)
    address = Pictures(tmp_path / "out").copy("1_vi", read_visible(source), source)
    assert (tmp_path / "out" / address).read_bytes() == source.read_bytes()
    assert address == f"pictures/1_vi{source.suffix.lower()}"


def saved(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_what_browsers_show_otherwise_is_written_as_png(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    infrared = {
        "deep.png": saved(tmp_path / "deep.png", RANDOM.integers(0, 65536, (20, 30), np.uint16)),
        "colour.png": saved(tmp_path / "colour.png", COLOUR),
        "grey.tif": saved(tmp_path / "grey.tif", GREY),
        "tiff.png": saved(tmp_path / "tiff.png", GREY, format="TIFF"),
    }
    visible = {
        "turned.jpg": saved(tmp_path / "turned.jpg", COLOUR, exif=exif),
        "grey.png": saved(tmp_path / "g.png", GREY),
    }
    for sources, read in ((infrared, read_infrared), (visible, read_visible)):
        for name, source in sources.items():
            address = Pictures(tmp_path / "out").copy(name, read(source), source)
            with Image.open(tmp_path / "out" / address) as picture:
                assert picture.format == "PNG" and picture.mode == ("L" if read is read_infrared else "RGB"), name
                np.testing.assert_array_equal(np.asarray(picture), read(source))


def test_thumbnail_is_never_enlarged(tmp_path: Path) -> None:
    addresses = [Pictures(tmp_path).thumbnail(f"{width}.jpg", COLOUR, width) for width in (15, 100)]
    assert [read_visible(tmp_path / address).shape[:2] for address in addresses] == [(10, 15), (20, 30)]


def test_mask_layer_is_clear_outside_of_segments(tmp_path: Path) -> None:
    labels = np.zeros((20, 30), np.int64)
    labels[2:10, 2:12] = 1
    labels[12:18, 5:25] = 300
    with Image.open(tmp_path / Pictures(tmp_path).mask_layer("mask.png", labels)) as picture:
        layer = np.asarray(picture)
    assert layer.shape == (20, 30, 4)
    np.testing.assert_array_equal(layer[..., 3] > 0, labels > 0)
    assert layer[..., 3].max() < 255  # the picture shows through
    assert (layer[5, 5, :3] != layer[15, 15, :3]).any()


def test_no_segment_gives_an_empty_layer(tmp_path: Path) -> None:
    with Image.open(tmp_path / Pictures(tmp_path).mask_layer("mask.png", np.zeros((4, 5), np.uint8))) as picture:
        assert not np.asarray(picture).any()
