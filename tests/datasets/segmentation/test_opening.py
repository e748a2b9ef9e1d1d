"""Telling formats apart, and parts for training and validation."""

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

from .conftest import box_mask, square

Write = Callable[..., Path]


def test_formats_are_told_apart(labelme: Write, mask_pairs: Write, coco: Write) -> None:
    found = [
        labelme("one", [square()]),
        mask_pairs({"a": box_mask()}),
        mask_pairs({"a": box_mask()}, root="pf", folders=("PNGImages", "PedMasks")),
        coco([]),
    ]
    layouts = ["annotations/*.json + images/ (LabelMe), or *.json beside images", "imgs/ + masks/"]
    layouts += ["PNGImages/ + PedMasks/", "annotations.json + images/ (COCO)"]
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
    with pytest.raises(UsageError, match="`val_ratio` 1"):
        dataset.split(1.0, 0)
    with pytest.raises(UsageError, match="at least 2"):
        Subset(dataset, [0]).split(0.5, 0)
    dataset.set_epoch(3)  # a set without chance takes it too


def test_parts_by_folders(mask_pairs: Write, tmp_path: Path) -> None:
    mask_pairs({"a": box_mask()}, root="set/train")
    mask_pairs({"b": box_mask()}, root="set/val")
    other = mask_pairs({"c": box_mask(), "d": box_mask()}, root="other")
    assert [part.names for part in open_train_and_val(tmp_path / "set")] == [["a"], ["b"]]
    assert [part.names for part in open_train_and_val(tmp_path / "set/train", val_path=other)] == [["a"], ["c", "d"]]
    assert [len(part) for part in open_train_and_val(other, val_ratio=0.5)] == [1, 1]
