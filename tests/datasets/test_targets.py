import json
from pathlib import Path

import numpy as np
import pytest

from thfuse_sam.datasets.targets import TargetSet, read_targets
from thfuse_sam.errors import UsageError

SIZES = {"a/1": (40, 80), "b": (40, 80)}  # height, width
BOX = (20, 10, 60, 30)  # what most labels below say of "a/1"


def read(folder: Path, files: dict[str, str]) -> TargetSet:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return read_targets(folder, SIZES)


def test_yolo_boxes_and_polygons(tmp_path: Path) -> None:
    lines = "1 0.5 0.5 0.5 0.5\n\n0 0.5 0.5 0.5 0.5 0.9\n1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"
    targets = read(tmp_path, {"ir/a/1.txt": lines, "classes.txt": "person\ncar\n", "vi/b.txt": "0 0.5 0.5 0.5 0.5"})
    assert [(target.category, target.box) for target in targets.by_name["a/1"]] == [
        ("car", BOX), ("person", BOX), ("car", BOX)
    ]  # fmt: skip
    box, _, polygon = targets.by_name["a/1"]
    assert box.mask is None and polygon.mask is not None and polygon.mask.all() and polygon.mask.shape == (20, 40)
    assert targets.left_out == [] and list(targets.by_name) == ["a/1"]


def test_classes_without_names_are_their_numbers(tmp_path: Path) -> None:
    assert read(tmp_path, {"b.txt": "12 0.5 0.5 0.5 0.5"}).by_name["b"][0].category == "12"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("5 0.5 0.5 0.5 0.5", "class 5"),
        ("x 0.5 0.5 0.5 0.5", "class x"),
        ("0 0.9 0.5 0.5 0.5", "reaches out of the image of 80x40"),
        ("0 nan 0.5 0.5 0.5", "reaches out"),
        ("0 0.5 0.5 0 0.5", "covers no pixel"),
        ("0 0.5 0.5 0.5", "3 values"),
        ("0 0.5 0.5 0.5 big", "big"),
        ("0 0.5 0.5 0.7 0.7 9 9", "outside"),
    ],
)
def test_a_bad_label_is_named_and_left_out(tmp_path: Path, line: str, words: str) -> None:
    targets = read(
        tmp_path, {"b.txt": f"0 0.5 0.5 0.5 0.5\n{line}", "classes.txt": "person", "c.txt": "0 1 1 1 1\n0 1 1 1 1"}
    )
    assert len(targets.by_name["b"]) == 1
    bad, foreign = targets.left_out
    assert bad.startswith(f"{tmp_path / 'b.txt'}, line 2: ") and words in bad
    assert "c.txt" in foreign and "no pair 'c'" in foreign


def test_a_box_may_end_a_pixel_outside(tmp_path: Path) -> None:
    assert read(tmp_path, {"b.txt": "0 0.5 0.5 1.02 1.02"}).by_name["b"][0].box == (0, 0, 80, 40)


def coco(**more: object) -> str:
    annotation = {"id": 3, "image_id": 1, "category_id": 1, "bbox": [20, 10, 40, 20], **more}
    images = [{"id": 1, "file_name": "a\\1.png", "height": 40, "width": 80}]
    return json.dumps({"images": images, "annotations": [annotation], "categories": [{"id": 1, "name": "person"}]})


def test_coco_boxes_and_polygons_need_no_image(tmp_path: Path) -> None:
    (target,) = read(tmp_path, {"annotations.json": coco()}).by_name["a/1"]
    assert (target.category, target.box, target.mask) == ("person", BOX, None)
    (tmp_path / "t.json").write_text(coco(segmentation=[[20, 10, 60, 10, 60, 30, 20, 30]]), encoding="utf-8")
    (target,) = read_targets(tmp_path / "t.json", SIZES).by_name["a/1"]
    assert target.box == BOX and target.mask is not None and target.mask.all()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"category_id": 9}, "category"),
        ({"category_id": []}, "category"),
        ({"bbox": [70, 10, 40, 20]}, "reaches out"),
        ({"bbox": None}, "neither"),
        ({"bbox": ["a", 1, 2, 3]}, "'a'"),
        ({"segmentation": [[1, 2]]}, "points"),
    ],
)
def test_bad_coco_is_one_line(tmp_path: Path, more: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=rf"no target of any pair \(.*annotation 3 of a/1.png: .*{words}"):
        read(tmp_path, {"annotations.json": coco(**more)})


def test_coco_objects_of_no_certain_image_are_left_out_and_named(tmp_path: Path) -> None:
    content = json.loads(coco())
    content["images"] += [{"id": 2, "file_name": "b.png"}, {"id": 2, "file_name": "c.png"}]
    content["annotations"] += [{**content["annotations"][0], "image_id": number} for number in (2, 9)]
    targets = read(tmp_path, {"annotations.json": json.dumps(content)})
    shared, unlisted = targets.left_out
    assert list(targets.by_name) == ["a/1"]
    assert "b.png and c.png have the same id 2" in shared and "belongs to image 9, which is not listed" in unlisted


def test_label_maps(tmp_path: Path) -> None:
    labels = np.zeros((40, 80), np.uint8)
    labels[10:30, 20:60], labels[0, :2] = 2, 5
    (tmp_path / "ir").mkdir()
    np.save(tmp_path / "ir" / "b.npy", labels)
    big, small = read_targets(tmp_path, SIZES).by_name["b"]
    assert (big.category, big.box, small.box) == ("object", BOX, (0, 0, 2, 1))
    np.save(tmp_path / "ir" / "b.npy", labels[1:])
    with pytest.raises(UsageError, match=r"b\.npy: has shape"):
        read_targets(tmp_path, SIZES)


def test_what_holds_no_targets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_targets(tmp_path / "absent", SIZES)
    with pytest.raises(UsageError, match="neither text files nor COCO"):
        read_targets(tmp_path, SIZES)
    with pytest.raises(UsageError, match="no pair 'other'"):
        read(tmp_path, {"other.txt": "0 0.5 0.5 0.5 0.5"})
    with pytest.raises(UsageError, match="text of one image; give the folder"):
        read_targets(tmp_path / "other.txt", SIZES)
