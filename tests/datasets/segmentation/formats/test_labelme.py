"""LabelMe files of several versions, good and bad."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thfuse_sam.datasets.segmentation import open_segmentation_dataset
from thfuse_sam.errors import SampleError, UsageError
from thfuse_sam.images import read_visible

from ..conftest import HEIGHT, WIDTH, picture, save, square

Write = Callable[..., Path]


def test_polygons_become_objects_with_unbiased_areas(labelme: Write) -> None:
    root = labelme("one", [square("a"), square("b", x=18, side=5)])
    dataset = open_segmentation_dataset(root)
    assert dataset.names == ["one"] and len(dataset) == 1
    sample = dataset[0]
    assert sample.categories == {1: "a", 2: "b"}
    assert sample.mask(1).sum() == 64 and sample.mask(1)[4:12, 4:12].all()
    assert sample.mask(2).sum() == 25
    assert np.array_equal(sample.image, read_visible(root / "images/one.png"))
    assert dataset[0].source == (root / "images/one.png").absolute()


def test_group_id_joins_shapes_of_one_label(labelme: Write) -> None:
    shapes = [
        square("a", group_id=0),
        square("a", x=20, side=4, group_id=0),
        square("b", x=14, side=3, group_id=0),
        square("a", y=16, side=4),
        square("a", x=12, y=16, side=4),
    ]
    sample = open_segmentation_dataset(labelme("one", shapes))[0]
    assert sorted(sample.categories.values()) == ["a", "a", "a", "b"]
    assert sample.mask(1).sum() == 64 + 16
    assert sample.mask(2).sum() == 9


def test_rectangle_in_any_corner_order_and_circle(labelme: Write) -> None:
    shapes = [
        {"label": "r", "shape_type": "rectangle", "points": [[12, 10], [4, 4]]},
        {"label": "c", "shape_type": "circle", "points": [[22, 12], [22, 19]]},
        {"label": "edge", "shape_type": "circle", "points": [[0, 0], [3, 0]]},
    ]
    sample = open_segmentation_dataset(labelme("one", shapes))[0]
    assert sample.mask(1).sum() == 48 and sample.mask(1)[4:10, 4:12].all()
    assert abs(int(sample.mask(2).sum()) - np.pi * 49) < 5
    assert sample.mask(2)[12, 22] and sample.mask(2)[18, 22] and not sample.mask(2)[19, 22]
    assert sample.mask(3).sum() == pytest.approx(np.pi * 9 / 4, abs=2), "clipped at the image's corner"


def test_stored_masks_of_version_5(labelme: Write) -> None:
    stored = np.zeros((3, 5), np.uint8)
    stored[1:, 2:] = 255
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "PNG")
    shape = {
        "label": "m",
        "shape_type": "mask",
        "points": [[10, 6], [14, 8]],
        "mask": base64.b64encode(buffer.getvalue()).decode(),
    }
    sample = open_segmentation_dataset(labelme("one", [shape]))[0]
    assert sample.mask(1).sum() == 6 and sample.mask(1)[7:9, 12:15].all()


def test_version_3_without_shape_type_or_group(labelme: Write) -> None:
    shape = {"label": "a", "line_color": None, "fill_color": None, "points": [[2, 2], [8, 2], [8, 8]]}
    root = labelme("one", [shape], version="3.16.2", lineColor=[0, 255, 0, 128], imageHeight=None, imageWidth=None)
    assert open_segmentation_dataset(root)[0].mask(1).sum() == pytest.approx(18, abs=3)


def test_ignored_labels_are_no_objects(labelme: Write) -> None:
    root = labelme("one", [square("__ignore__"), square("_background_"), square("a", x=18)])
    assert open_segmentation_dataset(root)[0].categories == {1: "a"}
    labelme("two", [square("__ignore__")])
    with pytest.raises(SampleError, match=r"two\.json: no object is labelled"):
        open_segmentation_dataset(root)


def test_embedded_image_wins_and_needs_no_file(labelme: Write) -> None:
    root = labelme("one", [square()], embed=True, imagePath="C:\\photos\\one.png")
    (root / "images/one.png").unlink()
    dataset = open_segmentation_dataset(root)
    assert np.array_equal(dataset[0].image, picture(3))
    assert dataset[0].source == root / "annotations/one.json"


def test_files_beside_images_in_several_folders(tmp_path: Path) -> None:
    for name in ("a/x", "b/y"):
        save(tmp_path / f"set/{name}.png", picture())
        content = {"shapes": [square()], "imagePath": f"{name[2:]}.png", "imageData": None}
        (tmp_path / f"set/{name}.json").write_text(json.dumps(content))
    assert open_segmentation_dataset(tmp_path / "set").names == ["a/x", "b/y"]


@pytest.mark.parametrize(
    "path", ["../../secret.png", "/etc/secret.png", "C:\\secret.png", "..\\..\\secret.png", "\\\\host\\secret.png"]
)
def test_image_path_that_leaves_the_folder(labelme: Write, tmp_path: Path, path: str) -> None:
    save(tmp_path / "secret.png", picture())
    root = labelme("one", [square()], imagePath=path)
    with pytest.raises(SampleError, match=r"one\.json: its image .* lies outside"):
        open_segmentation_dataset(root)


def test_a_point_may_lie_outside_by_a_rounding_error(labelme: Write) -> None:
    root = labelme("one", [square(x=WIDTH - 8, y=HEIGHT - 7.62)])
    assert open_segmentation_dataset(root)[0].mask(1)[-1, -1]


BAD = {
    "outside": [square(x=30)],
    "far away": [square(x=1000)],
    "not a number": [{**square(), "points": [[float("nan"), 2], [3, 4], [9, 9]]}],
    "no area": [{**square(), "points": [[2, 2], [2, 2], [2, 2]]}],
    "two points": [{**square(), "points": [[2, 2], [9, 9]]}],
    "line": [square(shape_type="line")],
    "no label": [{"points": [[1, 1], [2, 2], [3, 1]]}],
    "text": [{**square(), "points": ["ab", "cd", "ef"]}],
    "circle": [{**square(shape_type="circle"), "points": [[2, 2]]}],
    "broken mask": [{**square(shape_type="mask"), "points": [[2, 2], [4, 4]], "mask": "AAAA"}],
    "no shapes": [],
}


@pytest.mark.parametrize("shapes", BAD.values(), ids=BAD)
def test_bad_shapes_are_named_or_skipped(labelme: Write, shapes: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    labelme("good", [square()])
    root = labelme("bad", shapes)
    with pytest.raises(SampleError, match=r"1 of 2 bad: .*bad\.json.*`skip_bad`") as caught:
        open_segmentation_dataset(root)
    assert "\n" not in str(caught.value)
    dataset = open_segmentation_dataset(root, skip_bad=True)
    assert dataset.names == ["good"]
    assert "skipped 1 of 2 as bad" in caplog.text


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, '{"shapes": 3}'])
def test_files_that_are_not_labelme(labelme: Write, content: str) -> None:
    root = labelme("good", [square()])
    (root / "annotations/other.json").write_text(content)
    with pytest.raises(SampleError, match=r"other\.json"):
        open_segmentation_dataset(root)


def test_missing_partners_are_named(labelme: Write) -> None:
    root = labelme("one", [square()])
    labelme("lost", [square()])
    (root / "images/lost.png").unlink()
    save(root / "images/alone.png", picture())
    with pytest.raises(SampleError) as caught:
        open_segmentation_dataset(root)
    assert "lost.png' is missing" in str(caught.value)
    assert "alone.png: no LabelMe file belongs to it" in str(caught.value)
    assert open_segmentation_dataset(root, skip_bad=True).names == ["one"]


def test_annotated_at_another_size(labelme: Write) -> None:
    root = labelme("one", [square()], imageHeight=HEIGHT * 2)
    with pytest.raises(SampleError, match="annotated at 32x48, its image is 32x24"):
        open_segmentation_dataset(root)


def test_labels_select_samples(labelme: Write) -> None:
    labelme("one", [square("a"), square("b", x=18)])
    root = labelme("three", [square("b")])
    dataset = open_segmentation_dataset(root, labels=["a"])
    assert dataset.names == ["one"] and dataset[0].object_ids == (1,)
    with pytest.raises(UsageError, match="no sample has an object of `labels` zebra; labels are a, b"):
        open_segmentation_dataset(root, labels=["zebra"])
    merged = open_segmentation_dataset(root, merge=True)
    assert merged[0].object_ids == (1,) and merged[0].mask(1).sum() == 128
