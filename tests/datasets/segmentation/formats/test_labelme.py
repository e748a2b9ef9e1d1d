"""LabelMe files of several versions, good and bad."""

import base64
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from thfuse_sam.datasets.segmentation import open_segmentation_dataset
from thfuse_sam.datasets.segmentation.formats.labelme import read
from thfuse_sam.datasets.segmentation.formats.listing import WITHOUT_OBJECTS
from thfuse_sam.datasets.segmentation.formats.objects import UNUSABLE
from thfuse_sam.datasets.segmentation.formats.outlines import CLIPPED, NO_OUTLINE
from thfuse_sam.datasets.segmentation.formats.outlines import EMPTY as EMPTY_MASK
from thfuse_sam.errors import SampleError, UsageError
from thfuse_sam.images import read_visible
from thfuse_sam.options.shared import AnnotationReading

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
    sample = open_segmentation_dataset(root)[0]
    assert sample.categories == {1: "a"}
    assert sample.ignored is not None and sample.ignored.sum() == 64, "what is to be ignored is no background either"
    labelme("two", [square("__ignore__")])
    assert open_segmentation_dataset(root).names == ["one"]
    with pytest.raises(SampleError, match=r"two\.png: the annotation holds no object"):
        open_segmentation_dataset(root, strict=True)


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
    "not a number": [{**square(), "points": [[float("nan"), 2], [3, 4], [9, 9]]}],
    "line": [square(shape_type="line")],
    "point": [{**square(shape_type="point"), "points": [[2, 2]]}],
    "no label": [{"points": [[1, 1], [2, 2], [3, 1]]}],
    "label of a number": [{**square(), "label": 3}],
    "text": [{**square(), "points": ["ab", "cd", "ef"]}],
    "circle": [{**square(shape_type="circle"), "points": [[2, 2]]}],
    "broken mask": [{**square(shape_type="mask"), "points": [[2, 2], [4, 4]], "mask": "AAAA"}],
}
EMPTY = {
    "far away": [square(x=1000)],
    "no area": [{**square(), "points": [[2, 2], [2, 2], [2, 2]]}],
    "two points": [{**square(), "points": [[2, 2], [9, 9]]}],
    "no shapes": [],
}


@pytest.mark.parametrize("shapes", [*BAD.values(), *EMPTY.values()], ids=[*BAD, *EMPTY])
def test_bad_shapes_are_named_or_skipped(labelme: Write, shapes: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    labelme("good", [square()])
    root = labelme("bad", shapes)
    with pytest.raises(SampleError, match=r"1 of 2 bad: .*bad\.(json|png).*`skip_bad`") as caught:
        open_segmentation_dataset(root, strict=shapes in list(EMPTY.values()))
    assert "\n" not in str(caught.value)
    dataset = open_segmentation_dataset(root, skip_bad=True, strict=True)
    assert dataset.names == ["good"]
    assert "skipped 1 of 2 as bad" in caplog.text


@pytest.mark.parametrize("shapes", EMPTY.values(), ids=EMPTY)
def test_shapes_without_a_pixel_are_counted(labelme: Write, shapes: list[Any]) -> None:
    labelme("good", [square()])
    dataset = open_segmentation_dataset(labelme("bad", shapes))
    assert dataset.names == ["good"]
    assert dataset.flaws[WITHOUT_OBJECTS] == 1
    assert dataset.flaws[EMPTY_MASK] + dataset.flaws[NO_OUTLINE] == len(shapes)


def test_a_bad_shape_does_not_cost_the_others(labelme: Write, caplog: pytest.LogCaptureFixture) -> None:
    root = labelme("one", [square("a"), square("crack", shape_type="linestrip"), square("b", x=18)])
    with pytest.raises(SampleError, match=r"1 of 1 bad: .*one\.json: shape 1 'crack': is a linestrip.*`line_width`"):
        open_segmentation_dataset(root)
    dataset = open_segmentation_dataset(root, skip_bad=True)
    assert dataset[0].categories == {1: "a", 2: "b"} and dataset.flaws[UNUSABLE] == 1
    assert "shape 1 'crack'" in caplog.text


def test_lines_of_a_given_width(labelme: Write) -> None:
    strip = {"label": "crack", "shape_type": "linestrip", "points": [[4.5, 3.5], [24.5, 3.5], [24.5, 15.5]]}
    line = {"label": "wire", "shape_type": "line", "points": [[2.5, 20.5], [50, 20.5]]}
    dataset = open_segmentation_dataset(labelme("one", [strip, line]), reading=AnnotationReading(line_width=3))
    crack, wire = dataset[0].mask(1), dataset[0].mask(2)
    assert crack[2:5, 6:24].all() and crack[5:15, 23:26].all() and not crack[6:, :22].any()
    assert crack.sum() == pytest.approx(3 * (20 + 12) + np.pi * 1.5**2, abs=4), "with round ends"
    assert wire[19:22, 4:].all() and dataset.flaws[CLIPPED] == 1


@pytest.mark.parametrize("left", [-7.0, -2.7, 28.0, 29.9])
def test_shapes_are_cut_at_the_border(labelme: Write, left: float) -> None:
    dataset = open_segmentation_dataset(labelme("one", [square(x=left), square("b", x=12)]))
    mask, columns = dataset[0].mask(1), np.arange(WIDTH) + 0.5
    assert np.array_equal(np.flatnonzero(mask.any(0)), np.flatnonzero((columns > left) & (columns < left + 8)))
    assert np.array_equal(np.flatnonzero(mask.any(1)), np.arange(4, 12))
    assert dataset.flaws == {CLIPPED: 1}


def test_rotated_boxes(labelme: Write) -> None:
    corners = [[16, 4], [24, 12], [16, 20], [8, 12]]
    sample = open_segmentation_dataset(labelme("one", [{**square(shape_type="rotation"), "points": corners}]))[0]
    assert sample.mask(1).sum() == pytest.approx(128, abs=10)
    assert sample.mask(1)[12, 9] and not sample.mask(1)[5, 10]


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, '{"shapes": 3}'])
def test_files_that_are_not_labelme(labelme: Write, content: str) -> None:
    root = labelme("good", [square()])
    (root / "annotations/other.json").write_text(content)
    with pytest.raises(SampleError, match=r"other\.json"):
        open_segmentation_dataset(root)


@pytest.mark.parametrize(
    "named", ["C:\\Users\\me\\one.png", "/home/me/set/one.png", "..\\..\\raw\\one.png", "a/ONE.PNG"]
)
@pytest.mark.parametrize("beside", [False, True])
def test_images_are_found_by_their_name_alone(labelme: Write, named: str, beside: bool) -> None:
    root = labelme("one", [square()], imagePath=named)
    if beside:
        (root / "images/one.png").rename(root / "one.png")
        (root / "annotations/one.json").rename(root / "one.json")
        (root / "annotations").rmdir(), (root / "images").rmdir()
    dataset = open_segmentation_dataset(root)
    assert dataset[0].source == (root / ("one.png" if beside else "images/one.png")).absolute()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_windows_editors(labelme: Write, encoding: str) -> None:
    root = labelme("one", [square("Mäst")])
    path = root / "annotations/one.json"
    path.write_text(path.read_text(), encoding=encoding)
    assert open_segmentation_dataset(root)[0].categories == {1: "Mäst"}
    path.write_bytes(b'{"label": "M\xe4st"}')
    with pytest.raises(UsageError, match="no known layout"):
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
    with pytest.raises(SampleError, match=r"is 32x24, .*one\.json says 32x48"):
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


SHAPES = st.sampled_from(
    ["polygon", "rectangle", "rotation", "circle", "linestrip", "line", "point", "mask", None, "?"]
)
POINTS = st.lists(st.lists(st.integers(-9, 50) | st.floats(), min_size=2, max_size=2), max_size=5)


@settings(max_examples=100)
@given(st.lists(st.tuples(SHAPES, POINTS, st.sampled_from([None, 1])), max_size=4))
def test_any_shapes_make_objects_or_flaws(drawn: list[tuple[str | None, list[list[float]], int | None]]) -> None:
    shapes = [{"label": "a", "shape_type": kind, "points": points, "group_id": group} for kind, points, group in drawn]
    with tempfile.TemporaryDirectory() as folder:
        image = save(Path(folder) / "a.png", picture())
        sample = read("a", image, Path("a.json"), {"shapes": shapes}, AnnotationReading(line_width=2))
    assert all(sample.mask(number).any() for number in sample.object_ids)
    left_out = sum(flaw.reason in (EMPTY_MASK, NO_OUTLINE, UNUSABLE) for flaw in sample.flaws)
    grouped = sum(group is not None for _, _, group in drawn)
    assert len(shapes) - left_out - max(grouped - 1, 0) <= len(sample.object_ids) <= len(shapes) - left_out
