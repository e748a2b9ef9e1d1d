"""Annotated images as users have them: what `prepare_data.py` makes of each, from the command line."""

import base64
import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from thfuse_sam.cli import commands
from thfuse_sam.datasets.segmentation import open_segmentation_dataset, open_train_and_val
from thfuse_sam.errors import UsageError
from thfuse_sam.options.shared import AnnotationReading

HEIGHT, WIDTH = 48, 64
BOX = (8, 6, 12, 10)  # left, top, width, height: 120 pixels
OTHER = (30, 20, 10, 8)  # 80 pixels
AREAS = [80, 120]

prepare: Callable[[list[str]], int] = commands.prepare.main


@dataclass(frozen=True)
class Case:
    """A folder, and the areas of each image's objects; None: the folder is refused."""

    write: Callable[[Path], object]
    areas: dict[str, list[int]] | None
    options: tuple[str, ...] = ()
    at: str = ""  # what is given in the folder


def image(path: Path, pixels: np.ndarray | None = None, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8) if pixels is None else pixels).save(path, **options)


def text(path: Path, content: Any, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding=encoding)


def corners(box: tuple[int, int, int, int]) -> list[list[int]]:
    left, top, width, height = box
    return [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]


def flat(box: tuple[int, int, int, int]) -> list[int]:
    return [value for point in corners(box) for value in point]


def runs(box: tuple[int, int, int, int]) -> dict[str, Any]:
    left, top, width, height = box
    counts = [left * HEIGHT + top, *([height, HEIGHT - height] * width)]
    counts[-1] = HEIGHT * WIDTH - sum(counts[:-1])
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def numbers(first: int, second: int, dtype: type = np.uint8, between: int = 0) -> np.ndarray:
    """A mask with BOX and OTHER as these numbers, and a strip of a third one."""
    mask = np.zeros((HEIGHT, WIDTH), dtype)
    for (left, top, width, height), value in ((BOX, first), (OTHER, second), ((0, 44, 64, 4), between)):
        mask[top : top + height, left : left + width] = value
    return mask


def voc(path: Path, mask: np.ndarray) -> None:
    picture = Image.fromarray(mask).convert("P")
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, *[64] * 759])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def coco(
    file: str = "annotations.json",
    at: str = "images/a.png",
    name: str = "a.png",
    encoding: str = "utf-8",
    size: tuple[float, float] = (WIDTH, HEIGHT),
    **first: Any,
) -> Callable[[Path], None]:
    """A COCO set of one image with BOX and OTHER; `first` replaces entries of the annotation of BOX."""

    def write(root: Path) -> None:
        image(root / at)
        common = {"image_id": 1, "category_id": 1, "iscrowd": 0}
        annotations = [{"id": 1, **common, "segmentation": [flat(BOX)], **first},
                       {"id": 2, **common, "segmentation": [flat(OTHER)]}]  # fmt: skip
        images = [{"id": 1, "file_name": name, "width": size[0], "height": size[1]}]
        categories = [{"id": 1, "name": "leak"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        text(root / file, content, encoding)

    return write


def edited(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """`coco()` whose file was edited."""

    def write(root: Path) -> None:
        coco()(root)
        content = json.loads((root / "annotations.json").read_text())
        edit(content)
        text(root / "annotations.json", content)

    return write


def all_crowds(content: dict[str, Any]) -> None:
    for annotation, box in zip(content["annotations"], (BOX, OTHER), strict=True):
        annotation |= {"iscrowd": 1, "segmentation": runs(box)}


def as_fractions(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        [polygon] = annotation["segmentation"]
        annotation["segmentation"] = [[value / 100 for value in polygon]]


def listed_twice(content: dict[str, Any]) -> None:
    """As joining the files of two annotators makes it."""
    content["images"].append({**content["images"][0], "id": 2})
    content["annotations"][1]["image_id"] = 2


def one_number_for_two(content: dict[str, Any]) -> None:
    content["images"].append({**content["images"][0], "file_name": "b.png"})


def second_category(name: str) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        content["categories"].append({"id": 2, "name": name})
        content["annotations"][0]["category_id"] = 2

    return edit


def lvis(content: dict[str, Any]) -> None:
    [listed] = content["images"]
    listed["coco_url"] = f"http://images.cocodataset.org/images/{listed.pop('file_name')}"


def labelme(
    *shapes: dict[str, Any],
    named: str | None = "a.png",
    apart: str = "",
    encoding: str = "utf-8",
    **more: Any,
) -> Callable[[Path], None]:
    """A LabelMe file with BOX, OTHER and more shapes; `apart`: the folder of the file, beside that of the images."""

    def write(root: Path) -> None:
        image(root / "images/a.png" if apart else root / "a.png")
        drawn = [{"label": "leak", "points": corners(box), "shape_type": "polygon"} for box in (BOX, OTHER)]
        content = {"shapes": [*drawn, *shapes], "imagePath": named, "imageData": None}
        sizes = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
        text(root / apart / "a.json", {**content, **sizes, **more}, encoding)

    return write


def rotated(orientation: int, size: tuple[int, int]) -> Callable[[Path], None]:
    """A JPEG with an EXIF orientation, annotated on pixels of this (width, height)."""

    def write(root: Path) -> None:
        coco(at="images/a.jpg", name="a.jpg", size=size)(root)
        exif = Image.Exif()
        exif[274] = orientation
        image(root / "images/a.jpg", exif=exif)

    return write


def masks(*files: tuple[str, np.ndarray], folder: str = "masks", images: str = "images") -> Callable[[Path], None]:
    """An image with these files as masks."""

    def write(root: Path) -> None:
        image(root / images / "a.png")
        for name, pixels in files:
            image(root / folder / name, pixels)

    return write


def voc_masks(images: str, folder: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        image(root / images / "a.jpg")
        image(root / images / "not_segmented.jpg") if folder.startswith("Seg") else None
        voc(root / folder / "a.png", numbers(1, 2, between=255))

    return write


def yolo(
    at: str = "images/a.jpg", labels: str = "labels/a.txt", comma: str = " ", **more: str
) -> Callable[[Path], None]:
    """The text file of an image with BOX of class 0 and OTHER of class 1, and `more` files."""

    def write(root: Path) -> None:
        image(root / at)
        lines = [[f"{x / WIDTH:.6f}{comma}{y / HEIGHT:.6f}" for x, y in corners(box)] for box in (BOX, OTHER)]
        text(root / labels, "\n".join(comma.join([str(number), *line]) for number, line in enumerate(lines)))
        for name, content in more.items():
            text(root / name.replace("_", "."), content)

    return write


def with_picture(write: Callable[[Path], None], folder: str) -> Callable[[Path], None]:
    """A set and a picture beside its text files, as programs draw it."""

    def write_both(root: Path) -> None:
        write(root)
        image(root / folder / "overview.png")

    return write_both


def hidden(write: Callable[[Path], None], name: str) -> Callable[[Path], None]:
    """A set and a file that a Mac puts beside others on foreign disks."""

    def write_both(root: Path) -> None:
        write(root)
        (root / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")

    return write_both


def beside(*files: tuple[str, np.ndarray], folder: str = "", **more: str) -> Callable[[Path], None]:
    """An image with these masks beside it, and `more` files."""

    def write(root: Path) -> None:
        image(root / folder / "a.jpg")
        for name, pixels in files:
            image(root / folder / name, pixels)
        for name, content in more.items():
            text(root / f"{name.removesuffix('_csv')}.csv", content)

    return write


def frames(*pages: np.ndarray) -> Callable[[Path], None]:
    """A TIFF of several pages as the mask of an image."""

    def write(root: Path) -> None:
        image(root / "images/a.png")
        first, *rest = map(Image.fromarray, pages)
        (root / "masks").mkdir()
        first.save(root / "masks/a.tif", save_all=True, append_images=rest)

    return write


def photo_with_alpha(mask: np.ndarray) -> np.ndarray:
    return np.dstack([np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8), mask])


def sa_1b(root: Path) -> None:
    for number in (1, 2):
        name = f"sa_{number}"
        image(root / f"{name}.jpg")
        own = {"image_id": number, "width": WIDTH, "height": HEIGHT, "file_name": f"{name}.jpg"}
        drawn = [
            {"id": 7, "segmentation": runs(box), "bbox": list(box), "crop_box": [0, 0, 9, 9]} for box in (BOX, OTHER)
        ]
        text(root / f"{name}.json", {"image": own, "annotations": drawn})


def label_map(mask: np.ndarray) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        image(root / "images/a.png")
        (root / "masks").mkdir()
        np.save(root / "masks/a.npy", mask)

    return write


def defects(root: Path) -> None:
    for name in ("train/good/a.png", "test/good/a.png", "test/broken/a.png"):
        image(root / name)
    image(root / "ground_truth/broken/a_mask.png", numbers(255, 0))


def cvat_masks(background: tuple[int, int, int]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        image(root / "JPEGImages/a.jpg")
        image(
            root / "SegmentationClass/a.png", np.array([background, (128, 0, 0), (0, 128, 0)], np.uint8)[numbers(1, 2)]
        )
        lines = (f"background:{','.join(map(str, background))}::", "leak:128,0,0::", "vent:0,128,0::")
        text(root / "labelmap.txt", "\n".join(lines))

    return write


def colours(first: int, *others: int) -> np.ndarray:
    table = np.zeros((3, 3), np.uint8)
    table[1], table[2] = (first, 0, 0), others
    return table[numbers(1, 2)]


def not_a_number(mask: np.ndarray) -> np.ndarray:
    return np.where(mask == 0, np.nan, mask).astype(np.float32)


def alpha(mask: np.ndarray) -> np.ndarray:
    return np.dstack([np.full((HEIGHT, WIDTH, 3), 255, np.uint8), (mask > 0).astype(np.uint8) * 255])


EMBEDDED = base64.b64encode(cv2.imencode(".png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()).decode()
LINE = {"label": "crack", "points": [[2, 40], [60, 40]], "shape_type": "linestrip"}
TURNED = {"label": "panel", "points": [[50, 2], [60, 2], [60, 8], [50, 8]], "shape_type": "rotation"}
OUTSIDE = {"label": "edge", "points": [[-3, 30], [4, 30], [4, 34], [-3, 34]], "shape_type": "polygon"}
SHORT = {"size": [HEIGHT, WIDTH], "counts": [5]}
BOTH, ONE = {"a": AREAS}, {"a": [80]}

CASES: dict[str, Case] = {
    "every brush mask is a crowd": Case(edited(all_crowds), BOTH),
    "fractions for pixels": Case(edited(as_fractions), None),
    "an image listed twice": Case(edited(listed_twice), BOTH),
    "one number for two images": Case(edited(one_number_for_two), None),
    "lvis": Case(edited(lvis), BOTH),
    "no size": Case(coco(size=(0, 0)), BOTH),
    "the address of an image": Case(coco(name="https://host/up/a.png?token=x"), BOTH),
    "images in the folder of their subset, key points": Case(
        coco("annotations/person_keypoints_val2017.json", "val2017/a.png"), BOTH
    ),
    "images in the folder of their subset": Case(coco("annotations/instances_train.json", "images/train/a.png"), BOTH),
    "label studio": Case(coco("result.json", "images/0c-a.png", "..\\..\\media\\upload\\4\\0c-a.png"), {"0c-a": AREAS}),
    "label studio, older": Case(coco("result.json", name="images\\a.png"), BOTH),
    "fiftyone": Case(coco("labels.json", "data/a.png"), BOTH),
    "roboflow": Case(coco("_annotations.coco.json", "a.png"), BOTH),
    "float ids": Case(coco(category_id=1.0, image_id=1.0), BOTH, ("--labels", "leak")),
    "text ids": Case(coco(category_id="1", image_id="1"), BOTH, ("--labels", "leak")),
    "flat polygon": Case(coco(segmentation=flat(BOX)), BOTH),
    "run lengths": Case(coco(segmentation=runs(BOX)), BOTH),
    "polygon leaves the image": Case(coco(segmentation=[flat((-4, 6, 16, 10))]), BOTH),
    "polygon leaves the image, strict": Case(coco(segmentation=[flat((-4, 6, 16, 10))]), None, ("--strict",)),
    "stray point": Case(coco(segmentation=[flat(BOX), [4, 4]]), BOTH),
    "nothing drawn": Case(coco(segmentation=[]), ONE),
    "nothing drawn, strict": Case(coco(segmentation=[]), None, ("--strict",)),
    "damaged run lengths": Case(coco(segmentation=SHORT), None),
    "damaged run lengths, skipped": Case(
        coco(segmentation={"size": [HEIGHT, WIDTH], "counts": [5]}), ONE, ("--skip_bad",)
    ),
    "half turn": Case(rotated(3, (WIDTH, HEIGHT)), BOTH),
    "quarter turn, drawn as stored": Case(rotated(6, (WIDTH, HEIGHT)), BOTH),
    "swapped width and height": Case(coco(size=(HEIGHT, WIDTH)), None),
    "byte-order mark": Case(coco(encoding="utf-8-sig"), BOTH),
    "decomposed letters": Case(coco(at=f"images/{unicodedata.normalize('NFD', 'ä')}.png", name="ä.png"), {"ä": AREAS}),
    "labelme of another machine": Case(labelme(named="C:\\Users\\me\\a.png"), BOTH),
    "labelme with backslashes": Case(labelme(named="..\\images\\a.png", apart="annotations"), BOTH),
    "labelme moved": Case(labelme(named="..\\..\\raw\\a.png"), BOTH),
    "labelme without a path": Case(labelme(named=None), BOTH),
    "labelme with a byte-order mark": Case(labelme(encoding="utf-8-sig"), BOTH),
    "labelme with a picture among the files": Case(with_picture(labelme(apart="annotations"), "annotations"), BOTH),
    "yolo with a picture among the files": Case(with_picture(yolo(), "labels"), BOTH),
    "labelme in a folder of another name": Case(labelme(apart="Json"), BOTH),
    "labelme, sizes as text": Case(labelme(imageHeight=str(HEIGHT), imageWidth=float(WIDTH)), BOTH),
    "labelme of an image of twice the size": Case(labelme(imageHeight=2.0 * HEIGHT, imageWidth=str(2 * WIDTH)), None),
    "labelme, fractions": Case(labelme({**TURNED, "points": [[0.1, 0.1], [0.2, 0.1], [0.2, 0.2]]}), None),
    "labelme, the address of the image's data": Case(labelme(imageData=f"data:image/png;base64,\n{EMBEDDED}"), BOTH),
    "labelme lines": Case(labelme(LINE), None),
    "labelme lines, skipped": Case(labelme(LINE), BOTH, ("--skip_bad",)),
    "labelme lines of a width": Case(labelme(LINE), {"a": [80, 120, 244]}, ("--line_width", "4")),
    "labelme rotated box": Case(labelme(TURNED), {"a": [60, 80, 120]}),
    "labelme outside": Case(labelme(OUTSIDE), {"a": [16, 80, 120]}),
    "classes of pascal voc as masks": Case(voc_masks("images", "masks"), BOTH),
    "objects of pascal voc": Case(voc_masks("images", "instances"), BOTH),
    "pascal voc as downloaded": Case(voc_masks("JPEGImages", "SegmentationObject"), BOTH),
    "classes of pascal voc": Case(voc_masks("JPEGImages", "SegmentationClass"), BOTH),
    "shape in the alpha channel": Case(masks(("a.png", alpha(numbers(1, 0)))), {"a": [120]}),
    "coloured objects": Case(masks(("a.png", colours(63, 0, 191, 9)), folder="instances"), BOTH),
    "coloured classes": Case(masks(("a.png", colours(63, 0, 191, 9))), None),
    "coloured classes, told": Case(masks(("a.png", colours(63, 0, 191, 9))), BOTH, ("--mask_kind", "classes")),
    "one colour of several": Case(masks(("a.png", colours(63, 0, 191, 9))), ONE, ("--mask_values", "0,191,9")),
    "grey classes": Case(masks(("a.png", numbers(1, 2))), None),
    "16-bit classes": Case(masks(("a.png", numbers(300, 9000, np.uint16))), None),
    "16-bit classes, told": Case(masks(("a.png", numbers(300, 9000, np.uint16))), BOTH, ("--mask_kind", "classes")),
    "trimap": Case(masks(("a.png", numbers(128, 255))), None),
    "trimap, told": Case(masks(("a.png", numbers(128, 255))), ONE, ("--mask_values", "255", "--ignore_value", "128")),
    "a mask in each frame": Case(frames(numbers(255, 0), numbers(0, 255)), None),
    "a mask in each channel": Case(
        masks(("a.png", np.dstack([numbers(0, 255), *[numbers(0, 0)] * 2, numbers(255, 0)]))), None
    ),
    "a photo under the alpha channel": Case(masks(("a.png", photo_with_alpha(numbers(255, 0)))), {"a": [120]}),
    "void": Case(masks(("a.png", numbers(1, 255)), folder="instances"), {"a": [120]}),
    "another void": Case(masks(("a.png", numbers(7, 255)), folder="instances"), ONE, ("--ignore_value", "7")),
    "cityscapes": Case(
        masks(("a_gtFine_instanceIds.png", numbers(26000, 7, np.uint16)), folder="gtFine", images="leftImg8bit"), BOTH
    ),
    "masks with an ending": Case(masks(("a_seg.png", numbers(255, 0))), {"a": [120]}),
    "one mask for each object": Case(masks(("a_0.png", numbers(255, 0)), ("a_1.png", numbers(0, 255))), BOTH),
    "the mask of an image that is not there": Case(
        masks(("a.png", numbers(255, 0)), ("a_1.png", numbers(0, 255))), None
    ),
    "a copy of a mask": Case(masks(("a.png", numbers(255, 0)), ("a (1).png", numbers(255, 0))), None),
    "a folder of masks for each image": Case(masks(("a/x.png", numbers(1, 0)), ("a/y.png", numbers(0, 1))), BOTH),
    "other names of folders": Case(masks(("a.png", numbers(255, 0)), folder="Labels", images="Img"), {"a": [120]}),
    "ade20k": Case(masks(("training/a.png", numbers(1, 2)), folder="annotations", images="images/training"), None),
    "ade20k, told": Case(
        masks(("training/a.png", numbers(1, 2)), folder="annotations", images="images/training"),
        {"training/a": AREAS},
        ("--mask_kind", "classes"),
    ),
    "the image's suffix in the mask's name": Case(masks(("a.png.png", numbers(255, 0))), {"a": [120]}),
    "class 0 of cityscapes is no background": Case(
        masks(("a_gtFine_labelTrainIds.png", numbers(13, 255)), folder="gtFine", images="leftImg8bit"), None
    ),
    "void in three equal channels": Case(
        masks(("a.png", np.repeat(numbers(1, 255)[..., None], 3, 2)), folder="instances"), {"a": [120]}
    ),
    "not a number around a mask": Case(masks(("a.tif", not_a_number(numbers(1, 0)))), {"a": [120]}),
    "coloured classes as JPEG": Case(masks(("a.jpg", colours(255, 0, 0, 255))), None),
    "one colour as JPEG": Case(masks(("a.jpg", colours(255, 255, 0, 0))), {"a": [200]}),
    "a mask of a suffix that is not read": Case(masks(("a.gif", numbers(255, 0))), None),
    "yolo": Case(yolo(), BOTH),
    "yolo with names in a list": Case(yolo(classes_txt="leak\nvent"), ONE, ("--labels", "vent")),
    "yolo with commas": Case(yolo(comma=","), BOTH),
    "yolo beside images, with a text": Case(yolo("a.jpg", "a.txt", README_dataset_txt="Made with"), BOTH),
    "yolo's file of classes": Case(yolo(data_yaml="names: [leak, vent]"), None, at="data.yaml"),
    "a folder above the set": Case(yolo("set/images/a.jpg", "set/labels/a.txt"), None),
    "grey classes as JPEG": Case(masks(("a.jpg", numbers(120, 255))), None),
    "void of 16 bits": Case(masks(("a.png", numbers(1, 65535, np.uint16)), folder="instances"), {"a": [120]}),
    "two categories of one id": Case(
        edited(lambda content: content["categories"].append({"id": 1, "name": "b"})), None
    ),
    "to be ignored": Case(coco(ignore=1), ONE),
    "not to be ignored": Case(coco(ignore=0), BOTH),
    "a category that is background": Case(edited(second_category("Background")), ONE),
    "a category to be ignored": Case(edited(second_category("ignored regions")), ONE),
    "coco, suffix in upper case": Case(coco("Annotations.JSON"), BOTH),
    "labelme, label with a space": Case(
        labelme({**TURNED, "label": "leak "}), {"a": [60, 80, 120]}, ("--labels", "leak")
    ),
    "labelme, background": Case(labelme({**TURNED, "label": "background"}), BOTH),
    "labelme, what is to be ignored": Case(labelme({**TURNED, "label": "DontCare"}), BOTH),
    "yolo's names are no truth values": Case(yolo(data_yaml="names: [no, 01]"), ONE, ("--labels", "01")),
    "yolo's key points": Case(yolo(data_yaml="names: [leak, vent]\nkpt_shape: [4, 3]"), None),
    "yolo, hidden files of a Mac": Case(hidden(yolo(), "labels/._a.txt"), BOTH),
    "yolo, suffix in upper case": Case(yolo(labels="labels/a.TXT"), BOTH),
    "masks beside images": Case(beside(("a_mask.png", numbers(255, 255))), {"a": [200]}),
    "masks of roboflow": Case(
        beside(("a_mask.png", numbers(1, 2)), _classes_csv="Pixel Value, Class\n0, background\n1, leak\n2, vent"),
        ONE,
        ("--labels", "vent"),
    ),
    "a mask beside the image for each object": Case(
        beside(("a_mask.png", numbers(255, 0)), ("a_mask_1.png", numbers(0, 255))), BOTH
    ),
    "masks beside images, deeper": Case(beside(("a_label.bmp", numbers(255, 0)), folder="kos01"), {"kos01/a": [120]}),
    "a picture beside another": Case(beside(("a_left.png", numbers(255, 0))), None),
    "defects of mvtec": Case(defects, {"broken/a": [120]}),
    "a background of another colour": Case(cvat_masks((255, 255, 255)), BOTH),
    "sa-1b": Case(sa_1b, {"sa_1": AREAS, "sa_2": AREAS}),
    "masks of cellpose": Case(beside(("a_cp_masks.png", numbers(1, 2, np.uint16))), BOTH, ("--mask_kind", "instances")),
    "outline and box in different places, strict": Case(coco(bbox=[16, 12, 24, 20]), None, ("--strict",)),
    "outline and box in one place, strict": Case(coco(bbox=[8, 6, 12.4, 9.8]), BOTH, ("--strict",)),
    "label maps of a program that ignores 255": Case(label_map(numbers(1, 2, between=255)), BOTH),
    "a binary label map": Case(label_map(numbers(255, 255)), {"a": [200]}),
    "labelme of an image that was converted": Case(labelme(named="C:\\Users\\me\\a.jpg"), BOTH),
}


@pytest.mark.parametrize("name", CASES)
def test_what_users_have(name: str, tmp_path: Path) -> None:
    case, output = CASES[name], tmp_path / "out"
    case.write(tmp_path / "data")
    status = prepare(["--data_dir", str(tmp_path / "data" / case.at), "--output_dir", str(output), *case.options])
    assert (status == 0) == (case.areas is not None)
    if case.areas is None:
        assert not output.exists()
        return
    dataset = open_segmentation_dataset(output)
    areas = {sample.name: sorted(int(sample.mask(number).sum()) for number in sample.object_ids) for sample in dataset}
    assert areas == case.areas


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (masks(("a.gif", numbers(255, 0))), "a.gif there has a suffix that is not read"),
        (masks(("a.png", 255 - numbers(255, 0))), "if black is the object: --mask_values 0"),
        (coco(name="a.jpg"), "a.png is there"),
        (yolo("set/images/a.jpg", "set/labels/a.txt"), "set/ in it has one"),
        (coco(segmentation=[[8, 6, 20, 16]]), "a box is none"),
        (coco(bbox=[16, 12, 24, 20]), "outline and bbox are not in the same place, taken as outlined: 1"),
        (label_map(numbers(1, 2, between=255)), "numbered 255 beside few others, ignored: 1"),
        (coco(ignore=1), "marked to be ignored, ignored (as objects: --use_crowds): 1"),
        (yolo(data_yaml="names: [leak]"), "of a class without a name: 1"),
        (defects, "images without a mask, left out: 1"),
        (masks(("a_gtFine_labelTrainIds.png", numbers(1, 2)), folder="gtFine", images="leftImg8bit"), "use labelIds"),
    ],
)
def test_what_is_said(
    write: Callable[[Path], object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data")
    prepare(["--data_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out")])
    assert said in capsys.readouterr().err


def test_options_that_a_layout_leaves_unread_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_map(numbers(1, 9))(tmp_path / "maps")
    yolo()(tmp_path / "yolo")
    coco()(tmp_path / "coco")
    for folder, option in (("maps", "--mask_values 9"), ("yolo", "--ignore_value 9"), ("coco", "--line_width 3")):
        given = ["--data_dir", str(tmp_path / folder), "--output_dir", str(tmp_path / "out"), "--check"]
        assert prepare([*given, *option.split()]) == 0
        assert f"{option.split()[0]} has no effect in this layout, " in capsys.readouterr().err
    assert prepare([*given, "--mask_kind", "classes", "--mask_values", "9"]) == 2
    assert "--mask_kind classes: is given beside --mask_values" in capsys.readouterr().err


def test_the_value_to_ignore_counts_in_label_maps(tmp_path: Path) -> None:
    for value, objects in ((9, (1,)), (-1, (1, 9)), (None, (1, 9))):
        root = tmp_path / str(value)
        label_map(numbers(1, 9))(root)
        [sample] = open_segmentation_dataset(root, reading=AnnotationReading(ignore_value=value))
        assert sample.object_ids == objects and (sample.ignored is not None) == (value == 9)


def test_a_label_map_of_an_image_as_stored(tmp_path: Path) -> None:
    rotated(6, (WIDTH, HEIGHT))(tmp_path)
    (tmp_path / "annotations.json").unlink()
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks/a.npy", numbers(1, 2))
    [sample] = open_segmentation_dataset(tmp_path)
    np.testing.assert_array_equal(sample.labels, np.rot90(numbers(1, 2), -1))


def test_the_file_of_another_image(tmp_path: Path) -> None:
    labelme()(tmp_path)
    image(tmp_path / "b.png")
    text(tmp_path / "b.json", json.loads((tmp_path / "a.json").read_text()))  # names a.png
    assert open_segmentation_dataset(tmp_path, skip_bad=True).names == ["a"]


def test_labels_in_another_case_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelme({**TURNED, "label": "Leak"})(tmp_path / "data")
    given = ["--data_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out"), "--labels", "leak"]
    assert prepare(given) == 0 and "objects labelled 'Leak' are left out" in capsys.readouterr().err


def test_parts_by_words_are_no_random_split(tmp_path: Path) -> None:
    for part in ("train2017", "val2017"):
        for number in range(2):
            yolo(f"images/{part}/{number}.jpg", f"labels/{part}/{number}.txt")(tmp_path)
    train, val = open_train_and_val(tmp_path)
    assert train.names == ["train2017/0", "train2017/1"] and val.names == ["val2017/0", "val2017/1"]


def test_no_sample_is_for_training_and_for_validation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for part, number in (("day", 1), ("day", 2), ("night", 3)):
        yolo(f"all/images/{part}/{number}.jpg", f"all/labels/{part}/{number}.txt")(tmp_path)
    (tmp_path / "val").mkdir()
    for folder in ("images", "labels"):
        (tmp_path / "val" / folder).symlink_to(tmp_path / "all" / folder / "night", target_is_directory=True)
    train, val = open_train_and_val(tmp_path / "all", val_path=tmp_path / "val")
    assert train.names == ["day/1", "day/2"] and val.names == ["3"]
    assert "1 samples for training are those for validation, too, and are left out" in caplog.text
    text(tmp_path / "mix.yaml", f"train: [data_dir: {tmp_path / 'all'}]\ntest: {{data_dir: {tmp_path / 'val'}}}")
    train, val = open_train_and_val(tmp_path / "mix.yaml")
    assert train.names == ["all/day/1", "all/day/2"] and val.names == ["3"]
    train, val = open_train_and_val(tmp_path / "all", val_path=tmp_path / "all")
    assert train.names == val.names and "says nothing of others" in caplog.text


def test_sets_of_a_mixture_that_share_images_share_none_with_the_validation(tmp_path: Path) -> None:
    for number in range(4):
        yolo(f"all/images/{number}.jpg", f"all/labels/{number}.txt")(tmp_path)
    for folder, suffix in (("images", "jpg"), ("labels", "txt")):
        (tmp_path / "some" / folder).mkdir(parents=True)
        for number in range(2):
            (tmp_path / f"some/{folder}/{number}.{suffix}").symlink_to(tmp_path / f"all/{folder}/{number}.{suffix}")
    text(tmp_path / "mix.yaml", f"train: [{{data_dir: {tmp_path / 'all'}}}, {{data_dir: {tmp_path / 'some'}}}]")
    for seed in range(4):
        train, val = open_train_and_val(tmp_path / "mix.yaml", seed=seed)
        images = [{name.rpartition("/")[2] for name in part.names} for part in (train, val)]
        assert images[0].isdisjoint(images[1]) and images[0] | images[1] == {"0", "1", "2", "3"}


def test_two_files_that_list_an_image_train_on_it_only_once(tmp_path: Path) -> None:
    for part, images in (("train", "abc"), ("val", "c")):
        listed = [
            {"id": number, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH}
            for number, name in enumerate(images)
        ]
        objects = [{"id": number, "image_id": number, "segmentation": [flat(BOX)]} for number in range(len(images))]
        text(tmp_path / f"annotations/instances_{part}.json", {"images": listed, "annotations": objects})
        for name in images:
            image(tmp_path / f"images/{name}.png")
    train, val = open_train_and_val(tmp_path)
    assert train.names == ["a", "b"] and val.names == ["c"]


def test_a_mixture_has_one_validation_part(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        yolo(f"{folder}/images/{folder}.jpg", f"{folder}/labels/{folder}.txt")(tmp_path)
    text(tmp_path / "mix.yaml", f"train: [data_dir: {tmp_path / 'a'}]")
    train, val = open_train_and_val(tmp_path / "mix.yaml", val_path=tmp_path / "a")
    assert len(train) == len(val) == 1  # which a warning tells, as of folders
    text(tmp_path / "mix.yaml", f"train: [{{data_dir: {tmp_path / 'a'}}}, {{data_dir: {tmp_path / 'b'}}}]")
    train, val = open_train_and_val(tmp_path / "mix.yaml", val_path=tmp_path / "b")
    assert train.names == ["a/a"] and val.names == ["b"]
    text(tmp_path / "mix.yaml", f"train: [data_dir: {tmp_path / 'a'}]\ntest: {{data_dir: {tmp_path / 'b'}}}")
    with pytest.raises(UsageError, match=r"^`val_dir` .*names a test set, which is for validation, too; give one"):
        open_train_and_val(tmp_path / "mix.yaml", val_path=tmp_path / "c")


def test_without_a_split_the_parts_that_are_named_stay_apart(tmp_path: Path) -> None:
    for part in ("train", "val"):
        yolo(f"images/{part}/1.jpg", f"labels/{part}/1.txt")(tmp_path)
    train, val = open_train_and_val(tmp_path, val_fraction=0)
    assert train.names == ["train/1"] and val.names == ["val/1"]
    text(tmp_path / "mix.yaml", f"train: [data_dir: {tmp_path}]\ntest: {{data_dir: {tmp_path}}}")
    assert open_train_and_val(tmp_path / "mix.yaml", val_fraction=0)[1] is not None
    (tmp_path / "images/val").rename(tmp_path / "images/more")
    (tmp_path / "labels/val").rename(tmp_path / "labels/more")
    train, val = open_train_and_val(tmp_path, val_fraction=0)
    assert len(train) == 2 and val is None
