"""Text files of YOLO's segmentation."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thfuse_sam.datasets.segmentation import open_segmentation_dataset
from thfuse_sam.datasets.segmentation.formats.listing import WITHOUT_OBJECTS
from thfuse_sam.datasets.segmentation.formats.objects import UNUSABLE
from thfuse_sam.datasets.segmentation.formats.outlines import CLIPPED, EMPTY, NO_OUTLINE
from thfuse_sam.datasets.segmentation.formats.yolo import read
from thfuse_sam.errors import SampleError
from thfuse_sam.options.shared import AnnotationReading

from ..conftest import HEIGHT, WIDTH, picture, save

Write = Callable[..., Path]
SQUARE = "0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5"


@pytest.fixture
def yolo(tmp_path: Path) -> Callable[..., Path]:
    """yolo({name: text of its file}, part="", yaml=None)."""

    def write(files: dict[str, str], *, part: str = "", yaml: str | None = None) -> Path:
        root = tmp_path / "yolo"
        for name, text in files.items():
            save(root / "images" / part / f"{name}.png", picture())
            path = root / "labels" / part / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if yaml is not None:
            (root / "data.yaml").write_text(yaml)
        return root

    return write


@pytest.mark.parametrize("names", ["[hole, dog]", "{0: hole, 1: dog}"])
def test_polygons_with_class_names(yolo: Write, names: str) -> None:
    root = yolo({"a": f"1 {SQUARE}\n\n0 0 0 1 0 1 0.5\n", "b": f"\ufeff0 {SQUARE}"}, yaml=f"nc: 2\nnames: {names}\n")
    dataset = open_segmentation_dataset(root)
    sample = dataset[0]
    assert dataset.names == ["a", "b"] and sample.categories == {1: "dog", 2: "hole"}
    assert sample.mask(1).sum() == WIDTH * HEIGHT / 16 and sample.mask(1)[6:12, 8:16].all()
    assert open_segmentation_dataset(root, labels=["dog"]).names == ["a"]


@pytest.mark.parametrize("number", ["1.0", "1.000000", "1e0", "+1"])
def test_classes_may_be_written_as_other_numbers_are(yolo: Write, number: str) -> None:
    root = yolo({"a": f"{number} {SQUARE}\n0 {SQUARE}"}, yaml="names: [hole, dog]\n")
    assert open_segmentation_dataset(root, labels=["dog"])[0].categories == {1: "dog"}
    (root / "data.yaml").unlink()
    assert open_segmentation_dataset(root)[0].categories == {1: "1", 2: "0"}


def test_numbers_stand_for_unnamed_classes_in_folders_of_parts(yolo: Write) -> None:
    dataset = open_segmentation_dataset(yolo({"a": f"7 {SQUARE}"}, part="train"))
    assert dataset.names == ["train/a"] and dataset[0].categories == {1: "7"}


def test_images_without_objects_and_outlines_outside(yolo: Write) -> None:
    root = yolo({"a": "0 0.5 0.5 1.1 0.5 1.1 1.1 0.5 1.1", "empty": ""})
    save(root / "images/background.png", picture())
    dataset = open_segmentation_dataset(root)
    assert dataset.names == ["a"] and dataset[0].mask(1).sum() == WIDTH * HEIGHT / 4
    assert dataset.flaws == {CLIPPED: 1, WITHOUT_OBJECTS: 2}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.2 0.2", "is a box without an outline"),
        ("0 0.5 0.5 0.2 0.2 0.1 0.1 0.9", "7 coordinates"),
        ("0 20 20 40 20 40 40", "no fraction"),
        ("0 a b c d e f", "could not convert"),
        ("0 nan 0 1 0 1 1", "no fraction"),
    ],
)
def test_bad_lines_are_named_or_left_out(yolo: Write, line: str, reason: str) -> None:
    root = yolo({"a": f"0 {SQUARE}\n{line}", "b": line})
    with pytest.raises(SampleError, match=rf"2 of 2 bad: .*a\.txt: line 2: .*{reason}"):
        open_segmentation_dataset(root)
    dataset = open_segmentation_dataset(root, skip_bad=True)
    assert dataset.names == ["a"] and dataset[0].object_ids == (1,)


def test_files_of_no_image_are_named(yolo: Write) -> None:
    root = yolo({"a": f"0 {SQUARE}"})
    (root / "labels/lost.txt").write_text(f"0 {SQUARE}")
    (root / "labels/classes.txt").write_text("hole\n")
    with pytest.raises(SampleError, match=r"1 of 2 bad: .*lost\.txt: no image of the same name"):
        open_segmentation_dataset(root)


def test_files_beside_images(yolo: Write) -> None:
    root = yolo({"a": f"0 {SQUARE}"})
    for path in (root / "images/a.png", root / "labels/a.txt"):
        path.rename(root / path.name)
        path.parent.rmdir()
    assert open_segmentation_dataset(root).names == ["a"]


NUMBERS = st.floats(0, 1).map(lambda value: f"{value:.4f}") | st.sampled_from(["-0.1", "1.5", "nan", "7", "x", "1e999"])


@settings(max_examples=60)
@given(st.lists(st.lists(NUMBERS, max_size=9), min_size=1, max_size=3))
def test_any_lines_make_objects_or_flaws(lines: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image, file = save(Path(folder) / "a.png", picture()), Path(folder) / "a.txt"
        file.write_text("\n".join(f"0 {' '.join(words)}" for words in lines))
        sample = read("a", image, file, {}, AnnotationReading())
    left_out = [flaw for flaw in sample.flaws if flaw.reason in (EMPTY, NO_OUTLINE, UNUSABLE)]
    assert len(sample.object_ids) + len(left_out) == len(lines)
    assert all(sample.mask(number).any() for number in sample.object_ids)
