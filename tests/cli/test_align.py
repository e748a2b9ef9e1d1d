import csv
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.align.scenes import SIZE, moved, pair
from thfuse_sam.align.rig import Rig
from thfuse_sam.align.transform import corner_distance, fitted
from thfuse_sam.cli import commands as cli_commands
from thfuse_sam.images import read_infrared, read_infrared_and_missing, read_visible
from thfuse_sam.masks.manifest import Manifest, Signature
from thfuse_sam.masks.tree import MaskFiles

main = cli_commands.align.main
MOVEMENT = (3, 1.05, (12, 6))


@pytest.fixture(scope="session")
def rig_pairs(tmp_path_factory) -> Path:
    """Three pairs of one rig, whose infrared images have half the size of the visible ones."""
    root = tmp_path_factory.mktemp("rig_pairs")
    for index in range(3):
        infrared, visible = pair(index)
        half = cv2.resize(moved(infrared, *MOVEMENT)[0], (SIZE[1] // 2, SIZE[0] // 2), interpolation=cv2.INTER_AREA)
        for folder, image in (("ir", half), ("vi", visible)):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(root / folder / f"{index}.png")
    return root


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def rows() -> list[dict[str, str]]:
    with Path("aligned/alignment.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_rig_is_calibrated_once_and_used_for_images_and_masks(rig_pairs, capsys) -> None:
    assert main(["--calibrate", str(rig_pairs), "--output", "rig.yaml"]) == 0
    assert "rig of 3 of 3 pairs (0 unsure, 0 outliers) written to rig.yaml" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["rig.yaml"]
    truth = moved(np.zeros(SIZE, np.uint8), *MOVEMENT)[1] @ fitted((120, 160), SIZE)
    assert corner_distance(Rig.load(Path("rig.yaml")).matrix, truth, (120, 160)) < 0.6

    labels = np.zeros((120, 160), np.uint8)
    labels[40:80, 60:100] = 7
    MaskFiles(Path("masks")).write("ir", "0", labels)
    argv = ["--dataset_path", str(rig_pairs), "--rig", "rig.yaml", "--masks_dir", "masks"]
    assert main(argv) == 0
    assert [row["confident"] for row in rows()] == ["true"] * 3 and not Path("aligned/vi").exists()
    aligned, missing = read_infrared_and_missing(Path("aligned/ir/0.png"))
    assert aligned.shape == SIZE and missing is not None and 0.01 < missing.mean() < 0.2
    inner = np.s_[60:180, 80:240]
    assert np.abs(aligned[inner].astype(int) - pair(0)[0][inner]).mean() < 12
    to_fuse = capsys.readouterr().err.partition("to fuse them: python test.py ")[2].splitlines()[0]
    assert cli_commands.test.main([*shlex.split(to_fuse), "--device", "cpu"]) == 0
    assert "3 images fused to results" in (shown := capsys.readouterr().err) and "masks found 1" in shown
    mask = MaskFiles(Path("aligned/masks")).read("ir", "0", SIZE)
    assert set(np.unique(mask)) == {0, 7} and 5000 < np.count_nonzero(mask) < 6400


def test_pairs_are_aligned_one_by_one_and_doubtful_ones_left(rig_pairs, tmp_path, capsys) -> None:
    data = tmp_path / "data"
    for folder, images in (("ir", (pair(0)[0], moved(pair(1)[0], *MOVEMENT)[0])), ("vi", (pair(9)[1], pair(1)[1]))):
        (data / folder).mkdir(parents=True)
        for name, image in zip("ab", images, strict=True):
            Image.fromarray(image).save(data / folder / f"{name}.png")
    assert main(["--dataset_path", str(data)]) == 0
    assert "left as they are, because too little structure agrees: 1 of 2 pairs (a);" in capsys.readouterr().err
    assert [row["confident"] for row in rows()] == ["false", "true"]
    assert np.array_equal(read_infrared(Path("aligned/ir/a.png")), pair(0)[0])


def test_numbers_of_16_bits_and_the_size_of_the_result(tmp_path) -> None:
    data = tmp_path / "data"
    kelvin = np.full((24, 32), 29_000, np.uint16)
    kelvin[8:16, 8:16] = 31_000
    for folder, image in (("ir", kelvin), ("vi", np.full((48, 64), 90, np.uint8))):
        (data / folder).mkdir(parents=True)
        Image.fromarray(image).save(data / folder / "a.png")
    assert main(["--dataset_path", str(data), "--align", "size", "--size", "128x96"]) == 0
    with Image.open("aligned/ir/a.png") as image:
        numbers = np.array(image)
    assert numbers.shape == (96, 128) and numbers[48, 48] == 31_000 and numbers[4, 4] == 29_000
    assert read_visible(Path("aligned/vi/a.png")).shape == (96, 128, 3)


def test_what_an_earlier_run_left_is_named(make_pairs, tmp_path, capsys) -> None:
    MaskFiles(Path("masks")).write("ir", "a", np.zeros((32, 48), np.uint8))
    earlier = ["--masks_dir", "masks", "--size", "64x48"]
    for name, options in (("a", earlier), ("a", earlier), ("b", [])):
        assert (
            main(["--dataset_path", str(make_pairs((name,), root=tmp_path / name)), "--align", "size", *options]) == 0
        )
        told = "not of this run, but beside it: 3 files, such as aligned/ir/a.png\n" in capsys.readouterr().err
        assert told == (name == "b")


def test_the_printed_command_reads_the_aligned_images_as_those_of_the_tree(tmp_path, capsys) -> None:
    infrared, visible = pair(0)
    deep = 40_000 - infrared.astype(np.uint16) * 100
    deep[::9, ::9] = 20_000  # less than what was measured as well as more
    for folder, images in (("ir", (255 - infrared, deep)), ("vi", (visible, visible))):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for name, image in zip("ab", images, strict=True):
            Image.fromarray(image).save(tmp_path / "data" / folder / f"{name}.png")
    how = {"ir_range": "10000 45000", "ir_nodata": 20_000.0, "ir_polarity": "black-hot"}
    MaskFiles(Path("tree")).write("ir", "a", np.ones(SIZE, np.uint8))
    Manifest(Signature("vit_nano", "0", how, "0")).save(Path("tree"))
    data = ["--dataset_path", str(tmp_path / "data"), "--align", "size"]
    assert main([*data, "--masks_dir", "tree"]) == 0
    aligned = [np.array(Image.open(f"aligned/ir/{name}.png")) for name in "ab"]
    assert np.array_equal(aligned[0], 255 - infrared) and np.array_equal(aligned[1], deep)
    to_fuse = capsys.readouterr().err.partition("to fuse them: python test.py ")[2].splitlines()[0]
    assert to_fuse.endswith("--ir_range 10000 45000 --ir_polarity black-hot --ir_nodata 20000")
    common = ["--device", "cpu", "--no-report", "--output_dir"]
    assert cli_commands.test.main([*shlex.split(to_fuse), *common, "fused"]) == 0
    assert cli_commands.test.main([*data, "--precomputed_masks_dir", "tree", *common, "direct"]) == 0
    for name in "ab":
        assert np.array_equal(*(read_visible(Path(folder) / f"{name}.png") for folder in ("fused", "direct")))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--size", "big"], ("--size big", "WIDTHxHEIGHT")),
        (["--size", "0x10"], ("--size 0x10", "WIDTHxHEIGHT")),
        (["--rig", "absent.yaml"], ("--rig absent.yaml", "--calibrate")),
        (["--rig", "r.yaml", "--align", "shift"], ("--rig r.yaml", "--align shift")),
        (["--rig", "../other.yaml"], ("--rig ../other.yaml", "not for 160x120 and 320x240")),
        (["--calibrate", "DATA", "--align", "size"], ("--align size", "leave it out")),
        (["--calibrate", "absent"], ("--calibrate absent", "no such folder")),
        (["--output_dir", "DATA"], ("--output_dir", "would lie among its results")),
    ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(rig_pairs, capsys, argv, words) -> None:
    argv = [str(rig_pairs) if word == "DATA" else word for word in argv]
    sizes = "kind: shift\ninfrared: 80x60\nvisible: 320x240\n"
    Path("../other.yaml").write_text(f"{sizes}matrix: [[1, 0, 0], [0, 1, 0], [0, 0, 1]]")
    assert main([*([] if "--calibrate" in argv else ["--dataset_path", str(rig_pairs)]), *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
    assert not list(Path().iterdir())


def test_masks_are_not_written_over_those_that_are_read(rig_pairs, capsys) -> None:
    labels = np.ones((120, 160), np.uint8)
    tree = MaskFiles(Path("aligned/masks"))
    tree.write("ir", "0", labels)
    assert main(["--dataset_path", str(rig_pairs), "--masks_dir", "aligned/masks"]) == 2
    assert f"{Path('aligned/masks')} would lie among its results" in capsys.readouterr().err
    assert np.array_equal(tree.read("ir", "0", (120, 160)), labels)


def test_calibrating_on_images_without_structure_is_refused(make_pairs, capsys) -> None:
    root = make_pairs(("a", "b", "c"), size=(64, 80))
    for path in root.rglob("*.png"):
        Image.new("L", (80, 64), 90).save(path)
    assert main(["--calibrate", str(root)]) == 2
    assert "only 0 of 3 pairs show enough structure" in capsys.readouterr().err
    Image.new("L", (40, 32), 90).save(root / "ir" / "b.png")
    assert main(["--calibrate", str(root)]) == 2
    assert "b has images of 40x32 and 80x64" in capsys.readouterr().err
    assert not list(Path().iterdir())
