"""What the numbers and colours of mask images are taken for."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from thfuse_sam.datasets.segmentation.formats.mask_images import read_mask
from thfuse_sam.datasets.segmentation.formats.mask_values import Kind, MaskValues, mask_values
from thfuse_sam.errors import SampleError
from thfuse_sam.images import StoredPixels
from thfuse_sam.options.shared import AnnotationReading

from ..conftest import box_mask
from .test_mask_images import save_palette

SHOWN = AnnotationReading()


def numbers(*values: int, dtype: type = np.uint8) -> np.ndarray:
    """Vertical stripes of 5 x 20 pixels with these values, on 0."""
    mask = np.zeros((24, 6 * len(values) + 4), dtype)
    for index, value in enumerate(values):
        mask[2:22, 6 * index + 3 : 6 * index + 8] = value
    return mask


def coloured(*colours: tuple[int, ...]) -> np.ndarray:
    """The same in colours, on black."""
    stripes = numbers(*range(1, len(colours) + 1))
    return np.array([(0,) * len(colours[0]), *colours], np.uint8)[stripes]


def read(
    tmp_path: Path,
    pixels: np.ndarray,
    kind: Kind | None = None,
    reading: AnnotationReading = SHOWN,
    ending: str = "png",
) -> MaskValues:
    path = tmp_path / f"mask.{ending}"
    Image.fromarray(pixels).save(path)
    return read_mask(path, kind, reading)


REFUSED = {
    "classes": numbers(1, 2, 15),
    "classes with void": numbers(1, 255),
    "trimap": numbers(128, 255),
    "spread classes": numbers(*range(20, 241, 20)),
    "16-bit classes": numbers(300, 7000, 65535, dtype=np.uint16),
    "two values, no background": numbers(1, 1) + 1,
    "colours": coloured((128, 0, 0), (64, 64, 0), (255, 255, 0)),
    "colours without black": coloured((128, 0, 0)) + np.uint8(10),
    "alpha and colours": coloured((128, 0, 0, 255), (64, 64, 0, 255)),
}


@pytest.mark.parametrize("pixels", REFUSED.values(), ids=REFUSED)
def test_what_is_not_certain_is_refused_with_the_option_that_decides(tmp_path: Path, pixels: np.ndarray) -> None:
    with pytest.raises(SampleError, match=r"mask\.png: .*`mask_kind`"):
        read(tmp_path, pixels)
    assert read(tmp_path, pixels, reading=AnnotationReading(mask_kind="classes")).labels.any()


def test_jpeg_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="no binary mask"):
        read(tmp_path, np.kron(numbers(100, 130, 255), np.ones((8, 8), np.uint8)), ending="jpg")


BINARY = {
    "one": (numbers(1), numbers(1) > 0),
    "255": (numbers(255), numbers(1) > 0),
    "a class alone": (numbers(15), numbers(1) > 0),
    "16 bits": (numbers(65535, dtype=np.uint16), numbers(1) > 0),
    "fractions": (numbers(1).astype(np.float32), numbers(1) > 0),
    "colour": (coloured((255, 0, 0)), numbers(1) > 0),
    "opaque": (coloured((255, 255, 255, 255)) | np.array([0, 0, 0, 255], np.uint8), numbers(1) > 0),
    "alpha": (coloured((0, 0, 0, 255)) | np.array([255, 255, 255, 0], np.uint8), numbers(1) > 0),
    "grey and alpha": (coloured((0, 200)), numbers(1) > 0),
}


@pytest.mark.parametrize(("pixels", "wanted"), BINARY.values(), ids=BINARY)
def test_one_object(tmp_path: Path, pixels: np.ndarray, wanted: np.ndarray) -> None:
    mask = read(tmp_path, pixels, ending="tif" if pixels.dtype == np.float32 else "png")
    assert np.array_equal(mask.labels, wanted) and mask.ignored is None and not mask.names


@pytest.mark.parametrize("kind", ["disc", "rectangle", "half size", "matte"])
def test_soft_borders_are_no_classes(tmp_path: Path, kind: str) -> None:
    pixels = np.zeros((80, 100), np.uint8)
    if kind == "disc":
        cv2.circle(pixels, (50, 40), 25, 255, -1, cv2.LINE_AA)
    else:
        pixels[15:64, 21:80] = 255
    if kind == "half size":
        pixels = cv2.resize(pixels, (50, 40), interpolation=cv2.INTER_AREA)
    elif kind != "disc":
        pixels = cv2.GaussianBlur(pixels, (0, 0), 0.6 if kind == "rectangle" else 8)
    labels = read(tmp_path, pixels).labels
    assert np.array_equal(labels > 0, pixels * 2.0 > pixels.max())


def test_a_cut_out_photo_is_its_alpha(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (24, 10, 4), dtype=np.uint8)
    photo[..., 3] = numbers(255)
    assert np.array_equal(read(tmp_path, photo).labels, numbers(1))


@pytest.mark.parametrize("kind", ["classes", "instances"])
def test_void_is_ignored_in_maps(tmp_path: Path, kind: Kind) -> None:
    pixels = numbers(1, 15, 255)
    mask = read(tmp_path, pixels, kind)
    assert np.array_equal(mask.labels, np.where(pixels == 255, 0, pixels))
    assert mask.ignored is not None and np.array_equal(mask.ignored, pixels == 255)
    assert mask.names == ({1: "1", 15: "15"} if kind == "classes" else {})
    other = read(tmp_path, pixels, kind, AnnotationReading(ignore_value=15))
    assert set(np.unique(other.labels)) == {0, 1, 255}
    assert read(tmp_path, pixels, kind, AnnotationReading(ignore_value=-1)).ignored is None


def test_numbers_beyond_255_are_objects(tmp_path: Path) -> None:
    mask = read(tmp_path, numbers(255, 256, 26001, dtype=np.uint16), "instances")
    assert set(np.unique(mask.labels)) == {0, 255, 256, 26001} and mask.ignored is None


def test_colours_are_objects_or_classes(tmp_path: Path) -> None:
    pixels = coloured((0, 0, 63), (224, 224, 192), (191, 127, 0))
    objects = read(tmp_path, pixels, "instances")
    assert objects.ignored is not None and objects.ignored.sum() == 100, "the colour of Pascal VOC's void"
    assert [int((objects.labels == number).sum()) for number in (1, 2)] == [100, 100]
    classes = read(tmp_path, pixels, reading=AnnotationReading(mask_kind="classes"))
    assert sorted(classes.names.values()) == ["0,0,63", "191,127,0"]


def test_palette_of_pascal_voc_is_certain(tmp_path: Path) -> None:
    save_palette(tmp_path / "mask.png", numbers(1, 15, 255))
    mask = read_mask(tmp_path / "mask.png", None, SHOWN)
    assert mask.names == {1: "1", 15: "15"} and mask.ignored is not None


def test_values_that_are_asked_for(tmp_path: Path) -> None:
    one = read(tmp_path, numbers(128, 255), reading=AnnotationReading(mask_values=("255",), ignore_value=128))
    assert np.array_equal(one.labels, numbers(0, 1)) and one.ignored is not None and one.ignored.sum() == 100
    pixels = coloured((128, 0, 0), (64, 64, 0), (255, 255, 0))
    two = read(tmp_path, pixels, reading=AnnotationReading(mask_values=("128,0,0", "255,255,0")))
    assert np.array_equal(two.labels, numbers(1, 0, 1))


def test_a_mask_that_only_holds_void_says_so(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="empty, besides pixels to ignore"):
        read(tmp_path, box_mask(value=255), "instances")


@settings(max_examples=60)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, 9, 254, 255])),
    st.sampled_from(["classes", "instances"]),
    st.sampled_from([None, -1, 2, 255]),
)
def test_each_pixel_of_a_map_is_object_background_or_ignored(
    values: np.ndarray, kind: Kind, ignore_value: int | None
) -> None:
    mask = mask_values(StoredPixels(values, None, None, True), kind, AnnotationReading(ignore_value=ignore_value))
    void = 255 if ignore_value is None else ignore_value
    ignored = np.zeros(values.shape, bool) if mask.ignored is None else mask.ignored
    assert np.array_equal(ignored, values == void)
    assert np.array_equal(mask.labels, np.where(values == void, 0, values))


@settings(max_examples=60)
@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 255)))
def test_a_binary_mask_is_taken_by_halves_or_refused(values: np.ndarray) -> None:
    try:
        mask = mask_values(StoredPixels(values, None, None, True), None, SHOWN)
    except ValueError as error:
        assert "`mask_kind`" in str(error)
    else:
        assert np.array_equal(mask.labels > 0, values * 2.0 > values.max())
