"""COCO instance files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from thfuse_sam.datasets.segmentation import open_segmentation_dataset
from thfuse_sam.datasets.segmentation.formats.coco import (
    ALL_CROWDS,
    CROWD,
    UNKNOWN_CATEGORY,
    _by_image,
    segmentation_mask,
)
from thfuse_sam.datasets.segmentation.formats.listing import WITHOUT_OBJECTS
from thfuse_sam.datasets.segmentation.formats.outlines import CLIPPED, NO_OUTLINE
from thfuse_sam.datasets.segmentation.formats.outlines import EMPTY as EMPTY_MASK
from thfuse_sam.errors import SampleError, UsageError
from thfuse_sam.options.shared import AnnotationReading

from ..conftest import HEIGHT, WIDTH, box_mask, picture, save

Write = Callable[..., Path]


def annotation(number: int = 1, image: int = 1, segmentation: Any = None, **more: Any) -> dict[str, Any]:
    outline = [[4, 4, 12, 4, 12, 12, 4, 12]] if segmentation is None else segmentation
    return {"id": number, "image_id": image, "category_id": 7, "segmentation": outline, "iscrowd": 0, **more}


def runs(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed run lengths, made without the library."""
    flat = (mask > 0).ravel(order="F").astype(int)
    ends = [*(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    counts = np.diff([0, *ends]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def test_polygons_and_both_kinds_of_runs(coco: Write) -> None:
    mask = box_mask(top=2, left=20, side=6)
    packed = coco_mask.encode(np.asfortranarray(mask))
    compressed = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
    root = coco([annotation(), annotation(2, 1, runs(mask)), annotation(3, 2, compressed)])
    dataset = open_segmentation_dataset(root)
    assert dataset.names == ["0001", "0002"]
    first, second = dataset[0], dataset[1]
    assert first.mask(1).sum() == 64 and first.mask(1)[4:12, 4:12].all()
    assert np.array_equal(first.mask(2), mask > 0)
    assert np.array_equal(second.mask(1), mask > 0)
    assert first.categories == {1: "cat", 2: "cat"}


def test_runs_that_start_with_foreground(coco: Write) -> None:
    mask = box_mask(top=0, left=0, side=5)
    assert np.array_equal(open_segmentation_dataset(coco([annotation(1, 1, runs(mask))]))[0].mask(1), mask > 0)


def test_parts_are_joined_and_overlaps_kept(coco: Write) -> None:
    parts = [[2, 2, 6, 2, 6, 6, 2, 6], [10, 2, 14, 2, 14, 6, 10, 6]]
    cover = [[0, 0, 20, 0, 20, 20, 0, 20]]
    sample = open_segmentation_dataset(coco([annotation(1, 1, parts), annotation(2, 1, cover)]))[0]
    assert sample.mask(1).sum() == 32 and sample.mask(2).sum() == 400


def test_crowds_and_images_without_objects_are_left_out(coco: Write) -> None:
    root = coco([annotation(), annotation(2, 1, iscrowd=1), annotation(3, 2, iscrowd=1)], images=3)
    dataset = open_segmentation_dataset(root)
    assert dataset.names == ["0001"] and dataset[0].object_ids == (1,)


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("annotations/instances_val.json", "val"),
        ("annotations/instances_val.json", "images"),
        ("_annotations.coco.json", "."),
        ("annotations.json", "images"),
    ],
)
def test_usual_layouts(tmp_path: Path, file: str, images: str) -> None:
    root = tmp_path / "set"
    save(root / images / "a.png", picture())
    path = root / file
    path.parent.mkdir(exist_ok=True)
    listed = [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
    path.write_text(json.dumps({"images": listed, "annotations": [annotation()], "categories": []}))
    assert open_segmentation_dataset(root).names == ["a"]
    assert open_segmentation_dataset(path)[0].source == (root / images / "a.png").absolute()


BAD: dict[str, Any] = {
    "odd": [[4, 4, 12, 4, 12, 12, 4]],
    "text": "abc",
    "other size": {"size": [HEIGHT, WIDTH + 1], "counts": [5, 5]},
    "huge": {"size": [10**6, 10**6], "counts": [0, 10**12]},
    "short": {"size": [HEIGHT, WIDTH], "counts": [5, 5]},
    "negative": {"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]},
    "no counts": {"size": [HEIGHT, WIDTH]},
    "no numbers": [[4, 4, "12", 4, 12, 12]],
}
EMPTY: dict[str, tuple[Any, str]] = {
    "far outside": ([[400, 4, 600, 4, 600, 12]], EMPTY_MASK),
    "no pixel": ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, EMPTY_MASK),
    "stray points": ([[4, 4], [8, 8]], NO_OUTLINE),
    "none": ([], NO_OUTLINE),
}


@pytest.mark.parametrize("segmentation", BAD.values(), ids=BAD)
def test_bad_segmentations_are_named_or_skipped(coco: Write, segmentation: Any) -> None:
    root = coco([annotation(), annotation(42, 2, segmentation)])
    with pytest.raises(SampleError, match=r"1 of 2 bad: .*annotation 42 of 0002\.png"):
        open_segmentation_dataset(root)
    assert open_segmentation_dataset(root, skip_bad=True).names == ["0001"]


@pytest.mark.parametrize(("segmentation", "reason"), EMPTY.values(), ids=EMPTY)
def test_annotations_without_a_pixel_are_counted(coco: Write, segmentation: Any, reason: str) -> None:
    root = coco([annotation(), annotation(42, 1, segmentation), annotation(43, 2, segmentation)])
    dataset = open_segmentation_dataset(root)
    assert dataset.names == ["0001"] and dataset[0].object_ids == (1,)
    assert dataset.flaws == {reason: 2, WITHOUT_OBJECTS: 1}
    with pytest.raises(SampleError, match=r"2 of 2 bad: .*annotation 42 of 0001\.png: .*annotation 43 of 0002\.png"):
        open_segmentation_dataset(root, strict=True)


@pytest.mark.parametrize(
    "segmentation",
    [
        [4, 4, 12, 4, 12, 12, 4, 12],
        [[4, 4], [12, 4], [12, 12], [4, 12]],
        [[[4, 4], [12, 4], [12, 12], [4, 12]]],
        [[4, 4, 12, 4, 12, 12, 4, 12], [20, 20]],
        [[4, 4, 12, 4, 12, 12, 4, 12], [20, 20, 22, 22]],
    ],
)
def test_ways_of_writing_a_polygon(coco: Write, segmentation: Any) -> None:
    mask = open_segmentation_dataset(coco([annotation(1, 1, segmentation)]))[0].mask(1)
    assert mask.sum() == 64 and mask[4:12, 4:12].all()


def test_polygons_are_cut_at_the_border(coco: Write) -> None:
    outside = [[20, -9, 90000, -9, 90000, 6, 20, 6]]
    dataset = open_segmentation_dataset(coco([annotation(1, 1, outside), annotation(2)]))
    mask = dataset[0].mask(1)
    assert mask.sum() == (WIDTH - 20) * 6 and mask[:6, 20:].all() and dataset.flaws[CLIPPED] == 1


@pytest.mark.parametrize("number", [1.0, "1", "1.0"])
def test_ids_of_spreadsheets(coco: Write, number: Any) -> None:
    listed = [{"id": 1, "file_name": "0001.png", "height": float(HEIGHT), "width": str(WIDTH)}]
    first = annotation(1, number, category_id=number, iscrowd=0.0)
    root = coco([first], images=1)
    content = {"images": listed, "annotations": [first], "categories": [{"id": "1", "name": "dog"}]}
    (root / "annotations.json").write_text(json.dumps(content))
    assert open_segmentation_dataset(root, labels=["dog"])[0].categories == {1: "dog"}


def test_unknown_categories_are_counted(coco: Write) -> None:
    dataset = open_segmentation_dataset(coco([annotation(), annotation(2, 2, category_id=99)]))
    assert [sample.categories for sample in (dataset[0], dataset[1])] == [{1: "cat"}, {}]
    assert dataset.flaws == {UNKNOWN_CATEGORY: 1}


def test_a_set_of_crowds_alone_is_one_of_objects(coco: Write) -> None:
    dataset = open_segmentation_dataset(coco([annotation(1, 1, iscrowd=1), annotation(2, 2, iscrowd=1)]))
    assert [dataset[index].object_ids for index in range(2)] == [(1,), (1,)] and dataset.flaws == {ALL_CROWDS: 2}


def test_crowds_are_no_background_or_objects_if_asked(coco: Write) -> None:
    crowd = [[2, 2, 20, 2, 20, 20, 2, 20]]
    root = coco([annotation(), annotation(2, 1, crowd, iscrowd=1)])
    dataset = open_segmentation_dataset(root)
    ignored = dataset[0].ignored
    assert ignored is not None and ignored.sum() == 18 * 18 - 64 and dataset.flaws[CROWD] == 1
    asked = open_segmentation_dataset(root, reading=AnnotationReading(use_crowds=True))
    assert asked[0].object_ids == (1, 2) and asked[0].ignored is None and not asked.flaws[CROWD]


@pytest.mark.parametrize(
    ("file", "file_name", "image"),
    [
        ("annotations/instances_train.json", "a.png", "images/train/a.png"),
        ("annotations/instances_default.json", "a.png", "images/default/a.png"),
        ("labels.json", "a.png", "data/a.png"),
        ("result.json", "images\\a.png", "images/a.png"),
        ("result.json", "..\\..\\media\\upload\\4\\a.png", "images/a.png"),
        ("result.json", "/data/local-files/?d=photos/a%201.png", "images/a 1.png"),
        ("annotations.json", "Stra\u00dfe_\u00fc.png", "images/Stra\u00dfe_u\u0308.png"),
        ("annotations.json", "u\u0308/a.PNG", "images/\u00fc/a.png"),
    ],
)
def test_layouts_of_tools(tmp_path: Path, file: str, file_name: str, image: str) -> None:
    root = tmp_path / "set"
    save(root / image, picture())
    path = root / file
    path.parent.mkdir(exist_ok=True)
    listed = [{"id": 1, "file_name": file_name, "height": HEIGHT, "width": WIDTH}]
    path.write_text(json.dumps({"images": listed, "annotations": [annotation()], "categories": []}))
    dataset = open_segmentation_dataset(root)
    assert len(dataset) == 1 and ".." not in dataset.names[0]
    assert dataset[0].source == (root / image).absolute()


def test_one_image_is_not_taken_for_two(coco: Write) -> None:
    root = coco([annotation(), annotation(2, 2)], images=1)
    content = json.loads((root / "annotations.json").read_text())
    content["images"].append({"id": 2, "file_name": "other/0001.png", "height": HEIGHT, "width": WIDTH})
    (root / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(SampleError, match=r"would be the image of '0001\.png' and of 'other/0001\.png'"):
        open_segmentation_dataset(root)


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("told", [False, True])
def test_outlines_on_stored_pixels_are_turned_with_them(coco: Write, orientation: int, told: bool) -> None:
    root = coco([annotation()], images=1)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[4:12, 4:12] = 255
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(image).save(root / "images/0001.png", exif=exif)
    dataset = open_segmentation_dataset(root, reading=AnnotationReading(ignore_exif=told))
    sample = dataset[0]
    if told or orientation >= 5:
        assert np.array_equal(sample.mask(1), sample.image[..., 0] > 0)
    assert sum(dataset.flaws.values()) == (0 if told else 1), "either way it is told"


def test_swapped_width_and_height_are_named(coco: Write) -> None:
    listed = [{"id": 1, "file_name": "0001.png", "height": WIDTH, "width": HEIGHT}]
    root = coco([annotation()], images=1)
    (root / "annotations.json").write_text(json.dumps({"images": listed, "annotations": [annotation()]}))
    with pytest.raises(SampleError, match="width and height are swapped"):
        open_segmentation_dataset(root)


def test_missing_image_another_size_and_unknown_image(coco: Write) -> None:
    root = coco([annotation(), annotation(2, 2), annotation(3, 3), annotation(4, 99)], images=3)
    (root / "images/0002.png").unlink()
    save(root / "images/0003.png", picture(size=(HEIGHT, WIDTH + 2)))
    with pytest.raises(SampleError, match="3 of 4 bad") as caught:
        open_segmentation_dataset(root)
    for part in ("'0002.png' is missing", "0003.png: is 34x24", "annotation 4 belongs to image 99"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["../secret.png", "/tmp/secret.png", "..\\..\\secret.png"])
def test_file_names_stay_inside(coco: Write, tmp_path: Path, name: str) -> None:
    save(tmp_path / "secret.png", picture())
    listed = [{"id": 1, "file_name": name, "height": HEIGHT, "width": WIDTH}]
    root = coco([annotation()], images=0)
    (root / "annotations.json").write_text(json.dumps({"images": listed, "annotations": [annotation()]}))
    with pytest.raises(SampleError, match="lies outside"):
        open_segmentation_dataset(root)


def test_several_files_and_broken_ones(coco: Write) -> None:
    root = coco([annotation()])
    (root / "instances_b.json").write_text("{}")
    with pytest.raises(UsageError, match=r"several COCO files \(annotations.json, instances_b.json\)"):
        open_segmentation_dataset(root)
    with pytest.raises(UsageError, match="not a COCO instance file"):
        open_segmentation_dataset(root / "instances_b.json")
    (root / "instances_b.json").write_text("{")
    with pytest.raises(UsageError, match="not readable as JSON"):
        open_segmentation_dataset(root / "instances_b.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats() | st.text("a1, ", max_size=3),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(["size", "counts"]), inner, max_size=2),
)


@settings(max_examples=150)
@given(JSON)
def test_any_segmentation_is_a_mask_or_refused(segmentation: Any) -> None:
    try:
        mask = segmentation_mask(segmentation, (HEIGHT, WIDTH), [])
    except (ValueError, TypeError, OverflowError) as error:
        assert str(error)
    else:
        assert mask.shape == (HEIGHT, WIDTH) and mask.dtype == bool


@given(st.integers(0, 10**12), st.sampled_from([int, float, str, lambda number: f" {number}.0 "]))
def test_an_id_is_the_same_in_every_way_of_writing_it(number: int, write: Callable[[int], Any]) -> None:
    content = {"images": [{"id": number}], "annotations": [{"id": 1, "image_id": write(number)}]}
    by_image, problems = _by_image(content, Path("file.json"))
    assert len(by_image[number]) == 1 and not problems
