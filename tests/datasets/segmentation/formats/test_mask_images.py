"""Masks as image files: binary ones, noisy ones, instances."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thfuse_sam.datasets.segmentation import open_segmentation_dataset
from thfuse_sam.errors import SampleError, ThFuseError, UsageError

from ..conftest import HEIGHT, WIDTH, box_mask, picture, save

Write = Callable[..., Path]


@pytest.mark.parametrize("value", [1, 128, 255])
@pytest.mark.parametrize("folders", [("imgs", "masks"), ("image", "mask"), ("images", "masks")])
def test_binary_masks_of_any_value(mask_pairs: Write, value: int, folders: tuple[str, str]) -> None:
    root = mask_pairs({"b": box_mask(value=value), "a": box_mask(side=5, value=value)}, folders=folders)
    dataset = open_segmentation_dataset(root)
    assert dataset.names == ["a", "b"]
    assert dataset[0].mask(1).sum() == 25 and dataset[1].mask(1).sum() == 64


def test_jpeg_noise_does_not_grow_a_mask(mask_pairs: Write) -> None:
    mask = box_mask(top=5, left=7, side=9)
    root = mask_pairs({"a": mask}, suffix=".jpg")
    with Image.open(root / "masks/a.jpg") as stored:
        noisy = np.asarray(stored)
    assert (noisy > 0).sum() > 1.3 * 81, "the case is a real one"
    assert open_segmentation_dataset(root)[0].mask(1).sum() == pytest.approx(81, abs=4)


def test_colour_and_palette_masks(mask_pairs: Write) -> None:
    root = mask_pairs({"a": np.repeat(box_mask()[..., None], 3, 2)})
    palette = Image.fromarray(box_mask(side=4, value=1)).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    save(root / "imgs/b.png", picture(1))
    palette.save(root / "masks/b.png")
    dataset = open_segmentation_dataset(root)
    assert [dataset[index].mask(1).sum() for index in range(2)] == [64, 16]


def test_class_numbers_are_not_taken_for_a_binary_mask(mask_pairs: Write) -> None:
    mask = box_mask(value=1)
    mask[0, :3] = 2
    with pytest.raises(SampleError, match="3 values up to 2, so it is no binary mask"):
        open_segmentation_dataset(mask_pairs({"a": mask}))


def test_instances_as_in_penn_fudan(mask_pairs: Write) -> None:
    mask = box_mask(value=1)
    mask[20:22, 20:25] = 2
    root = mask_pairs({"P1": mask}, folders=("PNGImages", "PedMasks"), ending="_mask")
    sample = open_segmentation_dataset(root)[0]
    assert sample.object_ids == (1, 2)
    assert sample.mask(2).sum() == 10
    with pytest.raises(UsageError, match="has class names, so `labels` selects nothing"):
        open_segmentation_dataset(root, labels=["person"])


def test_instances_in_palette_and_16_bit_files(mask_pairs: Write) -> None:
    root = mask_pairs({"a": box_mask(value=1)}, folders=("images", "instances"))
    many = np.zeros((HEIGHT, WIDTH), np.uint16)
    many[2, 3:7] = 700
    Image.fromarray(many).save(root / "instances/a.png")
    assert open_segmentation_dataset(root)[0].object_ids == (700,)
    palette = Image.fromarray(box_mask(value=3)).convert("P")
    palette.putpalette([value for index in range(256) for value in (0, index, 0)])
    palette.save(root / "instances/a.png")
    assert open_segmentation_dataset(root)[0].object_ids == (3,)


def test_a_mask_is_turned_upright_as_its_image_is(mask_pairs: Write) -> None:
    root = mask_pairs({"a": box_mask(top=2, left=20, side=3, value=1)}, folders=("images", "instances"))
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    for folder in ("images", "instances"):
        with Image.open(root / folder / "a.png") as stored:
            stored.save(root / folder / "a.png", exif=exif)
    mask = open_segmentation_dataset(root)[0].mask(1)
    assert mask.shape == (WIDTH, HEIGHT) and mask[20:23, -5:-2].all() and mask.sum() == 9


def test_object_numbers_are_not_read_from_jpeg(mask_pairs: Write) -> None:
    root = mask_pairs({"a": box_mask()}, folders=("images", "instances"), suffix=".jpg")
    with pytest.raises(SampleError, match="JPEG does not keep numbers exactly"):
        open_segmentation_dataset(root)


def test_missing_partners_empty_and_other_sizes(mask_pairs: Write, caplog: pytest.LogCaptureFixture) -> None:
    root = mask_pairs({"good": box_mask(), "empty": box_mask(value=0), "small": box_mask()[:-1]})
    save(root / "imgs/no_mask.png", picture())
    save(root / "masks/no_image.png", box_mask())
    with pytest.raises(SampleError, match="4 of 5 bad") as caught:
        open_segmentation_dataset(root)
    assert "no_mask.png: no mask of the same name" in str(caught.value)
    assert "no_image.png: no image of the same name" in str(caught.value)
    assert open_segmentation_dataset(root, skip_bad=True).names == ["good"]
    assert "empty.png: the mask is empty" in caplog.text
    assert "small.png: is 32x23, its image 32x24" in caplog.text
    assert "skipped 4 of 5 as bad" in caplog.text


@pytest.mark.parametrize("folders", [("imgs", "masks"), ("PNGImages", "PedMasks")])
@pytest.mark.parametrize("part", ["image", "mask"])
def test_truncated_files_are_named(mask_pairs: Write, folders: tuple[str, str], part: str) -> None:
    root = mask_pairs({"a": box_mask(value=1)}, folders=folders)
    path = root / folders[part == "mask"] / "a.png"
    buffer = io.BytesIO()
    Image.fromarray(picture(5) if part == "image" else picture(5)[..., 0]).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(ThFuseError, match=r"a\.png"):
        open_segmentation_dataset(root)


def test_no_sound_sample_is_wrong_usage(mask_pairs: Write) -> None:
    root = mask_pairs({"a": box_mask(value=0)})
    with pytest.raises(UsageError, match=r"no sample is usable \(.*the mask is empty"):
        open_segmentation_dataset(root, skip_bad=True)
