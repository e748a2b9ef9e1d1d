"""COCO instance files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from thfuse_sam.datasets.segmentation import open_segmentation_dataset
from thfuse_sam.errors import SampleError, UsageError

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
    "outside": [[4, 4, 60, 4, 60, 12]],
    "odd": [[4, 4, 12, 4, 12, 12, 4]],
    "text": "abc",
    "none": [],
    "other size": {"size": [HEIGHT, WIDTH + 1], "counts": [5, 5]},
    "huge": {"size": [10**6, 10**6], "counts": [0, 10**12]},
    "short": {"size": [HEIGHT, WIDTH], "counts": [5, 5]},
    "negative": {"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]},
    "empty": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},
    "no counts": {"size": [HEIGHT, WIDTH]},
}


@pytest.mark.parametrize("segmentation", BAD.values(), ids=BAD)
def test_bad_segmentations_are_named_or_skipped(coco: Write, segmentation: Any) -> None:
    root = coco([annotation(), annotation(42, 2, segmentation)])
    with pytest.raises(SampleError, match=r"1 of 2 bad: .*annotation 42 of 0002\.png"):
        open_segmentation_dataset(root)
    assert open_segmentation_dataset(root, skip_bad=True).names == ["0001"]


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
