"""Thermal images as cameras and other programs write them: no data, ranges, colours, bands."""

import logging
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from thfuse_sam.commands.fuse import fuse
from thfuse_sam.commands.infrared import infrared_reading
from thfuse_sam.commands.inputs import find_command_pairs
from thfuse_sam.commands.precompute import precompute_masks
from thfuse_sam.commands.train_pairs import find_train_pairs
from thfuse_sam.commands.verify import verify_masks
from thfuse_sam.datasets.pair_checks import read_pair
from thfuse_sam.errors import ImageKindError, ImageReadError, ManifestError, OptionError, PairError
from thfuse_sam.false_colour import COLORMAPS, colour_table
from thfuse_sam.images import read_infrared, read_infrared_and_missing, read_visible, write_image
from thfuse_sam.masks.manifest import Manifest
from thfuse_sam.masks.source import LiveMasks
from thfuse_sam.masks.store import open_masks
from thfuse_sam.options.fuse import FuseOptions
from thfuse_sam.options.precompute import PrecomputeOptions
from thfuse_sam.options.shared import InfraredOptions, PairOptions
from thfuse_sam.options.train import TrainOptions
from thfuse_sam.thermal import InfraredReading, stretch

RANDOM = np.random.default_rng(0)
HEIGHT, WIDTH = 40, 60
CORNER = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) < 30  # a fifth of the picture, as of a turned mosaic


def scene(low: float, high: float, kind: Any) -> np.ndarray:
    """Smooth temperatures over the whole picture, from `low` to `high`."""
    ramp = np.linspace(0, 1, WIDTH)[None] * 0.7 + np.linspace(0, 0.3, HEIGHT)[:, None]
    return (low + (high - low) * ramp).astype(kind)


def save(path: Path, values: np.ndarray, **tags: Any) -> Path:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    if "nodata" in tags:
        info[42113] = tags["nodata"]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, tiffinfo=info) if path.suffix == ".tif" else Image.fromarray(values).save(path)
    return path


# Pixels without data


@pytest.mark.parametrize(
    ("kind", "low", "high", "nodata", "tag"),
    [
        (np.uint16, 28000, 31500, 0, None),  # hundredths of a kelvin
        (np.uint16, 7000, 7900, 0, None),  # counts of 14 bits
        (np.uint16, 1000, 6000, 0, None),  # nearer than the range of the others
        (np.int32, 1000, 6000, 0, None),  # as decoders widen 16 bits
        (np.int32, -24000, 20000, -32768, None),
        (np.uint16, 28000, 31500, 65535, "65535"),
        (np.uint16, 28000, 31500, 65535, None),
        (np.int16, -500, 3500, 32767, None),
        (np.float32, 12.0, 31.0, np.finfo(np.float32).max, None),
        (np.int16, -500, 3500, -32768, None),  # hundredths of a degree
        (np.float32, 12.0, 31.0, np.nan, None),
        (np.float32, 12.0, 31.0, np.nan, "nan"),
        (np.float32, 12.0, 31.0, -np.inf, None),
        (np.float32, 12.0, 31.0, -9999, None),
        (np.float32, 12.0, 31.0, np.finfo(np.float32).min, None),
        (np.float32, 12.0, 31.0, 0, None),  # nearer than the range of the others, as programs fill what they turn
        (np.float32, 12.0, 31.0, 20.0, "20"),  # only its tag tells it
        (np.uint8, 90, 200, 0, "0"),
    ],
)
def test_pixels_without_data(tmp_path: Path, kind: type, low: float, high: float, nodata: float, tag: str) -> None:
    values = scene(low, high, kind)
    whole = read_infrared(save(tmp_path / "whole.tif", values))
    values[CORNER] = nodata
    path = save(tmp_path / "a.tif", values, **({"nodata": tag} if tag else {}))
    grey, missing = read_infrared_and_missing(path)
    assert missing is not None and (missing == CORNER).mean() > 0.995
    valid = grey[~missing]
    assert np.ptp(valid) > 0.75 * np.ptp(whole)  # the stretch is that of what was measured
    # Filled like its neighbours, so that no edge is seen where the picture ends.
    assert np.abs(grey[CORNER].astype(int).mean() - grey[~CORNER & (np.roll(CORNER, 2, 1))].mean()) < 25
    np.testing.assert_array_equal(read_visible(path)[:, :, 0], grey) if kind != np.uint8 else None


@pytest.mark.parametrize("nodata", [-9999, np.finfo(np.float32).min])
def test_holes_of_a_number_far_from_all_others(tmp_path: Path, nodata: float) -> None:
    values = scene(12, 31, np.float32)
    values[10:20, 10:20] = nodata
    grey, missing = read_infrared_and_missing(save(tmp_path / "a.tif", values))
    assert missing is not None and missing.sum() == 100 and missing[10:20, 10:20].all()
    assert np.ptp(grey) == 255


def test_signed_bytes(tmp_path: Path) -> None:
    values = scene(-20, 30, np.int8)
    path = tmp_path / "a.tif"
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[339] = 2
    Image.fromarray(values.view(np.uint8)).save(path, tiffinfo=info)
    grey = read_infrared(path).astype(int)
    assert np.corrcoef(grey.ravel(), values.ravel())[0, 1] > 0.99


def test_alpha_that_tells_data_from_no_data(tmp_path: Path) -> None:
    values = scene(60, 200, np.uint8)
    values[CORNER] = 0
    alpha = np.where(CORNER, 0, 255).astype(np.uint8)
    grey, missing = read_infrared_and_missing(save(tmp_path / "a.png", np.dstack([values, alpha])))
    assert missing is not None and (missing == CORNER).all()
    assert grey.min() >= 60
    np.testing.assert_array_equal(grey[~CORNER], values[~CORNER])


def test_a_number_that_is_named(tmp_path: Path) -> None:
    values = scene(3000, 9000, np.uint16)
    values[CORNER] = 5000  # in the middle of the range: nothing but the option tells it
    path = save(tmp_path / "a.png", values)
    assert read_infrared_and_missing(path)[1] is None
    missing = read_infrared_and_missing(path, InfraredReading(nodata=5000))[1]
    assert missing is not None and missing[CORNER].all() and missing.sum() < CORNER.sum() + 10


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_what_is_no_missing_data(tmp_path: Path, kind: type) -> None:
    cold_sky = scene(-300, 900, np.float32).clip(0).astype(kind)  # reaches its lowest number without a gap
    two_levels = np.full((HEIGHT, WIDTH), 3000, kind)
    two_levels[10:20, 10:20] = 9000
    dead = scene(7000, 7900, kind)
    dead[20:24, 20:24] = 0  # not at the border
    fire = scene(7000, 7900, kind)
    fire[-3:, 20:24] = 65535
    for values in (cold_sky, two_levels, dead, fire):
        path = tmp_path / "a.tif"
        assert read_infrared_and_missing(save(path, values))[1] is None


@given(st.integers(0, 2**32 - 1), st.sampled_from(["uint16", "int16", "float32"]))
def test_any_numbers_are_read(tmp_path_factory: pytest.TempPathFactory, seed: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2**16, (7, 9) if kind != "float32" else (7, 18), dtype=np.uint16)
    path = tmp_path_factory.mktemp("any") / "a.tif"
    save(path, bits.view(kind))
    try:
        grey, missing = read_infrared_and_missing(path)
    except ImageReadError:
        return  # no finite number
    assert grey.dtype == np.uint8 and grey.shape == (7, 9) and (missing is None or not missing.all())


@pytest.mark.parametrize("store", ["npy", "shards"])
def test_masks_leave_missing_pixels_out(tmp_path: Path, store: Any, one_segment: None) -> None:
    values = scene(28000, 31500, np.uint16)
    values[CORNER] = 0
    path = save(tmp_path / "ir" / "a.png", values)
    options = {"ir_dir": tmp_path / "ir", "modality": "ir", "sam_model_type": "vit_nano", "store": store}
    tree = tmp_path / "masks"
    precompute_masks(PrecomputeOptions(output_dir=tree, save_instances=True, **options))  # type: ignore[arg-type]
    masks = open_masks(tree)
    label_map = masks.read("ir", "a", (HEIGHT, WIDTH))
    assert (label_map == np.where(CORNER, 0, 1)).all()
    record = masks.read_instances("ir", "a", (HEIGHT, WIDTH))[0]
    assert (record["mask"] == ~CORNER).all() and record["area"] == (~CORNER).sum()
    live = LiveMasks(lambda image, _: np.ones(image.shape[:2], np.uint8)).get("ir", "a", path, (HEIGHT, WIDTH))
    np.testing.assert_array_equal(live, label_map)


@pytest.fixture
def one_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of SAM: one segment that covers the whole image."""
    from thfuse_sam.commands import precompute
    from thfuse_sam.masks.instances import Instance

    class Generator:
        def generate(self, image: np.ndarray, infrared: np.ndarray | None = None) -> list[Instance]:
            mask = np.ones(image.shape[:2], bool)
            return [Instance(mask, (0, 0, WIDTH - 1, HEIGHT - 1), 0.9, 0.9, (1.0, 1.0), mask.size)]

    monkeypatch.setattr(precompute, "_build_generator", lambda *_: Generator())


# The range of numbers


def sequence(folder: Path) -> Path:
    """Two frames of one scene; in the second one something hot has come in."""
    for name, hot in (("1", 7300), ("2", 14000)):
        values = scene(7000, 7200, np.uint16)
        values[:12, :20] = hot
        save(folder / "ir" / f"{name}.png", values)
        write_image(folder / "vi" / f"{name}.png", RANDOM.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    return folder


def backgrounds(folder: Path, **options: Any) -> list[float]:
    found = find_command_pairs(None, PairOptions(ir_dir=folder / "ir", vi_dir=folder / "vi", **options))
    return [float(read_pair(pair)[0][20:].mean()) for pair in found.pairs]


def test_a_range_keeps_a_sequence_steady(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = sequence(tmp_path)
    own = backgrounds(folder)
    assert own[0] - own[1] > 50
    for options in ({"ir_range": (6900, 8000)}, {"ir_range": ("dataset",)}):
        with caplog.at_level(logging.INFO):
            first, second = backgrounds(folder, **options)
        assert first == second
        assert "becomes black" in caplog.text
    np.testing.assert_array_equal(
        read_infrared(folder / "ir" / "1.png", InfraredReading((6900, 8000))),
        stretch(cv2.imread(str(folder / "ir" / "1.png"), cv2.IMREAD_UNCHANGED), 6900, 8000),
    )


def test_a_range_in_another_unit_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", scene(28000, 31500, np.uint16))
    with pytest.raises(ImageReadError, match="in the unit of the image"):
        read_infrared(path, InfraredReading((10.0, 40.0)))


def test_8_bit_images_have_no_range(tmp_path: Path) -> None:
    values = scene(60, 200, np.uint8)
    path = save(tmp_path / "a.png", values)
    np.testing.assert_array_equal(read_infrared(path, InfraredReading((28000.0, 31500.0))), values)
    with pytest.raises(OptionError, match="more than 8 bits"):
        infrared_reading(InfraredOptions(ir_range=("dataset",)), [path])


def test_images_of_8_bits_among_others_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deep = [save(tmp_path / f"{name}.png", scene(7000, 7200, np.uint16)) for name in "ab"]
    infrared_reading(InfraredOptions(), deep)
    assert "8 bits" not in caplog.text
    infrared_reading(InfraredOptions(), [*deep, save(tmp_path / "c.png", scene(60, 200, np.uint8))])
    assert "some images have 8 bits" in caplog.text and "c.png" in caplog.text


@pytest.mark.parametrize("wrong", [(3.0,), (3.0, 2.0), (1.0, 2.0, 3.0), ("dataset", 3.0), ("image", "dataset")])
def test_wrong_ranges(wrong: Any) -> None:
    with pytest.raises(OptionError, match="ir_range"):
        InfraredOptions(ir_range=wrong)


def test_a_tree_keeps_its_range(tmp_path: Path, one_segment: None) -> None:
    folder = sequence(tmp_path)
    options: dict[str, Any] = {
        "ir_dir": folder / "ir",
        "vi_dir": folder / "vi",
        "sam_model_type": "vit_nano",
        "output_dir": tmp_path / "masks",
    }
    precompute_masks(PrecomputeOptions(ir_range=("dataset",), **options))
    kept = Manifest.load(tmp_path / "masks").signature.generator["ir_range"]
    (summary,) = precompute_masks(PrecomputeOptions(**options))
    assert summary.written == 0 and Manifest.load(tmp_path / "masks").signature.generator["ir_range"] == kept


@pytest.mark.parametrize(
    ("given", "other"),
    [
        ({"ir_nodata": 7300}, {"ir_nodata": 5}),
        ({"ir_channel": 1}, {"ir_channel": 0}),
        ({"ir_gray": True}, {"ir_colormap": "jet"}),
        ({"ir_colormap": "jet"}, {"ir_gray": True}),
    ],
)
def test_a_tree_keeps_how_its_images_were_read(
    tmp_path: Path, one_segment: None, caplog: pytest.LogCaptureFixture, given: dict[str, Any], other: dict[str, Any]
) -> None:
    folder, tree = sequence(tmp_path), tmp_path / "masks"
    if "ir_nodata" not in given:
        for path in (folder / "ir").iterdir():
            save(path, coloured(scene(0, 255, np.uint8), "jet"))
    folders: dict[str, Any] = {"ir_dir": folder / "ir", "vi_dir": folder / "vi"}
    common: dict[str, Any] = {**folders, "sam_model_type": "vit_nano", "output_dir": tree}
    precompute_masks(PrecomputeOptions(**common, **given))
    (again,) = precompute_masks(PrecomputeOptions(**common))
    assert again.written == 0
    with pytest.raises(ManifestError, match="ir_"):
        precompute_masks(PrecomputeOptions(**common, **other))

    def trained_with(**options: Any) -> dict[str, Any]:
        (part,) = find_train_pairs(TrainOptions(**folders, precomputed_masks_dir=(tree,), **options)).parts
        return part.found.reading.settings()

    def fused_with(**options: Any) -> np.ndarray:
        output: dict[str, Any] = {"output_dir": tmp_path / "fused", "report": False, "device": "cpu"}
        fuse(FuseOptions(**folders, precomputed_masks_dir=tree, **output, **options))
        return read_visible(tmp_path / "fused" / "1.png")

    assert trained_with() == given and trained_with(**other) == other
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(fused_with(), fused_with(**given))
    assert caplog.text.count(f"`{next(iter(given))}`") == 1 and f"as the masks in {tree} were made" in caplog.text
    assert not np.array_equal(fused_with(), fused_with(**other))


# False colours


def coloured(grey: np.ndarray, name: str) -> np.ndarray:
    return colour_table(name)[grey]


@pytest.mark.parametrize("name", COLORMAPS)
def test_false_colours_are_turned_back(tmp_path: Path, name: str) -> None:
    grey = scene(0, 255, np.uint8)
    path = save(tmp_path / "a.png", coloured(grey, name))
    back = read_infrared(path, InfraredReading(colormap=name)).astype(int)
    # Two neighbours in a map may have the same colour; the wheel of hues ends where it begins.
    difference = np.abs(back - grey)
    assert np.quantile(difference, 0.97) <= 4
    assert read_infrared(path, InfraredReading(gray=True)).shape == grey.shape


def test_another_map_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", coloured(scene(0, 255, np.uint8), "ironbow"))
    with pytest.raises(ImageKindError, match="not those of jet"):
        read_infrared(path, InfraredReading(colormap="jet"))


@pytest.mark.parametrize("name", ["jet", "ironbow", "inferno", "hot", "turbo", "rainbow", "plasma", "viridis"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_false_colours_are_noticed(tmp_path: Path, name: str, suffix: str) -> None:
    grey = (scene(20, 220, np.uint8).astype(int) + RANDOM.integers(-8, 9, (HEIGHT, WIDTH))).astype(np.uint8)
    grey = cv2.resize(grey, (320, 240))
    path = save(tmp_path / f"a{suffix}", coloured(grey, name))
    with pytest.raises(ImageKindError, match="false colours"):
        read_infrared(path)
    palette = Image.fromarray(coloured(grey, name)).quantize(256)
    palette.save(tmp_path / "b.png")
    with pytest.raises(ImageKindError, match="false colours"):
        infrared_reading(InfraredOptions(), [tmp_path / "b.png"])


def test_colours_of_no_known_map(tmp_path: Path) -> None:
    stops = [(0, 0, 0), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0), (255, 255, 255)]
    table = np.stack([np.interp(np.arange(256), np.linspace(0, 255, 7), channel) for channel in np.transpose(stops)], 1)
    grey = cv2.resize(scene(15, 90, np.uint8), (320, 240))  # of a scene that is mostly cold
    with pytest.raises(ImageKindError, match="false colours"):
        read_infrared(save(tmp_path / "a.png", table.astype(np.uint8)[grey]))


def natural(random: np.random.Generator, tint: tuple[int, int, int], strength: float) -> np.ndarray:
    """A picture like a photo: soft shapes in muted colours, with noise."""
    shapes = cv2.resize(random.random((6, 8, 3)).astype(np.float32), (320, 240), interpolation=cv2.INTER_CUBIC)
    light = shapes.mean(2, keepdims=True) * 160 + 40
    colour = light + strength * (shapes - 0.5) * 160 + strength * np.array(tint)
    return (colour + random.normal(0, 6, shapes.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("tint", [(0, 0, 0), (30, 10, -30), (-20, 0, 30)])
@pytest.mark.parametrize("strength", [0.0, 0.05, 0.3, 0.6])
def test_greys_and_muted_colours_are_taken(tmp_path: Path, tint: tuple[int, int, int], strength: float) -> None:
    path = save(tmp_path / "a.jpg", natural(np.random.default_rng(1), tint, strength))
    assert read_infrared(path).shape == (240, 320)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("colour", [(255, 60, 0), (0, 255, 0), (250, 220, 20)])
@pytest.mark.parametrize("share", [0.004, 0.02, 0.08])
def test_colours_on_a_grey_picture(tmp_path: Path, share: float, colour: tuple[int, int, int], suffix: str) -> None:
    grey = scene(20, 180, np.uint8).repeat(8, 0).repeat(8, 1)
    rgb = np.dstack([grey] * 3)
    write_image(tmp_path / f"grey{suffix}", rgb)
    assert read_infrared(tmp_path / f"grey{suffix}").max() >= 170
    rgb[grey >= np.quantile(grey, 1 - share)] = colour
    write_image(tmp_path / f"a{suffix}", rgb)
    with pytest.raises(ImageKindError, match=r"is grey but for .* infrared and visible images are swapped"):
        read_infrared(tmp_path / f"a{suffix}")
    read_infrared(tmp_path / f"a{suffix}", InfraredReading(gray=True))


def test_a_cross_hair_is_taken(tmp_path: Path) -> None:
    rgb = np.dstack([scene(20, 180, np.uint8).repeat(8, 0).repeat(8, 1)] * 3)
    rgb[160, 230:250] = rgb[150:170, 240] = (255, 0, 0)
    write_image(tmp_path / "a.png", rgb)
    assert read_infrared(tmp_path / "a.png").shape == rgb.shape[:2]


def test_visible_colours_of_12_bits(tmp_path: Path) -> None:
    values = scene(0, 4095, np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([values] * 3))
    np.testing.assert_array_equal(read_visible(tmp_path / "a.png")[:, :, 0], np.rint(values * (255 / 4095)))


@pytest.mark.parametrize(("content", "said"), [("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
                                               ("<!DOCTYPE html><html>", "a web page")])  # fmt: skip
def test_what_stands_in_place_of_an_image(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.png").write_text(content)
    with pytest.raises(ImageReadError, match=said):
        read_infrared(tmp_path / "a.png")


def test_a_bluish_road_is_taken(tmp_path: Path) -> None:
    grey = 90 + cv2.resize(np.random.default_rng(2).random((6, 8)).astype(np.float32), (320, 240)) * 60
    noise = np.random.default_rng(3).normal(0, 8, (240, 320))
    road = np.stack([grey + noise - 18, grey + noise, grey + noise + 18], axis=2).clip(0, 255).astype(np.uint8)
    read_infrared(save(tmp_path / "a.jpg", road))


# Several bands


BANDS = np.stack([scene(low, low + 100, np.uint8) for low in (10, 60, 100, 150, 20)], axis=2)


def tiff(path: Path, values: np.ndarray, separate: bool, photometric: int, predictor: int, big: bool) -> Path:
    """A TIFF of any number of bands, written by hand, compressed; with `predictor` 2 as differences."""
    height, width, bands = values.shape
    parts = [values[:, :, band] for band in range(bands)] if separate else [values]
    if predictor == 2:
        parts = [np.diff(part, axis=1, prepend=np.zeros_like(part[:, :1])) for part in parts]
    data = [zlib.compress(part.tobytes()) for part in parts]
    start = 16 if big else 8
    offsets = list(np.cumsum([start] + [len(block) for block in data[:-1]]))
    bits = values.dtype.itemsize * 8
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {
        256: [width], 257: [height], 258: [bits] * bands, 259: [8], 262: [photometric], 273: offsets, 277: [bands],
        278: [height], 279: [len(block) for block in data], 284: [2 if separate else 1], 317: [predictor],
        338: [0] * (bands - (3 if photometric == 2 else 1)), 339: [kind] * bands,
    }  # fmt: skip
    code, size, number = ("Q", 8, 16) if big else ("I", 4, 4)
    tags = {tag: numbers for tag, numbers in tags.items() if numbers}
    body = b"".join(data)
    at = start + len(body)
    behind = at + (8 if big else 2) + len(tags) * (4 + 2 * size) + size
    directory, lists = struct.pack("<Q" if big else "<H", len(tags)), b""
    for tag, numbers in tags.items():
        packed = struct.pack(f"<{len(numbers)}{code}", *map(int, numbers))
        if len(packed) > size:
            packed, lists = struct.pack(f"<{code}", behind + len(lists)), lists + packed
        directory += struct.pack(f"<HH{code}", tag, number, len(numbers)) + packed
    header = b"II+\0\x08\0\0\0" + struct.pack("<Q", at) if big else b"II*\0" + struct.pack("<I", at)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + body + directory + b"\0" * size + lists)
    return path


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("bands", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("photometric", [1, 2])
def test_bands_of_a_tiff(tmp_path: Path, separate: bool, bands: int, kind: type, photometric: int) -> None:
    if photometric == 2 and bands < 3:
        pytest.skip("not RGB")
    factor = 257 if kind is np.uint16 else 1
    values = BANDS[:, :, :bands].astype(kind) * factor
    for predictor in (1, 2):
        for big in (False, True):
            path = tiff(tmp_path / "a.tif", values, separate, photometric, predictor, big)
            try:
                visible = read_visible(path)
            except ImageKindError as error:
                assert "not supported" in str(error)
                continue
            if bands >= 3:
                np.testing.assert_array_equal(visible, BANDS[:, :, :3])
            last = read_infrared(path, InfraredReading(channel=bands - 1, value_range=(0, 65535)))
            assert np.abs(last.astype(int) - BANDS[:, :, bands - 1]).max() <= 1


def test_four_channels_hold_a_pair(tmp_path: Path, one_segment: None) -> None:
    for name in ("00001D", "00002N"):
        colour = RANDOM.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        save(tmp_path / "images" / f"{name}.png", np.dstack([colour, scene(40, 220, np.uint8)]))
        save(tmp_path / "labels" / f"{name}.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    images = tmp_path / "images"
    for folders in ({"dataset_path": tmp_path}, {"dataset_path": images}, {"ir_dir": images, "vi_dir": images}):
        with pytest.raises(PairError):
            find_command_pairs(folders.get("dataset_path"), PairOptions(**folders))
        found = find_command_pairs(folders.get("dataset_path"), PairOptions(ir_channel=3, **folders))
        assert [pair.name for pair in found.pairs] == ["00001D", "00002N"]
        infrared, visible = read_pair(found.pairs[1])
        np.testing.assert_array_equal(infrared, scene(40, 220, np.uint8))
        np.testing.assert_array_equal(visible, colour)
    options = PrecomputeOptions(
        dataset_path=tmp_path, ir_channel=3, sam_model_type="vit_nano", output_dir=tmp_path / "masks"
    )
    assert precompute_masks(options)[0].written == 4
    (checked,) = verify_masks(PrecomputeOptions(output_dir=tmp_path / "masks"))
    assert checked.sound == 4 and not checked.problems()
    with pytest.raises(ImageKindError, match="channels 0 to 3"):
        find_command_pairs(images, PairOptions(ir_channel=4, dataset_path=images))


def test_webp_is_a_partner(tmp_path: Path, make_pairs: Callable[..., Path]) -> None:
    root = make_pairs(("1", "2"), root=tmp_path / "data")
    Image.open(root / "vi" / "1.png").save(root / "vi" / "1.webp", lossless=True)
    before = read_visible(root / "vi" / "1.png")
    (root / "vi" / "1.png").unlink()
    found = find_command_pairs(root, PairOptions(dataset_path=root))
    assert len(found.pairs) == 2 and not found.unpaired
    np.testing.assert_array_equal(read_pair(found.pairs[0])[1], before)
    write_image(tmp_path / "out.webp", before)
    np.testing.assert_array_equal(read_visible(tmp_path / "out.webp"), before)
