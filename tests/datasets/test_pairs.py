import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from thfuse_sam.datasets.layouts import LAYOUTS, accepted_layouts
from thfuse_sam.datasets.named_images import list_images
from thfuse_sam.datasets.pair_checks import read_pair, require_partners, unusable_pairs
from thfuse_sam.datasets.pairs import find_images, find_pairs
from thfuse_sam.errors import PairError

MakePairs = Callable[..., Path]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(dataset: Path) -> list[str]:
    return [pair.name for pair in find_pairs(dataset).pairs]


def link_or_skip(link: Path, target: Path, directory: bool = False) -> None:
    try:
        link.symlink_to(target, target_is_directory=directory)
    except OSError:
        pytest.skip("no permission for links here")


# Layouts


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.ir}+{layout.vi}")
@pytest.mark.parametrize("change", [str, str.upper, str.capitalize])
def test_modality_folders_on_top(tmp_path: Path, layout: object, change: Callable[[str], str]) -> None:
    ir, vi = tmp_path / change(layout.ir), tmp_path / change(layout.vi)  # type: ignore[attr-defined]
    touch(ir / "a" / "0001.png", vi / "a" / "0001.jpg")
    found = find_pairs(tmp_path)
    assert (found.ir_dir, found.vi_dir) == (ir, vi)
    assert [(pair.name, pair.ir, pair.vi) for pair in found.pairs] == [
        ("a/0001", ir / "a" / "0001.png", vi / "a" / "0001.jpg")
    ]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            ["set00/V000/{lwir,visible}/I00000.jpg", "set01/V002/{lwir,visible}/I00000.jpg"],
            ["set00/V000/I00000", "set01/V002/I00000"],
        ),
        (["{lwir,visible}/set00/V000/I00000.jpg"], ["set00/V000/I00000"]),
        (["{infrared,visible}/train/1.jpg", "{infrared,visible}/test/1.jpg"], ["test/1", "train/1"]),
        (["train/{infrared,visible}/1.jpg"], ["train/1"]),
        (["{Ir,Vis}/00000.png"], ["00000"]),
        (["{cropinfrared,crop_LR_visible}/FLIR_00006.jpg"], ["FLIR_00006"]),
        (["train/{ir,vi}/1D.png", "test/{ir,vi}/2N.png"], ["test/2N", "train/1D"]),
        (["MSRS/train/{IR,VI}/1D.png", "MSRS/test/{ir,vi}/2N.png"], ["MSRS/test/2N", "MSRS/train/1D"]),
        (["day/{ir,vi}/deep/1.png"], ["day/deep/1"]),
        (["{ir,rgb}/1.tiff"], ["1"]),
        (["{thermal,rgb}/1.BMP"], ["1"]),
        (["{T,RGB}/1.jpg"], ["1"]),
        (["Day/{FIR,Visible}/Train/FramesPos/1.png"], ["Day/Train/FramesPos/1"]),
        (["train/{trainimgr,trainimg}/00001.jpg"], ["train/00001"]),
        (["BlackCar/{i,v}/00001i.png"], ["BlackCar/00001i"]),
    ],
    ids=lambda value: value[0] if "{" in value[0] else "",
)
def test_data_sets_as_published(tmp_path: Path, files: list[str], expected: list[str]) -> None:
    for pattern in files:
        before, rest = pattern.split("{")
        folders, after = rest.split("}")
        touch(*(tmp_path / f"{before}{folder}{after}" for folder in folders.split(",")))
    assert names(tmp_path) == expected


def test_parts_for_tests_beside_one_for_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for part in ("train", "val", "test"):
        touch(*(tmp_path / part / f"{part}{kind}" / "1.jpg" for kind in ("imgr", "img")))
    assert names(tmp_path) == ["train/1"]
    assert "testimgr, valimgr are for validation or tests, and are left out" in caplog.text
    caplog.clear()
    assert names(tmp_path / "val") == ["1"] and not caplog.text


def test_nested_images_carry_their_own_modality(tmp_path: Path) -> None:
    touch(tmp_path / "set00" / "lwir" / "1.jpg", tmp_path / "set00" / "visible" / "1.png")
    found = find_pairs(tmp_path)
    assert found.ir_dir == tmp_path / "**" / "lwir"
    assert found.pairs[0].ir == tmp_path / "set00" / "lwir" / "1.jpg"
    assert found.pairs[0].vi == tmp_path / "set00" / "visible" / "1.png"
    assert list_images(found.vi_dir) == {"set00/1": tmp_path / "set00" / "visible" / "1.png"}


def test_other_folders_and_files_are_ignored(tmp_path: Path) -> None:
    touch(tmp_path / "ir" / "1.png", tmp_path / "vi" / "1.png", tmp_path / "Annotations" / "1.png")
    touch(tmp_path / "ir" / "1.txt", tmp_path / "ir" / ".2.png", tmp_path / "ir" / ".cache" / "3.png")
    touch(tmp_path / "vi" / ".2.png.123.partial", tmp_path / "vi" / "Thumbs.db", tmp_path / "vi" / "noise")
    found = find_pairs(tmp_path)
    assert [pair.name for pair in found.pairs] == ["1"]
    assert found.unpaired == []


def test_unknown_layout_lists_what_is_there_and_what_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "left").mkdir()
    (tmp_path / "right").mkdir()
    with pytest.raises(PairError) as caught:
        find_pairs(tmp_path)
    message = str(caught.value)
    for part in ("left, right", accepted_layouts(), "`ir_dir` and `vi_dir`", str(tmp_path)):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "folders",
    [("ir", "vi", "rgb"), ("ir", "infrared", "visible"), ("a/ir", "a/vi", "b/lwir", "b/visible")],
)
def test_two_layouts_are_not_guessed(tmp_path: Path, folders: tuple[str, ...]) -> None:
    touch(*(tmp_path / folder / "1.png" for folder in folders))
    with pytest.raises(PairError, match="more than one layout fits"):
        find_pairs(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows takes both names for one folder")
def test_exact_folder_name_comes_first(tmp_path: Path) -> None:
    touch(tmp_path / "IR" / "other.png", tmp_path / "ir" / "1.png", tmp_path / "vi" / "1.png")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("the file system ignores case")
    assert names(tmp_path) == ["1"]


# Which options


def test_two_folders_by_name(make_pairs: MakePairs) -> None:
    root = make_pairs(ir="left", vi="right")
    found = find_pairs(Path("unused"), ir_dir=root / "left", vi_dir=root / "right")
    assert [pair.name for pair in found.pairs] == ["0001", "0002"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give `dataset_path`, or `ir_dir` and `vi_dir`"),
        ({"ir_dir": "ir"}, "`ir_dir` .*ir is given without `vi_dir`"),
        ({"vi_dir": "vi", "dataset_path": ""}, "`vi_dir` .*vi is given without `ir_dir`"),
        ({"ir_dir": "ir", "vi_dir": "ir"}, "are the same folder"),
        ({"ir_dir": "ir", "vi_dir": "gone"}, "`vi_dir` .*gone: no such folder"),
        ({"ir_dir": "ir/0001.png", "vi_dir": "vi"}, "`ir_dir` .*0001.png: is a file"),
        ({"dataset_path": "gone"}, "`dataset_path` .*gone: no such folder"),
        ({"dataset_path": "ir/0001.png"}, "`dataset_path` .*0001.png: is a file"),
        ({"ir_dir": "ir.MP4", "vi_dir": "vi"}, "`ir_dir` .*ir.MP4: is a video"),
        ({"dataset_path": "ir"}, "no infrared and visible folder; found no folders"),
    ],
)
def test_wrong_folders(make_pairs: MakePairs, options: dict[str, str], message: str) -> None:
    root = make_pairs()
    (root / "ir.MP4").touch()
    with pytest.raises(PairError, match=message) as caught:
        find_pairs(**{name: root / value for name, value in options.items()})
    assert caught.value.exit_status == 2 and "\n" not in str(caught.value)


# Matching


def test_pairs_are_sorted_and_suffixes_may_differ(make_pairs: MakePairs) -> None:
    root = make_pairs(("b/2", "a.v2", "a.v1", "夜 é/1"), ir_suffix=".TIFF", vi_suffix=".jpg")
    assert names(root) == sorted(["b/2", "a.v2", "a.v1", "夜 é/1"])


def test_images_without_partner_are_reported(make_pairs: MakePairs) -> None:
    root = make_pairs(("1", "2", "3"))
    (root / "ir" / "1.png").unlink()
    (root / "vi" / "3.png").unlink()
    found = find_pairs(root)
    assert [pair.name for pair in found.pairs] == ["2"]
    assert found.unpaired_ir == {"3": root / "ir" / "3.png"}
    assert found.unpaired_vi == {"1": root / "vi" / "1.png"}


def test_no_pair_shows_names_from_both_sides(tmp_path: Path) -> None:
    touch(tmp_path / "ir" / "FLIR_1.png", tmp_path / "vi" / "photo_1.png")
    with pytest.raises(PairError) as caught:
        find_pairs(tmp_path)
    assert "'FLIR_1'" in str(caught.value) and "'photo_1'" in str(caught.value)


def test_no_image(tmp_path: Path) -> None:
    (tmp_path / "ir").mkdir()
    touch(tmp_path / "vi" / "1.png")
    with pytest.raises(PairError, match=r"no image found in .*ir .*\.png"):
        find_pairs(tmp_path)


@pytest.mark.parametrize("modality", ["ir", "vi"])
def test_collision_names_both_files(make_pairs: MakePairs, modality: str) -> None:
    root = make_pairs(("a/1",))
    other = root / modality / "a" / "1.jpg"
    touch(other)
    with pytest.raises(PairError) as caught:
        find_pairs(root)
    assert str(other) in str(caught.value) and str(other.with_suffix(".png")) in str(caught.value)


def test_collision_across_nested_folders(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "ir" / "b" / "1.png", tmp_path / "a" / "b" / "ir" / "1.png")
    touch(tmp_path / "a" / "vi" / "b" / "1.png")
    with pytest.raises(PairError, match="two images are named 'a/b/1'"):
        find_pairs(tmp_path)


def test_composed_and_decomposed_accents_match(tmp_path: Path) -> None:
    touch(tmp_path / "ir" / f"{unicodedata.normalize('NFC', 'é')}.png")
    touch(tmp_path / "vi" / f"{unicodedata.normalize('NFD', 'é')}.png")
    assert names(tmp_path) == [unicodedata.normalize("NFC", "é")]


@pytest.mark.skipif(os.name == "nt", reason="Windows names are Unicode")
def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    try:
        touch(tmp_path / "ir" / os.fsdecode(b"\xff.png"), tmp_path / "vi" / "1.png")
    except OSError:
        pytest.skip("the file system takes no such names")
    with pytest.raises(PairError, match="is not UTF-8") as caught:
        find_pairs(tmp_path)
    str(caught.value).encode("utf-8")


# Links


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    touch(data / "far" / "1.png", data / "vi" / "1.png", data / "elsewhere.png")
    root = tmp_path / "set"
    root.mkdir()
    link_or_skip(root / "ir", data / "far", directory=True)
    (root / "vi").mkdir()
    link_or_skip(root / "vi" / "1.png", data / "vi" / "1.png")
    link_or_skip(root / "vi" / "dangling.png", data / "gone.png")
    found = find_pairs(root)
    assert [pair.name for pair in found.pairs] == ["1"]
    assert found.unpaired_vi == {"dangling": root / "vi" / "dangling.png"}  # an image that is lost is no image less


def test_link_back_up_ends(tmp_path: Path) -> None:
    touch(tmp_path / "ir" / "a" / "1.png", tmp_path / "vi" / "a" / "1.png")
    link_or_skip(tmp_path / "ir" / "a" / "again", tmp_path / "ir", directory=True)
    assert names(tmp_path) == ["a/1"]


# One modality, sizes


def test_find_images_with_and_without_partner(make_pairs: MakePairs) -> None:
    root = make_pairs(("1", "2"))
    (root / "vi" / "1.png").unlink()
    assert list(find_images(root, modality="ir").images) == ["1", "2"]
    assert find_images(root, modality="vi").images == {"2": root / "vi" / "2.png"}
    only_ir = find_images(ir_dir=root / "ir", modality="ir")
    assert only_ir.folder == root / "ir" and len(only_ir.images) == 2
    with pytest.raises(PairError, match="without `vi_dir`"):
        find_images(ir_dir=root / "ir", modality="vi")


def test_pairs_that_headers_tell_to_be_unusable(make_pairs: MakePairs) -> None:
    root = make_pairs(("1", "2", "3"), size=(32, 48))
    make_pairs(("1",), size=(48, 32), root=root.parent / "other")
    (root.parent / "other" / "vi" / "1.png").replace(root / "vi" / "1.png")
    (root / "ir" / "3.png").write_bytes(b"x")
    lines = list(unusable_pairs(find_pairs(root).pairs).values())
    assert len(lines) == 2
    assert "'1'" in lines[0] and "48x32" in lines[0] and "32x48" in lines[0]
    assert str(root / "ir" / "3.png") in lines[1]


def test_an_image_without_partner_is_named(make_pairs: MakePairs) -> None:
    root = make_pairs(("a", "b", "c"))
    require_partners(find_pairs(root))
    (root / "vi" / "b.png").unlink()
    (root / "ir" / "c.png").unlink()
    with pytest.raises(PairError, match=r"b\.png has no partner in .*vi \(and 1 more\)"):
        require_partners(find_pairs(root))


def test_broken_and_unequal_images_are_found(make_pairs: MakePairs, tmp_path: Path) -> None:
    root = make_pairs(("a", "b", "c"))
    broken = root / "ir" / "a.png"
    broken.write_bytes(broken.read_bytes()[:-60])
    larger = make_pairs(("c",), size=(40, 48), root=tmp_path / "larger")
    (larger / "vi" / "c.png").replace(root / "vi" / "c.png")
    found = unusable_pairs(find_pairs(root).pairs, read_pair)
    assert set(found) == {"a", "c"}
    assert "a.png" in found["a"] and "48x32" in found["c"]
