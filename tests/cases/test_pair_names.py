"""How files become pairs: names that differ, both modalities in one folder, pairs that are named one by one."""

import io
import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from thfuse_sam.commands.fuse import fuse
from thfuse_sam.commands.inputs import find_command_pairs, warn_if_odd
from thfuse_sam.commands.precompute import plan_masks
from thfuse_sam.commands.precompute_images import images_by_modality
from thfuse_sam.datasets.listed import STANDARD_INPUT, pairs_of_files, pairs_of_table
from thfuse_sam.datasets.naming import Naming, likely_naming
from thfuse_sam.datasets.pair_checks import require_partners, unusable_pairs
from thfuse_sam.datasets.pairs import ImagePair, find_images, find_pairs
from thfuse_sam.errors import OptionError, PairError, UsageError
from thfuse_sam.false_colour import colour_table
from thfuse_sam.images import image_form, read_stored_pixels, write_image
from thfuse_sam.masks.source_images import find_image
from thfuse_sam.options.fuse import FuseOptions
from thfuse_sam.options.precompute import PrecomputeOptions
from thfuse_sam.options.shared import PairOptions

RANDOM = np.random.default_rng(0)


def make(*paths: Path) -> None:
    for path in paths:
        write_image(path, RANDOM.integers(0, 255, (32, 48), dtype=np.uint8))


def pair_names(pairs: list[ImagePair]) -> dict[str, tuple[str, str]]:
    return {pair.name: (pair.ir.name, pair.vi.name) for pair in pairs}


@pytest.mark.parametrize(
    ("ir", "vi"),
    [
        ("IR{}", "VIS{}"),
        ("IR_{}", "VIS_{}"),
        ("{}_ir", "{}_vis"),
        ("{}-thermal", "{}-rgb"),
        ("FLIR_{}_PreviewData", "FLIR_{}_RGB"),
        ("DJI_{}_T", "DJI_{}_W"),
        ("{}i", "{}v"),
        ("{}_ir", "{}_co"),
        ("{}_ir", "{}"),
        ("IRX_{}", "MAX_{}"),
        ("frame_ir_{}", "frame_vis_{}"),
        ("cam1-{}-thermal", "cam1-{}-rgb"),
        ("thermal_{}", "visual_{}"),
        ("{}_ir", "{}_eo"),
    ],
)
@pytest.mark.parametrize("in_one_folder", [False, True])
def test_names_in_common_use(tmp_path: Path, ir: str, vi: str, in_one_folder: bool) -> None:
    folders = (tmp_path / "all", tmp_path / "all") if in_one_folder else (tmp_path / "ir", tmp_path / "vi")
    scenes = ["1", "2", "10"]
    for scene in scenes:
        make(folders[0] / f"{ir.format(scene)}.png", folders[1] / f"{vi.format(scene)}.png")
    by_folders = find_pairs(ir_dir=folders[0], vi_dir=folders[1])
    for found in (by_folders, find_pairs(tmp_path / "all" if in_one_folder else tmp_path)):
        require_partners(found)
        assert sorted((pair.ir.stem, pair.vi.stem) for pair in found.pairs) == sorted(
            (ir.format(scene), vi.format(scene)) for scene in scenes
        )
    # Masks are made under the same names, and their images are found again.
    for modality, folder in zip(("ir", "vi"), (by_folders.ir_dir, by_folders.vi_dir), strict=True):
        images = find_images(ir_dir=folders[0], vi_dir=folders[1], modality=modality)  # type: ignore[arg-type]
        assert sorted(images.images) == sorted(pair.name for pair in found.pairs) and images.folder == folder
        for name, path in images.images.items():
            assert find_image(folder.resolve(), name) == path.resolve()


def test_equal_names_come_first(tmp_path: Path) -> None:
    for folder in ("ir", "vi"):
        make(tmp_path / folder / "scene_ir.png", tmp_path / folder / "a" / "scene_vis.png")
    assert sorted(pair_names(find_pairs(tmp_path).pairs)) == ["a/scene_vis", "scene_ir"]


def test_a_pattern_that_is_given(tmp_path: Path) -> None:
    for scene in ("day/01", "day/02"):
        make(tmp_path / "left" / f"{scene}x7.png", tmp_path / "right" / f"{scene}y8.png")
    folders = {"ir_dir": tmp_path / "left", "vi_dir": tmp_path / "right"}
    with pytest.raises(PairError, match=r"pair_pattern` '\{name\}x7' '\{name\}y8'"):
        find_command_pairs(None, PairOptions(**folders))
    found = find_command_pairs(None, PairOptions(pair_pattern=("{name}x7", "{name}y8"), **folders))
    assert pair_names(found.pairs) == {"day/01": ("01x7.png", "01y8.png"), "day/02": ("02x7.png", "02y8.png")}
    with pytest.raises(OptionError, match="pair_pattern"):
        PairOptions(pair_pattern=("{name}_ir", "vi"))


def test_unpaired_images_propose_a_pattern(tmp_path: Path) -> None:
    make(tmp_path / "ir" / "same.png", tmp_path / "vi" / "same.png")
    for scene in ("01", "02"):
        make(tmp_path / "ir" / f"{scene}_ir.png", tmp_path / "vi" / f"{scene}_vi.png")
    with pytest.raises(PairError, match=r"pair_pattern` '\{name\}_ir' '\{name\}_vi' 2 of them"):
        require_partners(find_pairs(tmp_path))


def test_a_partner_of_a_suffix_that_is_not_read_is_named(tmp_path: Path) -> None:
    make(tmp_path / "ir" / "a.png", tmp_path / "vi" / "a.png", tmp_path / "ir" / "b.png")
    Image.new("L", (48, 32)).save(tmp_path / "vi" / "b.gif")
    with pytest.raises(PairError, match=r"b\.gif has a suffix that is not read"):
        require_partners(find_pairs(tmp_path))


def test_unrelated_names_propose_nothing(tmp_path: Path) -> None:
    make(tmp_path / "ir" / "cat.png", tmp_path / "ir" / "dog.png", tmp_path / "vi" / "sun.png")
    with pytest.raises(PairError) as caught:
        find_pairs(tmp_path)
    assert "pair_pattern" not in str(caught.value)
    with pytest.raises(PairError, match="same folder"):
        find_pairs(ir_dir=tmp_path / "ir", vi_dir=tmp_path / "ir")


@example(["2", "3", "4", "5", "0_", "1_", "20", "00_"], "IR{name}", "VIS{name}")
@given(
    st.lists(st.text("abcxyz0123456789_", min_size=1, max_size=8), min_size=2, max_size=8, unique=True),
    st.sampled_from(["IR{name}", "{name}_ir", "thermal-{name}"]),
    st.sampled_from(["VIS{name}", "{name}_vi", "rgb-{name}"]),
)
def test_any_scenes_are_paired_by_usual_words(scenes: list[str], ir: str, vi: str) -> None:
    ir_names, vi_names = ([pattern.replace("{name}", scene) for scene in scenes] for pattern in (ir, vi))
    naming = likely_naming(ir_names, vi_names)
    if naming is not None:
        assert naming.pairs(ir_names, vi_names) >= Naming(ir, vi).pairs(ir_names, vi_names) // 2


# Pairs that are named one by one


@pytest.mark.parametrize("seed", ["0", "2"])  # of hashes; without a rule one chose the first, one the second
def test_the_choice_between_two_visible_images_is_always_the_same(seed: str) -> None:
    code = (
        "from thfuse_sam.datasets.naming import likely_naming as f;"
        "print(f(['1_ir', '2_ir'], ['1_rgb', '2_rgb', '1_vis', '2_vis']).vi)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == "{name}_vis\n"


@pytest.mark.parametrize("report", [None, True])
def test_one_pair_into_one_file(tmp_path: Path, report: bool | None) -> None:
    make(tmp_path / "a.png", tmp_path / "b.jpg")
    output = tmp_path / "new" / "fused.png"
    options = FuseOptions(
        ir=(str(tmp_path / "a.png"),),
        vi=(str(tmp_path / "b.jpg"),),
        output_dir=output,
        precomputed_masks_dir=Path("none"),
        device="cpu",
        report=report,
    )
    assert fuse(options).fused == [output]
    assert {path.name for path in output.parent.iterdir()} == {"fused.png", *(["report"] if report else [])}
    with Image.open(output) as image:
        assert image.format == "PNG" and image.size == (48, 32)


def test_globs(tmp_path: Path) -> None:
    for scene in ("1", "2", "10"):
        make(tmp_path / f"{scene}_ir.png", tmp_path / "other" / f"{scene}_vi.png")
    found = pairs_of_files([str(tmp_path / "*_ir.png")], [str(tmp_path / "other" / "*.png")])
    assert pair_names(found.pairs) == {scene: (f"{scene}_ir.png", f"{scene}_vi.png") for scene in ("1", "2", "10")}
    assert found.given == {"ir_dir": tmp_path, "vi_dir": tmp_path / "other"}
    with pytest.raises(PairError, match="no such file"):
        pairs_of_files([str(tmp_path / "*.bmp")], [str(tmp_path / "other" / "*.png")])
    with pytest.raises(PairError, match="names 1 files and `vi` 3"):
        pairs_of_files([str(tmp_path / "1_ir.png")], [str(tmp_path / "other" / "*.png")])


@pytest.mark.parametrize("header", ["", "ir,vi,name\n", "name,vi,ir\n"])
def test_a_table(tmp_path: Path, header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "x.png", tmp_path / "y.png", tmp_path / "p_ir.png", tmp_path / "p_vi.png")
    rows = [["x.png", "y.png", "night/1"], ["p_ir.png", "p_vi.png", ""]]
    lines = [",".join(row[::-1] if header.startswith("name") else row) for row in rows]
    (tmp_path / "pairs.csv").write_text("\ufeff" + header + "\n".join(lines) + "\n", encoding="utf-8")
    expected = {"night/1": ("x.png", "y.png"), "p": ("p_ir.png", "p_vi.png")}
    found = pairs_of_table(tmp_path / "pairs.csv")
    assert pair_names(found.pairs) == expected and not found.given  # of one folder no command finds the pairs again
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(header + "\n".join(lines)))
    assert pair_names(pairs_of_table(STANDARD_INPUT).pairs) == expected


@pytest.mark.parametrize(
    "text",
    ["", "x.png\n", "x.png,y.png,../up\n", "x.png,y.png,/abs\n", "x.png,gone.png\n", "x.png,y.png,a,b\n",
     "x.png,y.png,a\nx.png,y.png,a\n", "x" * 140_000],
)  # fmt: skip
def test_wrong_tables(tmp_path: Path, text: str) -> None:
    make(tmp_path / "x.png", tmp_path / "y.png")
    path = tmp_path / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PairError) as caught:
        pairs_of_table(path)
    assert "\n" not in str(caught.value)


def test_a_table_names_its_row_or_why_it_cannot_be_read(tmp_path: Path) -> None:
    make(tmp_path / "x.png", tmp_path / "y.png")
    path = tmp_path / "pairs.csv"
    path.write_text("x.png,y.png\nx.png,gone.png,a\n", encoding="utf-8")
    with pytest.raises(PairError, match=r"^`pairs` \S+pairs.csv: row 2: no file \S+gone.png; paths count from"):
        pairs_of_table(path)
    path.write_bytes(b"\x89PNG")
    with pytest.raises(PairError, match=r"^`pairs` \S+pairs.csv: no CSV text in UTF-8; give a CSV file"):
        pairs_of_table(path)
    with pytest.raises(PairError, match=r"^`pairs` \S+none.csv: No such file or directory; give"):
        pairs_of_table(tmp_path / "none.csv")


def test_rows_whose_files_are_missing_are_left_out_as_bad_pairs_are(tmp_path: Path) -> None:
    make(tmp_path / "x.png", tmp_path / "y.png")
    (tmp_path / "pairs.csv").write_text("none.png,y.png\nx.png,y.png\nx.png,gone.png,a\nno.png,nor.png\n")
    options = FuseOptions(
        pairs=tmp_path / "pairs.csv", skip_bad=True, output_dir=tmp_path / "out", report=False, device="cpu"
    )
    report = fuse(options)
    assert [path.name for path in report.fused] == ["x.png"] and report.failures.keys() == {"none", "a", "no"}
    assert all(re.search(r"(none|gone|no)\.png: no such file", reason) for reason in report.failures.values())


def test_pairs_are_named_in_one_way(tmp_path: Path) -> None:
    make(tmp_path / "x.png", tmp_path / "y.png")
    named = {"ir": (str(tmp_path / "x.png"),), "vi": (str(tmp_path / "y.png"),)}
    with pytest.raises(UsageError, match="named twice"):
        fuse(FuseOptions(dataset_path=tmp_path, output_dir=tmp_path / "out", **named))  # type: ignore[arg-type]
    make(tmp_path / "set" / "ir" / "1.png", tmp_path / "set" / "vi" / "1.png")
    make(tmp_path / "set" / "ir" / "2.png", tmp_path / "set" / "vi" / "2.png")
    with pytest.raises(OptionError, match="one file for 2 pairs"):
        fuse(FuseOptions(dataset_path=tmp_path / "set", output_dir=tmp_path / "out.png"))


def test_masks_of_one_folder(tmp_path: Path) -> None:
    make(*(tmp_path / "tno" / f"{word}{number}.png" for word in ("IR", "VIS") for number in (1, 2)))
    (facts,) = plan_masks(
        PrecomputeOptions(dataset_path=tmp_path / "tno", sam_model_type="vit_nano", output_dir=tmp_path / "masks")
    )
    assert facts["images"] == "4 (2 ir, 2 vi)"
    found = find_command_pairs(tmp_path / "tno", PairOptions(dataset_path=tmp_path / "tno"))
    assert sorted(pair_names(found.pairs)) == ["1", "2"]


def test_images_of_formats_that_are_not_read_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "ir/1.png", tmp_path / "vi/1.png")
    (tmp_path / "ir/2.pgm").touch()
    assert len(find_pairs(tmp_path).pairs) == 1
    assert "1 images of formats that are not read" in caplog.text and "2.pgm" in caplog.text


def test_both_modalities_in_folders_below(tmp_path: Path) -> None:
    make(*(tmp_path / f"{scene}/{word}_{scene}.png" for scene in ("helicopter", "smoke") for word in ("IR", "VIS")))
    assert pair_names(find_pairs(tmp_path).pairs) == {
        f"{scene}/{scene}": (f"IR_{scene}.png", f"VIS_{scene}.png") for scene in ("helicopter", "smoke")
    }


@pytest.mark.parametrize(
    ("ir", "vi"),
    [
        ("Train_ir", "Train_vi"),
        ("IR_images", "VIS_images"),
        ("inf", "vis"),
        ("images_thermal_train", "images_rgb_train"),
    ],
)
def test_folders_told_apart_by_words(tmp_path: Path, ir: str, vi: str) -> None:
    make(tmp_path / ir / "1.png", tmp_path / vi / "1.png", tmp_path / "Labels" / "1.png")
    found = find_pairs(tmp_path)
    assert [(pair.ir.parent.name, pair.vi.parent.name) for pair in found.pairs] == [(ir, vi)]
    make(tmp_path / ir.replace("rain", "est") / "1.png", tmp_path / vi.replace("rain", "est") / "1.png")
    if "rain" in ir:
        with pytest.raises(PairError, match="more than one layout"):
            find_pairs(tmp_path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("images/{ir,vi}/1;masks_{ir,vi}/1", "images/1"),
        ("Part I/{ir,vi}/1;Part V/{ir,vi}/2", "Part I/1;Part V/2"),
        ("set_t/{ir,vi}/1;set_v/{ir,vi}/2", "set_t/1;set_v/2"),
        ("train/{ir,vi}/1;other/{ir_labels,vi_labels}/1", "train/1"),
        ("train/{ir,vi}/1;runs/fused_{ir,vi}/", "train/1"),
        ("1_{ir,vi};fused_{ir,vi}/", "1"),
        ("1_{ir,vi};cam_{ir,vi}/7", "1"),
        ("a/cam_{ir,vi}/1;b/cam_{ir,vi}/2", "a/1;b/2"),
        ("cam_{ir,vi}/1;cam_{ir,vi}_masks/1;old_{ir,vi}/", "1"),
        *((f"{name}_{{ir,vi}}/1", None) for name in ("masks", "fused", "results", "labels")),
        ("set_{t,v}/1", None),
        ("cam_{ir,vi}/", None),
    ],
)
def test_words_of_folders_are_the_last_resort(tmp_path: Path, files: str, expected: str | None) -> None:
    for pattern in files.split(";"):
        before, words, after = re.split("[{}]", pattern)
        for word in words.split(","):
            path = tmp_path / f"{before}{word}{after}"
            path.mkdir(parents=True) if after == "/" else make(path.with_name(f"{path.name}.png"))
    if expected is None:
        with pytest.raises(PairError, match="no infrared and visible folder"):
            find_pairs(tmp_path)
    else:
        assert sorted(pair_names(find_pairs(tmp_path).pairs)) == expected.split(";")


def test_a_pattern_beside_words_of_folders(tmp_path: Path) -> None:
    make(tmp_path / "cam_ir/1_a.png", tmp_path / "cam_vi/1_b.png")
    assert sorted(pair_names(find_pairs(tmp_path, naming=Naming("{name}_a", "{name}_b")).pairs)) == ["1"]


def test_many_folders_of_scenes_are_searched_at_once(tmp_path: Path) -> None:
    def seconds(scenes: int) -> float:
        root = tmp_path / f"{scenes}"
        for number in range(scenes):
            (root / f"scene_{number}").mkdir(parents=True)
        make(root / "cam_ir/1.png", root / "cam_vi/1.png")
        start = time.process_time()
        assert len(find_pairs(root).pairs) == 1
        return time.process_time() - start

    few, many = seconds(300), seconds(3000)
    assert many < 30 * few  # a comparison of each with each takes a hundred times as long


def test_what_systems_keep_is_no_image(tmp_path: Path) -> None:
    for folder in ("ir", "vi"):
        make(*(tmp_path / folder / name for name in ("1.png", "@eaDir/1.png/THUMB.jpg", "#recycle/2.png", "._1.png")))
        make(tmp_path / folder / "$RECYCLE.BIN" / "$R1.png")
    assert sorted(pair_names(find_pairs(tmp_path).pairs)) == ["1"]


def test_pictures_of_reports_are_no_images(tmp_path: Path) -> None:
    make(*(tmp_path / name for name in ("01_ir.png", "01_vi.png", "01.png")))
    make(*(tmp_path / "a" / "report" / "pictures" / name for name in ("00001_ir.png", "00001_vi.png")))
    (tmp_path / "a" / "report" / "index.html").touch()
    assert list(pair_names(find_pairs(tmp_path).pairs)) == ["01"]
    make(*(tmp_path / "b" / "report" / "pictures" / name for name in ("2_ir.png", "2_vi.png")))  # a user's own
    assert len(find_pairs(tmp_path).pairs) == 2


def test_links_that_lead_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in ("ir", "vi"):
        make(tmp_path / folder / "1.png")
        (tmp_path / folder / "2.png").symlink_to("/nowhere/2.png")
        (tmp_path / folder / "night").symlink_to("/nowhere/night")
    found = find_pairs(tmp_path)
    assert sorted(pair_names(found.pairs)) == ["1", "2"]
    assert "2.png: no such file" in unusable_pairs(found.pairs)["2"]
    assert caplog.text.count("1 links that lead nowhere") == 2 and "night" in caplog.text


def test_a_third_image_of_each_scene_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(*(tmp_path / f"DJI_{number}_{camera}.png" for number in (1, 2) for camera in "TWZ"))
    assert len(find_pairs(tmp_path).pairs) == 2
    assert "left out: 2 images named neither {name}_T nor {name}_W" in caplog.text and "DJI_1_Z.png" in caplog.text


@pytest.mark.parametrize(
    "files",
    [("ir/1.png", "vi/1.png", "ir/scene one.png", "vi/Scene One.png"),
     ("1_thermal.png", "1_rgb.png", "scene one_thermal.png", "Scene One_rgb.png")],
)  # fmt: skip
def test_names_that_differ_in_their_case_only_are_told(tmp_path: Path, files: tuple[str, ...]) -> None:
    make(*(tmp_path / file for file in files))
    with pytest.raises(PairError, match="but for upper and lower case in their names 1 of them would be pairs"):
        require_partners(find_pairs(tmp_path))


@pytest.mark.parametrize(
    ("ir", "vi"),
    [("vi/1.png", "ir/1.png"), ("test_vis/1.png", "test_ir/1.png"), ("1_rgb.png", "1_thermal.png"),
     ("LLVIP/visible/test/1.png", "LLVIP/infrared/test/1.png")],
)  # fmt: skip
def test_swapped_names_are_asked_about(tmp_path: Path, ir: str, vi: str, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / ir, tmp_path / vi)
    warn_if_odd([ImagePair("1", tmp_path / ir, tmp_path / vi)])
    assert "folder swapped?" in caplog.text
    caplog.clear()
    warn_if_odd([ImagePair("1", tmp_path / vi, tmp_path / ir)])
    assert not caplog.text


@pytest.mark.parametrize(
    ("ir", "vi", "said"), [("a.tif", "b.png", "swapped?"), ("c.tif", "d.png", "holds 3 frames"), ("b.png", "a.tif", ""),
                           ("a.tif", "d.png", ""), ("a.tif", "e.png", "drawn in false colours")],
)  # fmt: skip
def test_what_the_form_of_images_says(
    tmp_path: Path, ir: str, vi: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    grey = RANDOM.integers(0, 255, (32, 48), dtype=np.uint8)
    write_image(tmp_path / "a.tif", 255 - grey)
    Image.fromarray(grey.astype(np.uint16) * 200).save(tmp_path / "b.png")
    Image.fromarray(grey).save(tmp_path / "c.tif", save_all=True, append_images=[Image.fromarray(grey)] * 2)
    write_image(tmp_path / "d.png", RANDOM.integers(0, 255, (32, 48, 3), dtype=np.uint8))
    write_image(tmp_path / "e.png", colour_table("jet")[grey])
    warn_if_odd([ImagePair("1", tmp_path / ir, tmp_path / vi)])
    assert said in caplog.text and bool(said) == bool(caplog.text)


@pytest.mark.parametrize("kind", ["broken", "metadata", "smaller copy", "mask"])
def test_what_follows_the_image_of_a_tiff_is_no_frame(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    grey, path = RANDOM.integers(0, 255, (32, 48), dtype=np.uint8), tmp_path / "ir/1.tif"
    path.parent.mkdir()
    if kind in ("broken", "metadata"):
        Image.fromarray(grey).save(path)
        content = bytearray(path.read_bytes())
        (directory,) = struct.unpack_from("<I", content, 4)
        (count,) = struct.unpack_from("<H", content, directory)
        end = len(content)
        struct.pack_into("<I", content, directory + 2 + 12 * count, end + 1000 if kind == "broken" else end)
        path.write_bytes(content + struct.pack("<HHHIII", 1, 305, 2, 4, 0x00787878, 0))
    else:
        tags = {254: 1 if kind == "smaller copy" else 4}  # of both pages; the first is the image whatever they say
        page = Image.fromarray(grey)
        page.save(path, save_all=True, append_images=[page.copy()], tiffinfo=tags)
    assert image_form(path) == (False, 1)
    assert np.array_equal(read_stored_pixels(path).values, grey)
    write_image(tmp_path / "vi/1.png", 255 - grey)
    warn_if_odd([ImagePair("1", path, tmp_path / "vi/1.png")])
    assert not caplog.text


def test_other_folders_are_not_told_as_unnamed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(*(tmp_path / path for path in ("a/ir/1_ir.png", "a/vi/1_vi.png", "a/ir/2.png", "labels/1.png")))
    assert sorted(pair_names(find_pairs(tmp_path).pairs)) == ["a/1"]
    assert "left out: 1 image named neither {name}_ir nor {name}_vi" in caplog.text and "ir/2.png" in caplog.text


def test_masks_tell_the_names_once_and_what_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(*(tmp_path / path for path in ("ir/1_ir.png", "ir/2.png", "vi/1_vi.png")))
    with caplog.at_level("INFO"):
        found = images_by_modality(PrecomputeOptions(ir_dir=tmp_path / "ir", vi_dir=tmp_path / "vi"))
    assert list(found["ir"].images) == list(found["vi"].images) == ["1"]
    assert caplog.text.count("pairs: files named") == caplog.text.count("left out: 1 image named neither") == 1


def test_listed_names_that_repeat_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [[tmp_path / folder / f"1_{word}.png" for folder in "ab"] for word in ("ir", "vi")]
    make(*files[0], *files[1])
    with pytest.raises(PairError, match=r"two pairs are named '1_ir': .*a/1_ir\.png and .*b/1_ir\.png; name them in a"):
        pairs_of_files(*(list(map(str, paths)) for paths in files))
    assert not caplog.text


def test_files_in_their_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(
        *(tmp_path / f"ir/{number}.png" for number in (1, 2, 10)),
        *(tmp_path / f"vi/a{n}.png" for n in ("01", "02", "10")),
    )
    found = pairs_of_files([str(tmp_path / "ir/*")], [str(tmp_path / "vi/*")])
    assert pair_names(found.pairs) == {
        "1": ("1.png", "a01.png"),
        "2": ("2.png", "a02.png"),
        "10": ("10.png", "a10.png"),
    }
    assert "in the order of the files" in caplog.text


@pytest.mark.parametrize(("ir", "vi"), [("1 2 4", "1 3 4"), ("a_ir b_ir", "a_vi c_vi"), ("1 2 3", "2 3 4")])
def test_files_of_which_only_some_are_pairs(tmp_path: Path, ir: str, vi: str) -> None:
    files = [
        [tmp_path / folder / f"{name}.png" for name in names.split()] for folder, names in (("ir", ir), ("vi", vi))
    ]
    make(*files[0], *files[1])
    with pytest.raises(PairError, match="by their names only"):
        pairs_of_files(*(list(map(str, paths)) for paths in files))


@pytest.mark.parametrize(
    "text", ["ir;vi\nx.png;y.png\n", "ir\tvi\nx.png\ty.png\n", "id,ir,vi,label\n7,x.png,y.png,a\n"]
)
def test_tables_of_spreadsheets(tmp_path: Path, text: str) -> None:
    make(tmp_path / "x.png", tmp_path / "y.png")
    (tmp_path / "pairs.csv").write_text(text)
    assert pair_names(pairs_of_table(tmp_path / "pairs.csv").pairs) == {"x": ("x.png", "y.png")}


def test_one_file_for_both_images_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a.png")
    (tmp_path / "pairs.csv").write_text("a.png,./a.png")
    for options in (
        {"ir": (str(tmp_path / "a.png"),), "vi": (str(tmp_path / "a.png"),)},
        {"pairs": tmp_path / "pairs.csv"},
    ):
        with pytest.raises(PairError, match="give two files, or `ir_channel`"):
            fuse(FuseOptions(output_dir=tmp_path / "out", **options))


def test_a_copied_folder_is_asked_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "ir/1.png")
    (tmp_path / "vi").mkdir()
    (tmp_path / "vi/1.png").write_bytes((tmp_path / "ir/1.png").read_bytes())
    warn_if_odd(find_pairs(tmp_path).pairs)
    assert "is one folder a copy of the other?" in caplog.text
