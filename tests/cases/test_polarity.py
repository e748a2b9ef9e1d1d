"""Infrared images in which what is warm is dark: everything after reading is as if the camera had been white-hot."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import thfuse_sam as th
from thfuse_sam.commands.compare import compare
from thfuse_sam.commands.fuse import fuse
from thfuse_sam.commands.precompute import precompute_masks
from thfuse_sam.commands.train_pairs import find_train_pairs
from thfuse_sam.commands.verify import verify_masks
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.errors import ManifestError, UsageError
from thfuse_sam.images import MODALITIES, read_infrared, read_visible
from thfuse_sam.masks.manifest import Manifest
from thfuse_sam.masks.store import open_masks
from thfuse_sam.options.compare import CompareOptions
from thfuse_sam.options.fuse import FuseOptions
from thfuse_sam.options.precompute import PrecomputeOptions
from thfuse_sam.options.shared import TEST_SAMPLE
from thfuse_sam.options.train import TrainOptions
from thfuse_sam.shipped import find_shipped
from thfuse_sam.thermal import AS_STORED, InfraredReading
from thfuse_sam.video.steadiness import ThermalLevels

BLACK_HOT = InfraredReading(polarity="black-hot")
NAME = "test_0"


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """A scene with people in it as both kinds of camera show it."""
    pair = find_pairs(find_shipped(TEST_SAMPLE)).pairs[0]
    infrared = read_infrared(pair.ir)
    for kind, image in (("white", infrared), ("black", 255 - infrared)):
        for folder, pixels in (("ir", image), ("vi", read_visible(pair.vi))):
            (tmp_path / kind / folder).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / kind / folder / f"{NAME}.png")
    return {kind: tmp_path / kind for kind in ("white", "black")}


def fused(folder: Path, tree: Path, **options: Any) -> np.ndarray:
    output = folder / "fused"
    given = {"precomputed_masks_dir": tree, "output_dir": output, "report": False, "device": "cpu", **options}
    fuse(FuseOptions(dataset_path=folder, **given))
    return read_visible(output / f"{NAME}.png")


def masks(folder: Path, tree: Path, **options: Any) -> PrecomputeOptions:
    common = {"sam_model_type": "vit_nano", "device": "cpu", "points_per_side": 6}
    return PrecomputeOptions(dataset_path=folder, output_dir=tree, **common, **options)  # type: ignore[arg-type]


def test_what_is_warm_is_as_bright_as_in_white_hot_images(folders: dict[str, Path], tmp_path: Path) -> None:
    white, black = tmp_path / "of_white", tmp_path / "of_black"
    precompute_masks(masks(folders["white"], white))
    precompute_masks(masks(folders["black"], black, ir_polarity="black-hot"))
    for modality in MODALITIES:
        trees = [open_masks(tree).read(modality, NAME, None) for tree in (white, black)]
        assert trees[0].max() > 3 and np.array_equal(*trees)
    expected = fused(folders["white"], white)
    assert np.array_equal(fused(folders["black"], black), expected)  # the tree knows it
    assert np.array_equal(fused(folders["black"], black, ir_polarity="black-hot"), expected)
    assert not np.array_equal(fused(folders["black"], black, ir_polarity="white-hot"), expected)


def test_a_tree_keeps_its_polarity(folders: dict[str, Path], tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    precompute_masks(masks(folders["black"], tree, ir_polarity="black-hot"))
    (again,) = precompute_masks(masks(folders["black"], tree))
    assert again.written == 0
    assert Manifest.load(tree).signature.generator["ir_polarity"] == "black-hot"
    for modality in ("vi", "both"):  # warm places are looked up for visible masks, too
        with pytest.raises(ManifestError, match=r"ir_polarity black-hot \(asked: None\)"):
            precompute_masks(masks(folders["black"], tree, ir_polarity="white-hot", modality=modality))
    (visible,) = precompute_masks(masks(folders["black"], tree, modality="vi"))
    assert visible.written == 0
    (anew,) = precompute_masks(masks(folders["black"], tree, modality="vi", overwrite=True))  # infrared masks stay
    assert anew.written and Manifest.load(tree).signature.generator["ir_polarity"] == "black-hot"
    alone = {"modality": "vi", "vi_dir": folders["black"] / "vi", "dataset_path": None, "ir_polarity": "white-hot"}
    (unread,) = precompute_masks(dataclasses.replace(masks(folders["black"], tree), **alone))
    assert unread.written == 0
    (checked,) = verify_masks(masks(folders["black"], tree, ir_polarity="black-hot", ir_gray=True))
    assert len(checked.problems()) == 1 and "ir_gray" in checked.problems()[0]
    both = (folders["white"], folders["black"])
    options = TrainOptions(dataset_path=both, precomputed_masks_dir=(Path("none"), tree), val_fraction=0)
    assert [part.found.reading.polarity for part in find_train_pairs(options).parts] == ["white-hot", "black-hot"]


def test_what_was_fused_of_black_hot_images_is_not_measured_on_white_hot_ones_unnoticed(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fused(folders["black"], Path("none"), ir_polarity="black-hot", metrics=True)
    methods: dict[str, Any] = {"dataset_path": folders["black"], "methods": (str(folders["black"] / "fused"),)}
    for given in ({}, {"ir_polarity": "black-hot"}):
        caplog.clear()
        compare(CompareOptions(**methods, **given, rules=False, report=False, output_dir=tmp_path / "out"))
        assert ("give `ir_polarity` black-hot" in caplog.text) is not bool(given)


def test_in_python(folders: dict[str, Path]) -> None:
    ir, vi = (folders["black"] / modality / f"{NAME}.png" for modality in MODALITIES)
    expected = th.fuse(folders["white"] / "ir" / f"{NAME}.png", vi, device="cpu")
    for given in (ir, read_infrared(ir), Image.open(ir)):
        assert np.array_equal(th.fuse(given, vi, ir_polarity="black-hot", device="cpu"), expected)
    (one,) = th.Fuser(device="cpu").many([(ir, vi)], ir_polarity="black-hot")
    assert np.array_equal(one, expected)
    with pytest.raises(UsageError, match="`ir_polarity` 'hot'"):
        th.fuse(ir, vi, ir_polarity="hot", device="cpu")  # type: ignore[arg-type]
    found = th.masks(ir, "vit_nano", modality="ir", ir_polarity="black-hot", device="cpu", points_per_side=2)
    assert np.array_equal(found.image[..., 0], 255 - read_infrared(ir))


def test_numbers_of_more_than_8_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(7000, 7900, (40, 60)).astype(np.uint16)
    path = tmp_path / "a.png"
    Image.fromarray(values).save(path)
    assert np.array_equal(read_infrared(path, BLACK_HOT), 255 - read_infrared(path))
    for frame in (values, (values // 32).astype(np.uint8)):
        plain = ThermalLevels(AS_STORED, 0.3).grey(frame, 0.04)
        assert np.array_equal(ThermalLevels(BLACK_HOT, 0.3).grey(frame, 0.04), 255 - plain)
