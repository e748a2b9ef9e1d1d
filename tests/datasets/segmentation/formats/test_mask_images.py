"""Masks as image files: binary ones, noisy ones, instances."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from thfuse_sam.datasets.segmentation import open_segmentation_dataset
from thfuse_sam.datasets.segmentation.formats.mask_images import group_masks
from thfuse_sam.errors import SampleError, ThFuseError, UsageError
from thfuse_sam.options.shared import AnnotationReading

from ..conftest import HEIGHT, WIDTH, box_mask, picture, save

Write = Callable[..., Path]


def save_palette(path: Path, numbers: np.ndarray) -> None:
    """A palette image with the colours of Pascal VOC."""
    image = Image.fromarray(numbers).convert("P")
    image.putpalette([value for index in range(256) for value in voc_colour(index)])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def voc_colour(index: int) -> tuple[int, ...]:
    """Bits 0, 3, 6 of the number are the high bits of red, 1, 4, 7 those of green, 2, 5 those of blue."""
    return tuple(sum(((index >> 3 * bit + channel) & 1) << 7 - bit for bit in range(3)) for channel in range(3))


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


def test_one_file_for_each_object(mask_pairs: Write) -> None:
    root = mask_pairs({"001": box_mask(), "b/002": box_mask(), "3": box_mask()}, folders=("images", "masks"))
    (root / "masks/001.png").rename(root / "masks/001_0.png")
    save(root / "masks/001_1.png", box_mask(top=14, side=4))
    (root / "masks/b/002.png").unlink()
    save(root / "masks/b/002/x.png", box_mask(left=20, side=3))
    save(root / "masks/b/002/y.png", box_mask(side=5))
    (root / "masks/3.png").rename(root / "masks/3_mask.png")
    save(root / "masks/3_mask_1.png", box_mask(top=2, side=2))
    dataset = open_segmentation_dataset(root)
    areas = {sample.name: [int(sample.mask(number).sum()) for number in sample.object_ids] for sample in dataset}
    assert areas == {"001": [64, 16], "3": [64, 4], "b/002": [9, 25]}
    assert dataset[1].mask(1)[4:12, 4:12].all(), "objects in several files may overlap"


def test_a_folder_for_each_image(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(tmp_path / f"set/{name}/images/{name}.png", picture())
        for number in range(2):
            save(tmp_path / f"set/{name}/masks/{number:032x}.png", box_mask(top=4 + 9 * number))
    for beside in (".DS_Store", "a_train_labels.csv", "one/images/.DS_Store"):
        (tmp_path / "set" / beside).touch()
    dataset = open_segmentation_dataset(tmp_path / "set")
    assert [sample.object_ids for sample in dataset] == [(1, 2), (1, 2)]


@pytest.mark.parametrize("ending", ["_mask", "_seg", "-Mask", "_segmentation", "_label", " gt"])
def test_usual_endings_of_mask_names(mask_pairs: Write, ending: str) -> None:
    assert len(open_segmentation_dataset(mask_pairs({"a": box_mask(), "a_1": box_mask()}, ending=ending))) == 2


def test_masks_of_no_image_are_told_which_names_are_accepted(mask_pairs: Write) -> None:
    with pytest.raises(SampleError, match=r"a_final\.png: no image of the same name.*_mask"):
        open_segmentation_dataset(mask_pairs({"a": box_mask()}, ending="_final"))


def test_cityscapes_names(mask_pairs: Write) -> None:
    mask = box_mask(value=7).astype(np.uint16)
    mask[20:22, 20:25] = 26001
    root = mask_pairs({"x/a_leftImg8bit": mask}, folders=("leftImg8bit", "gtFine"))
    (root / "gtFine/x/a_leftImg8bit.png").rename(root / "gtFine/x/a_gtFine_instanceIds.png")
    save(root / "gtFine/x/a_gtFine_labelIds.png", box_mask(value=7))
    save(root / "gtFine/x/a_gtFine_color.png", picture())
    dataset = open_segmentation_dataset(root)
    assert len(dataset) == 1 and dataset[0].object_ids == (7, 26001)


def test_pascal_voc_as_downloaded(tmp_path: Path) -> None:
    root = tmp_path / "VOC"
    for name in ("a", "b"):
        save(root / f"JPEGImages/{name}.jpg", picture())
    mask = box_mask(value=1)
    mask[4:12, 12:14], mask[16:20, 4:8] = 255, 2
    save_palette(root / "SegmentationObject/a.png", mask)
    save_palette(root / "SegmentationClass/a.png", np.where((mask > 0) & (mask < 255), 15, mask).astype(np.uint8))
    dataset = open_segmentation_dataset(root)
    assert dataset.names == ["a"] and sum(dataset.flaws.values()) == 1, "b is not segmented, as most images of VOC"
    sample = dataset[0]
    assert sample.object_ids == (1, 2) and sample.ignored is not None and sample.ignored.sum() == 16
    shutil.rmtree(root / "SegmentationObject")
    assert open_segmentation_dataset(root)[0].categories == {15: "15"}
    names = ["__ignore__", "_background_", *map(str, range(1, 15)), "person"]
    (root / "class_names.txt").write_text("\n".join(names))
    assert open_segmentation_dataset(root, labels=["person"])[0].categories == {15: "person"}


def test_class_names_of_cvat(mask_pairs: Write) -> None:
    mask = np.array([(0, 0, 0), (250, 50, 83)], np.uint8)[box_mask(value=1)]
    root = mask_pairs({"a": mask}, folders=("JPEGImages", "SegmentationClass"))
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nhole:250,50,83::\n")
    assert open_segmentation_dataset(root)[0].categories == {1: "hole"}


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


NAMES = st.lists(
    st.text("ab01_", min_size=1, max_size=5).map(lambda text: f"x{text}"), min_size=1, max_size=6, unique=True
)


@given(NAMES, NAMES)
def test_masks_go_to_the_image_of_their_whole_name_and_each_to_one(images: list[str], masks: list[str]) -> None:
    groups, strangers, others = group_masks(images, masks)
    given_away = [mask for own in groups.values() for mask in own]
    assert list(groups) == images and len(given_away) == len(set(given_away))
    assert len(given_away) + len(strangers) + others == len(masks)
    assert all(mask not in images or mask in groups[mask] for mask in masks)
    assert all(mask.startswith(image) for image, own in groups.items() for mask in own)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_masks_beside_photos_with_exif_data(mask_pairs: Write, orientation: int) -> None:
    mask = box_mask()
    root = mask_pairs({"a": mask}, folders=("images", "masks"))
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.repeat(mask[..., None], 3, 2)).save(root / "images/a.png", exif=exif)
    dataset = open_segmentation_dataset(root, reading=AnnotationReading(ignore_exif=orientation == 3))
    sample = dataset[0]
    assert np.array_equal(sample.mask(1), sample.image[..., 0] > 0)


def test_one_file_for_each_object_also_in_a_folder_of_instances(mask_pairs: Write) -> None:
    root = mask_pairs({"a": box_mask(), "b": box_mask()}, folders=("images", "instances"), ending="_0")
    save(root / "instances/a_1.png", box_mask(top=14, side=4))
    assert [sample.object_ids for sample in open_segmentation_dataset(root)] == [(1, 2), (1,)]
