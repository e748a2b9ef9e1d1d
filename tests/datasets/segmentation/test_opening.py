"""Telling formats apart, and parts for training and validation."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from thfuse_sam.datasets.segmentation import (
    Subset,
    open_segmentation_dataset,
    open_train_and_val,
)
from thfuse_sam.datasets.segmentation.opening import detect_format
from thfuse_sam.errors import UsageError

from .conftest import HEIGHT, WIDTH, box_mask, picture, save, square

Write = Callable[..., Path]
MASK_IMAGES = "images/ + masks/ or instances/ (also PNGImages/ + PedMasks/, JPEGImages/ + SegmentationClass/)"


def yolo_folder(tmp_path: Path) -> Path:
    save(tmp_path / "yolo/images/a.png", picture())
    (tmp_path / "yolo/labels").mkdir()
    (tmp_path / "yolo/labels/a.txt").write_text("0 0 0 1 0 1 1")
    return tmp_path / "yolo"


def test_formats_are_told_apart(labelme: Write, mask_pairs: Write, coco: Write, tmp_path: Path) -> None:
    found = [
        labelme("one", [square()]),
        mask_pairs({"a": box_mask()}),
        mask_pairs({"a": box_mask()}, root="pf", folders=("PNGImages", "PedMasks")),
        coco([]),
        yolo_folder(tmp_path),
        mask_pairs({"a": box_mask()}, root="voc", folders=("JPEGImages", "SegmentationObject")),
    ]
    layouts = ["annotations/*.json + images/ (LabelMe), or *.json beside images", MASK_IMAGES]
    layouts += [MASK_IMAGES, "annotations.json + images/ (COCO)"]
    layouts += ["images/ + labels/*.txt, or *.txt beside images (YOLO)"]
    layouts += [MASK_IMAGES]
    assert [detect_format(root)[0] for root in found] == layouts


def test_unknown_layouts_are_refused_in_one_line(tmp_path: Path, mask_pairs: Write) -> None:
    with pytest.raises(UsageError, match=r"no known layout\. Known are: .*PedMasks.*LabelMe.*mixture \.yaml") as caught:
        open_segmentation_dataset(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="no such folder"):
        open_segmentation_dataset(tmp_path / "missing")
    (tmp_path / "file.txt").touch()
    with pytest.raises(UsageError, match="is a file of an unknown kind"):
        open_segmentation_dataset(tmp_path / "file.txt")
    mask_pairs({"a": box_mask()}, root="parts/train")
    with pytest.raises(UsageError, match="holds train/ and other parts; give one of them"):
        open_segmentation_dataset(tmp_path / "parts")


def test_a_broken_file_alone_is_named(labelme: Write) -> None:
    root = labelme("one", [square()])
    path = root / "annotations/one.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(UsageError, match=r"no known layout; \S+one\.json: not readable as JSON \(.*\); mend or remove"):
        open_segmentation_dataset(root)


def test_split_is_decided_by_seed_and_covers_all(mask_pairs: Write) -> None:
    dataset = open_segmentation_dataset(mask_pairs({f"{number:02d}": box_mask() for number in range(10)}))
    train, val = dataset.split(0.3, seed=1)
    assert len(train) == 7 and len(val) == 3
    assert sorted(train.names + val.names) == dataset.names
    assert dataset.split(0.3, seed=1)[1].names == val.names
    assert any(dataset.split(0.3, seed=seed)[1].names != val.names for seed in range(2, 5))
    assert val[1].name == val.names[1]
    assert val[1].source == dataset[dataset.names.index(val.names[1])].source is not None


def test_split_keeps_a_sample_on_both_sides(mask_pairs: Write) -> None:
    dataset = open_segmentation_dataset(mask_pairs({"a": box_mask(), "b": box_mask()}))
    for ratio in (0.01, 0.99):
        assert [len(part) for part in dataset.split(ratio, 0)] == [1, 1]
    with pytest.raises(UsageError, match="at least 2"):
        Subset(dataset, [0]).split(0.5, 0)
    dataset.set_epoch(3)  # a set without chance takes it too


def test_parts_by_folders(mask_pairs: Write, tmp_path: Path) -> None:
    mask_pairs({"a": box_mask()}, root="set/train")
    mask_pairs({"b": box_mask()}, root="set/val")
    other = mask_pairs({"c": box_mask(), "d": box_mask()}, root="other")
    assert [part.names for part in open_train_and_val(tmp_path / "set")] == [["a"], ["b"]]
    assert [part.names for part in open_train_and_val(tmp_path / "set/train", val_path=other)] == [["a"], ["c", "d"]]
    assert [len(part) for part in open_train_and_val(other, val_fraction=0.5)] == [1, 1]


def test_parts_as_ade20k_names_them(mask_pairs: Write, tmp_path: Path) -> None:
    root = mask_pairs({"training/a": box_mask(), "validation/b": box_mask(), "validation/c": box_mask()})
    assert [part.names for part in open_train_and_val(root)] == [["training/a"], ["validation/b", "validation/c"]]
    for part in ("Train", "Test"):
        mask_pairs({"a": box_mask()}, root=f"set/{part}")
    assert [part.names for part in open_train_and_val(tmp_path / "set")] == [["a"], ["a"]]


def test_parts_below_a_common_folder(mask_pairs: Write) -> None:
    root = mask_pairs({"train/a": box_mask(), "train/b": box_mask(), "val/c": box_mask(), "test/d": box_mask()})
    assert [part.names for part in open_train_and_val(root)] == [["train/a", "train/b"], ["val/c"]]
    (root / "imgs/val/c.png").unlink(), (root / "masks/val/c.png").unlink()
    assert [part.names for part in open_train_and_val(root)][1] == ["test/d"]


def test_parts_in_two_coco_files(coco: Write, tmp_path: Path) -> None:
    for word in ("train", "val"):
        root = coco([{"id": 1, "image_id": 1, "category_id": 7, "segmentation": [[4, 4, 12, 4, 12, 12]]}], images=1)
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations.json").rename(root / f"annotations/instances_{word}.json")
    assert [part.names for part in open_train_and_val(tmp_path / "coco")] == [["0001"], ["0001"]]
    with pytest.raises(UsageError, match="several COCO files"):
        open_segmentation_dataset(tmp_path / "coco")


@pytest.mark.parametrize(
    "stems",
    [
        ("instances_trainval", "instances_test"),
        ("instances_trainVal", "instances_test"),
        ("instances_train2017", "instances_val2017"),
        ("_train", "_test"),
        ("Train", "Test"),
        ("train", "val", "test"),
    ],
)
def test_words_in_names_of_coco_files(tmp_path: Path, stems: tuple[str, ...]) -> None:
    for number, stem in enumerate(stems):
        save(tmp_path / f"images/{number}.png", picture(number))
        listed = [{"id": 1, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}]
        objects = [{"id": 1, "image_id": 1, "category_id": 7, "segmentation": [[4, 4, 12, 4, 12, 12]]}]
        content = {"images": listed, "annotations": objects, "categories": []}
        (tmp_path / f"{stem}.json").write_text(json.dumps(content))
    assert [part.names for part in open_train_and_val(tmp_path)] == [["0"], ["1"]]


def test_images_are_no_parts(mask_pairs: Write) -> None:
    root = mask_pairs({"train": box_mask(), "test": box_mask(), "c": box_mask(), "d": box_mask()})
    assert [len(part) for part in open_train_and_val(root, val_fraction=0.25)] == [3, 1]


def test_the_wrong_folder_of_two_is_named(mask_pairs: Write, tmp_path: Path) -> None:
    root = mask_pairs({"a": box_mask()})
    with pytest.raises(UsageError, match=r"^`val_dir` .*missing: no such folder"):
        open_train_and_val(root, val_path=tmp_path / "missing")
    with pytest.raises(UsageError, match=r"^`data_dir` .*missing: no such folder"):
        open_train_and_val(tmp_path / "missing", val_path=root)


def test_bad_files_are_named_before_labels(mask_pairs: Write, coco: Write) -> None:
    root = mask_pairs({"a": box_mask()})
    (root / "imgs/a.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"no sample is usable \(.*a\.png"):
        open_segmentation_dataset(root, labels=["cat"], skip_bad=True)
    with pytest.raises(UsageError, match="no sample with an object was found"):
        open_segmentation_dataset(coco([]), labels=["cat"])


def test_the_length_of_a_subset_needs_no_names(mask_pairs: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_segmentation_dataset(mask_pairs({"a": box_mask(), "b": box_mask()}))
    monkeypatch.setattr(type(dataset), "names", property(lambda self: pytest.fail("names were listed")))
    assert len(Subset(dataset, [1])) == 1
