"""Aligning in Python gives what the commands give."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import thfuse_sam as th
from tests.align.scenes import SIZE, moved, pair
from thfuse_sam.align.rig import Rig
from thfuse_sam.cli import commands
from thfuse_sam.errors import ImageSizeError, UsageError
from thfuse_sam.images import read_visible

FOLDERS = ("--dataset_path", "pairs")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """An infrared image of half the size, moved, and the visible one; also as files in `pairs`."""
    monkeypatch.chdir(tmp_path)
    infrared, grey = pair(6)
    infrared = moved(infrared, 2, 1.03, (12, 5))[0]
    infrared = cv2.resize(infrared, (SIZE[1] // 2, SIZE[0] // 2), interpolation=cv2.INTER_AREA)
    visible = np.stack([grey, grey, 255 - grey], axis=2)
    for folder, image in (("ir", infrared), ("vi", visible)):
        (tmp_path / "pairs" / folder).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "pairs" / folder / "a.png")
    return infrared, visible


def test_equal_to_the_commands(images: tuple[np.ndarray, np.ndarray]) -> None:
    assert commands.align.main([*FOLDERS]) == 0
    aligned = th.align(*images)
    with Image.open("aligned/ir/a.png") as image:
        grey, alpha = np.array(image).transpose(2, 0, 1)
    assert np.array_equal(aligned.ir, grey) and np.array_equal(aligned.seen, alpha == 255)
    assert aligned.confident and 0.03 < aligned.offset < 0.06 and np.array_equal(aligned.vi, images[1])

    labels = np.zeros(images[0].shape, np.uint8)
    labels[30:70, 60:100] = 1
    Path("masks/ir").mkdir(parents=True)
    np.save("masks/ir/a.npy", labels)
    options = ("--device", "cpu", "--no-report", "--align", "similarity", "--precomputed_masks_dir", "masks")
    assert commands.test.main([*FOLDERS, *options]) == 0
    fused = th.fuse(*images, (labels, None), align="similarity", device="cpu")
    assert np.array_equal(fused, read_visible(Path("results/a.png")))


def test_numbers_and_a_rig_are_those_of_the_command(images: tuple[np.ndarray, np.ndarray]) -> None:
    kelvin = images[0].astype(np.uint16) * 20 + 29_000
    Image.fromarray(kelvin).save("pairs/ir/a.png")
    matrix = np.array([[2, 0, 20.5], [0, 2, 0.5], [0, 0, 1.0]])
    text = "kind: similarity\ninfrared: 160x120\nvisible: 320x240\nmatrix: " + str(matrix.tolist())
    Path("rig.yaml").write_text(text, encoding="utf-8")
    assert commands.align.main([*FOLDERS, "--rig", "rig.yaml", "--size", "200x150"]) == 0
    for source in (kelvin, "pairs/ir/a.png"):
        aligned = th.align(source, images[1], rig="rig.yaml", size="200x150", value_range=(29_000, 35_000))
        with Image.open("aligned/ir/a.png") as image:
            assert aligned.ir.dtype == np.uint16 and np.array_equal(aligned.ir, np.array(image))
        assert np.array_equal(aligned.vi, read_visible(Path("aligned/vi/a.png")))
    assert np.array_equal(aligned.matrix, Rig.load(Path("rig.yaml")).matrix)
    assert not aligned.ir[:, :12].any() and aligned.ir[:, 14:].all()


def test_numbers_with_a_point_keep_what_is_missing() -> None:
    celsius = np.full((24, 32), 21.5, np.float32)
    celsius[:, :8] = np.nan
    aligned = th.align(celsius, np.zeros((48, 64), np.uint8), "size", value_range=(0, 50))
    assert np.isnan(aligned.ir[:, :16]).all() and (aligned.ir[:, 16:] == 21.5).all()


def test_what_cannot_be_is_refused(images: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ImageSizeError, match=r"`ir` is 160x120 and `vi` 320x240 .* `align=.similarity.`"):
        th.fuse(*images, device="cpu")
    with pytest.raises(UsageError, match="`kind` affine"):
        th.align(*images, "affine")  # type: ignore[arg-type]
    Path("folds.yaml").write_text(
        "kind: similarity\ninfrared: 160x120\nvisible: 320x240\nmatrix: [[-2, 0, 0], [0, 2, 0], [0, 0, 1]]\n"
    )
    for rig, reason in (
        ("absent", "No such file or directory; make one"),
        ("folds", r"its matrix folds .*; make it anew"),
    ):
        with pytest.raises(UsageError, match=rf"^`rig` {rig}\.yaml: {reason} with the command line, see docs/"):
            th.align(*images, rig=f"{rig}.yaml")
    with pytest.raises(UsageError, match=r"`rig` absent\.yaml: is given beside `align` shift"):
        th.fuse(*images, align="shift", rig="absent.yaml", device="cpu")
    with pytest.raises(UsageError, match="`size` big"):
        th.align(*images, size="big")
