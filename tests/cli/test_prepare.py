"""`prepare_data.py` from its command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thfuse_sam.cli import commands as cli_commands
from thfuse_sam.commands import prepare as command
from thfuse_sam.datasets.segmentation import open_segmentation_dataset
from thfuse_sam.images import read_visible, write_image
from thfuse_sam.masks.format import read_mask

main = cli_commands.prepare.main


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """LabelMe files of four images with overlapping objects `a` (40 x 20) and `b` (10 x 10), in `lm`."""
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        write_image(Path(f"lm/images/{number}.jpg"), image)
        shapes = [
            {"label": "b", "points": [[20, 10], [30, 10], [30, 20], [20, 20]], "shape_type": "polygon"},
            {"label": "a", "points": [[4, 4], [44, 24]], "shape_type": "rectangle"},
        ]
        path = Path(f"lm/annotations/{number}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"shapes": shapes, "imagePath": f"../images/{number}.jpg", "imageData": None}))
    return tmp_path / "lm"


def error(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


def test_polygons_become_a_data_set_that_reads_back(data: Path) -> None:
    assert main(["--data_dir", "lm", "--output_dir", "out", "--visualize", "--num_samples", "2"]) == 0
    mask = read_mask(Path("out/masks/0.npy"), (48, 64))
    assert mask.dtype == np.uint8
    assert (mask == 1).sum() == 800 - 100 and (mask == 2).sum() == 100, "larger objects have smaller numbers"
    assert Path("out/images/3.jpg").read_bytes() == Path("lm/images/3.jpg").read_bytes()
    again = open_segmentation_dataset(Path("out"))
    assert again.names == ["0", "1", "2", "3"]
    assert again[2].mask(1).sum() == 800 and again[2].categories == {1: "a", 2: "b"}
    overlays = sorted(path.name for path in Path("out/overlays").iterdir())
    assert overlays == ["0.png", "2.png"]


def test_classes_have_the_same_numbers_in_both_parts(data: Path) -> None:
    for number in range(3):  # of three of the four images, the first object is another one
        path = data / f"annotations/{number}.json"
        content = json.loads(path.read_text())
        content["shapes"][1]["label"] = "c"
        path.write_text(json.dumps(content))
    assert main(["--data_dir", "lm", "--output_dir", "out", "--val_fraction", "0.25", "--labels", "a", "c"]) == 0
    for part in ("train", "val"):
        content = json.loads(Path(f"out/{part}/annotations.json").read_text())
        assert content["categories"] == [{"id": 1, "name": "a"}, {"id": 2, "name": "c"}]


def test_overlay_shows_the_objects(data: Path) -> None:
    assert main(["--data_dir", "lm", "--output_dir", "out", "--visualize", "--num_samples", "1"]) == 0
    picture, image = read_visible(Path("out/overlays/0.png")), read_visible(data / "images/0.jpg")
    factor = picture.shape[0] // image.shape[0]
    small = picture[::factor, ::factor].astype(int)
    assert small.shape == image.shape
    changed = np.abs(small - image).max(2) > 0
    assert not changed[26:].any() and not changed[:, 46:].any()
    assert changed[5:24, 5:44].mean() > 0.95


def test_label_selection_merge_and_split(data: Path) -> None:
    assert main(["--data_dir", "lm", "--output_dir", "out", "--labels", "b"]) == 0
    assert read_mask(Path("out/masks/0.npy"), None).sum() == 100
    assert main(["--data_dir", "lm", "--output_dir", "both", "--merge", "--val_ratio", "0.25", "--seed", "3"]) == 0
    train, val = open_segmentation_dataset(Path("both/train")), open_segmentation_dataset(Path("both/val"))
    assert len(train) == 3 and len(val) == 1 and set(train.names + val.names) == set("0123")
    assert train[0].object_ids == (1,) and train[0].mask(1).sum() == 800


@pytest.mark.parametrize("selection", ["center", "random", "bbox"])
def test_check_draws_prompts(data: Path, selection: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["--check", "--data_dir", "lm", "--point_selection", selection, "--num_points", "2", "--num_samples", "2"])
        == 0
    )
    assert "2 of 4 images looked at, all fine; --num_samples sets how many" in capsys.readouterr().err
    pictures = sorted(Path("results/check").iterdir())
    assert [path.name for path in pictures] == ["0.png", "2.png"]
    plain = command.draw_sample(open_segmentation_dataset(data)[0])
    drawn = read_visible(pictures[0])
    assert drawn.shape == plain.shape and (drawn != plain).any()
    green = (drawn == (40, 220, 60)).all(2).any()
    assert green == (selection != "bbox")


def test_check_reads_a_mixture(data: Path) -> None:
    Path("mixture.yaml").write_text("train:\n  - data_dir: lm\n    percentage: 0.5\n")
    assert main(["--check", "--data_dir", "mixture.yaml", "--output_dir", "look"]) == 0
    assert len(list(Path("look/lm").iterdir())) == 2


def test_embedded_images_are_written_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import base64
    import io

    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(buffer, "JPEG")
    shapes = [{"label": "a", "points": [[2, 2], [9, 9]], "shape_type": "rectangle"}]
    Path("lm").mkdir()
    content = {"shapes": shapes, "imagePath": "gone.jpg", "imageData": base64.b64encode(buffer.getvalue()).decode()}
    Path("lm/x.json").write_text(json.dumps(content))
    assert main(["--data_dir", "lm", "--output_dir", "out"]) == 0
    assert Path("out/images/x.jpg").read_bytes() == buffer.getvalue()


def test_bad_samples_stop_or_are_skipped(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("lm/images/2.jpg").unlink()
    assert main(["--data_dir", "lm", "--output_dir", "out"]) == 1
    line = error(capsys)
    assert "2.json" in line and "is missing" in line and "--skip_bad" in line
    assert not Path("out").exists()
    assert main(["--data_dir", "lm", "--output_dir", "out", "--skip_bad"]) == 0
    assert "skipped 1 of 4 as bad" in capsys.readouterr().err
    assert open_segmentation_dataset(Path("out")).names == ["0", "1", "3"]


def test_what_is_mended_is_counted_and_strict_refuses(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(Path("lm/annotations/1.json").read_text())
    content["shapes"] += [{"label": "c", "points": [[60, 40], [80, 40], [80, 45]]}, {"label": "d", "points": [[1, 1]]}]
    Path("lm/annotations/1.json").write_text(json.dumps(content))
    for arguments in (["--check"], ["--output_dir", "out"]):
        assert main(["--data_dir", "lm", *arguments]) == 0
        [line] = [line for line in capsys.readouterr().err.splitlines() if "notes on annotations" in line]
        assert line.count("1.json") == 2 and "cut off" in line and "left out: 1" in line
    assert main(["--data_dir", "lm", "--output_dir", "strict", "--strict"]) == 1
    assert "shape 2 'c'" in error(capsys)


def test_ignored_pixels_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 10:30], mask[20:22, 10:30] = 3, 255
    write_image(Path("set/images/a.png"), np.zeros((48, 64, 3), np.uint8))
    write_image(Path("set/instances/a.png"), mask)
    assert main(["--data_dir", "set", "--output_dir", "out"]) == 0
    sample = open_segmentation_dataset(Path("out"))[0]
    assert sample.object_ids == (1,) and sample.ignored is not None
    assert np.array_equal(sample.ignored, mask == 255) and np.array_equal(sample.mask(1), mask == 3)
    picture = command.draw_sample(sample)
    factor = picture.shape[0] // 48
    assert (picture[::factor, ::factor][21, 12:28] == 96).all() and not picture[::factor, ::factor][40].any()


def test_two_images_of_one_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    outline = [[4, 4, 12, 4, 12, 12]]
    images, objects = [], []
    for number, suffix in enumerate(("jpg", "png")):
        write_image(Path(f"coco/images/a.{suffix}"), np.zeros((24, 32, 3), np.uint8))
        images.append({"id": number, "file_name": f"a.{suffix}", "height": 24, "width": 32})
        objects.append({"id": number, "image_id": number, "category_id": 1, "segmentation": outline})
    content = {"images": images, "annotations": objects, "categories": []}
    Path("coco/annotations.json").write_text(json.dumps(content))
    assert main(["--data_dir", "coco", "--output_dir", "out"]) == 1
    assert "a.png: another image has the same name a; rename one" in error(capsys)
    assert not list(Path("out").rglob("*.npy"))


def test_a_failure_while_writing_leaves_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("thfuse_sam.datasets.segmentation.prepared.write_mask", full)
    assert main(["--data_dir", "lm", "--output_dir", "out"]) == 1
    assert list(Path("out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --data_dir, or --download"),
        (["--data_dir", "lm", "--download", "pennfudan"], "give --data_dir, or --download"),
        (["--data_dir", "lm"], "--output_dir is not given"),
        (["--data_dir", "missing", "--output_dir", "out"], "--data_dir missing: no such folder"),
        (["--download", "cats"], "--download cats: must be one of pennfudan"),
        (["--data_dir", "lm", "--output_dir", "lm/out"], "lies in --data_dir"),
        (["--data_dir", "lm", "--check", "--output_dir", "lm/images"], "lies in --data_dir"),
        (["--data_dir", "lm", "--output_dir", "drawn"], "holds overlays already"),
        (["--data_dir", "lm", "--output_dir", "out", "--labels", "zebra"], "labels are a, b"),
        (["--data_dir", "lm", "--check", "--point_selection", "middle"], "--point_selection"),
        (["--data_dir", "lm", "--check", "--num_points", "0"], "--num_points"),
        (["--data_dir", "mix.yaml", "--output_dir", "out"], "a mixture is drawn anew"),
        (["--data_dir", "lm", "--output_dir", "taken"], "holds annotations.json already"),
    ],
)
def test_wrong_usage(data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    Path("mix.yaml").write_text("train:\n  - data_dir: lm\n")
    Path("taken").mkdir()
    Path("taken/annotations.json").touch()
    Path("drawn/overlays").mkdir(parents=True)
    assert main(arguments) == 2
    assert message in error(capsys)
    assert not Path("out").exists()


def test_download_alone_says_where(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "fetch", lambda known: data)
    assert main(["--download", "pennfudan"]) == 0
    assert f"pennfudan lies in {data}" in capsys.readouterr().err
    assert main(["--download", "pennfudan", "--output_dir", "out"]) == 0
    assert len(open_segmentation_dataset(Path("out"))) == 4


def test_download_without_network(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THFUSE_OFFLINE", "1")
    monkeypatch.setenv("SAM_CACHE", str(data / "cache"))
    assert main(["--download", "pennfudan"]) == 1
    assert "download https://" in error(capsys)
