import csv
import hashlib
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.align import scenes
from thfuse_sam.cli import commands as cli_commands
from thfuse_sam.cli.main import main as thfuse
from thfuse_sam.commands import fuse as command
from thfuse_sam.fusion.loading import save_network
from thfuse_sam.images import image_size, read_visible
from thfuse_sam.masks.image_records import ImageRecords, record_image
from thfuse_sam.masks.tree import MaskFiles
from thfuse_sam.metrics import METRICS, NATURAL_METRICS
from thfuse_sam.models import build_network
from thfuse_sam.training.checkpoint import NetworkSpec

main = cli_commands.test.main


@pytest.fixture
def dataset(make_pairs, monkeypatch, tmp_path) -> Path:
    """Two pairs; the current folder holds nothing but an untrained network, net.safetensors."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    torch.manual_seed(0)
    network = build_network("thfuse_lite")
    save_network(Path("net.safetensors"), network, NetworkSpec("thfuse_lite", network.options))
    return make_pairs(("a/1.x", "b"), vi_suffix=".jpg")


def run(dataset: Path, *argv: str) -> int:
    return main(["--model_path", "net.safetensors", "--dataset_path", str(dataset), "--device", "cpu", *argv])


def test_fuses_at_own_size_under_own_name(dataset, capsys) -> None:
    assert run(dataset, "--no-report") == 0
    files = sorted(path.relative_to("results").as_posix() for path in Path("results").rglob("*") if path.is_file())
    assert files == ["a/1.x.jpg", "b.jpg"]
    assert image_size(Path("results/b.jpg")) == (32, 48)
    err = capsys.readouterr().err
    assert "2 images fused to results" in err and "masks found" not in err


def test_dry_run_prints_the_plan_and_writes_nothing(dataset, capsys) -> None:
    assert run(dataset, "--dry_run", "--compare", str(dataset / "vi")) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["plan"] == "2 pairs to fuse" and plan["vi_dir"] == str(dataset / "vi")
    assert (plan["network"], plan["model_path"], plan["masks"]) == ("thfuse_lite", "net.safetensors", "none")
    assert [path.name for path in Path().iterdir()] == ["net.safetensors"]


def test_images_without_a_mask_or_a_partner_are_named(dataset, capsys) -> None:
    mask = np.zeros((32, 48), np.uint8)
    MaskFiles(Path("masks")).write("ir", "b", mask)
    shutil.copy(dataset / "ir" / "b.png", dataset / "ir" / "lonely.png")
    assert run(dataset, "--precomputed_masks_dir", "masks", "--skip_bad") == 1
    err = capsys.readouterr().err
    assert "3 of 4 images have no mask in masks and get no help of masks" in err
    assert "to make them, with the --sam_checkpoint of the tree if it was one of your own: python" in err
    assert f"python precompute_masks.py --dataset_path {dataset} --output_dir masks" in err
    assert "masks found 1, 3 images without a mask" in err and "lonely.png: no partner" in err


def test_the_advice_to_make_masks_repeats_the_settings_of_the_tree(dataset, capsys) -> None:
    folders = ["--ir_dir", str(dataset / "ir"), "--vi_dir", str(dataset / "vi")]
    settings = ["--points_per_side", "2", "--thermal_points", "0", "--adaptive_points", "--pred_iou_thresh", "0.99"]
    make = cli_commands.precompute.main
    first = ["--dataset_path", str(dataset), "-o", "masks", "--sam_model_type", "vit_nano", "--device", "cpu"]
    assert make([*first, *settings]) == 0
    shutil.copy(dataset / "ir" / "b.png", dataset / "ir" / "c.png")
    shutil.copy(dataset / "vi" / "b.jpg", dataset / "vi" / "c.jpg")
    capsys.readouterr()
    options = ["--model_path", "net.safetensors", "--device", "cpu", "--no-report", "--precomputed_masks_dir", "masks"]
    assert main([*options, *folders]) == 0
    typed = capsys.readouterr().err.partition("precompute_masks.py ")[2].partition("\n")[0]
    assert make([*shlex.split(typed), "--device", "cpu"]) == 0
    assert main([*options, *folders]) == 0
    assert "have no mask" not in capsys.readouterr().err


def test_the_advice_for_single_files_names_their_folders(dataset, capsys) -> None:
    MaskFiles(Path("masks")).write("ir", "other", np.zeros((32, 48), np.uint8))
    files = ["--ir", str(dataset / "ir/b.png"), "--vi", str(dataset / "vi/b.jpg")]
    options = ["--model_path", "net.safetensors", "--device", "cpu", "--precomputed_masks_dir", "masks", "--no-report"]
    assert main([*files, *options, "-o", "one.png"]) == 0
    assert f"masks.py --ir_dir {dataset / 'ir'} --vi_dir {dataset / 'vi'} --output_dir masks" in capsys.readouterr().err


def test_an_image_of_an_unknown_kind_is_refused(dataset, capsys) -> None:
    pair = ["--ir", str(dataset / "ir/b.png"), "--vi", str(dataset / "vi/b.jpg"), "--model_path", "net.safetensors"]
    assert main([*pair, "-o", "out/x.gif"]) == 2
    err = capsys.readouterr().err
    assert "--output_dir out/x.gif: .gif is no suffix of images (.png," in err and not Path("out").exists()
    Path("out/x.gif").mkdir(parents=True)
    for folder in ("out/x.gif", "run.v2"):
        assert main([*pair, "-o", folder, "--dry_run"]) == 0
    assert run(dataset, "-o", "all.runs", "--dry_run") == 0


def test_a_file_and_a_folder_are_no_pair(dataset, capsys) -> None:
    options = ["--model_path", "net.safetensors", "--device", "cpu"]
    assert thfuse(["fuse", str(dataset / "ir/b.png"), str(dataset / "vi"), *options]) == 2
    assert f"--vi {dataset / 'vi'}: is a folder; give two files, or two folders" in capsys.readouterr().err


def test_a_pattern_of_names_is_refused_where_pairs_are_named_one_by_one(dataset, capsys) -> None:
    files = ["--ir", str(dataset / "ir/b.png"), "--vi", str(dataset / "vi/b.jpg")]
    line = failure(capsys, ["--model_path", "net.safetensors", *files, "--pair_pattern", "{name}x", "{name}y"], 2)
    assert "--pair_pattern {name}x {name}y: is for folders; leave it out" in line


def test_images_that_changed_after_their_masks_were_made_are_counted(dataset, capsys) -> None:
    records = ImageRecords()
    for modality, suffix in (("ir", ".png"), ("vi", ".jpg")):
        MaskFiles(Path("masks")).write(modality, "b", np.zeros((32, 48), np.uint8))
        records.set(modality, "b", record_image(dataset / modality / f"b{suffix}"))
    records.save(Path("masks"))
    assert run(dataset, "--precomputed_masks_dir", "masks", "--no-report") == 0
    assert "have changed" not in capsys.readouterr().err
    with (dataset / "vi" / "b.jpg").open("ab") as file:
        file.write(b"more")
    assert run(dataset, "--precomputed_masks_dir", "masks", "--no-report") == 0
    assert "1 of 4 images have changed since their masks in masks were made" in capsys.readouterr().err


def test_folders_that_stand_for_each_other_are_noticed(dataset, capsys) -> None:
    folders = ["--ir_dir", str(dataset / "vi"), "--vi_dir", str(dataset / "ir")]
    assert main(["--model_path", "net.safetensors", "--device", "cpu", "--no-report", *folders]) == 0
    assert "swapped?" in capsys.readouterr().err
    assert run(dataset, "--no-report") == 0
    assert "swapped?" not in capsys.readouterr().err


def test_images_of_an_earlier_run_are_noticed(dataset, capsys) -> None:
    for _ in range(2):
        assert run(dataset, "--no-report") == 0
        assert "not of this run" not in capsys.readouterr().err
    (dataset / "ir" / "b.png").unlink()
    (dataset / "vi" / "b.jpg").unlink()
    assert run(dataset, "--no-report") == 0
    assert "b.jpg" not in capsys.readouterr().err  # a/ alone is written to
    shutil.copy("results/b.jpg", "results/a/of_earlier.jpg")
    assert run(dataset, "--no-report") == 0
    assert "not of this run, but beside it: 1 image, such as results/a/of_earlier.jpg" in capsys.readouterr().err


def test_other_results_of_an_earlier_run_are_noticed(dataset, capsys) -> None:
    infrared = dataset / "ir" / "b.png"
    kelvin = np.asarray(Image.open(infrared)).astype(np.uint16) * 100
    Image.fromarray(kelvin).save(infrared.with_suffix(".tiff"))
    infrared.unlink()
    for _ in range(2):
        assert run(dataset, "--metrics", "--keep_temperature") == 0
        assert "not of this run" not in capsys.readouterr().err
    assert run(dataset, "--no-report") == 0
    older = "results/metrics.csv, results/metrics.json, results/report/index.html, 1 image"
    assert f"not of this run, but beside it: {older}, such as results/b_temperature.tiff\n" in capsys.readouterr().err


def test_gray_has_no_colour(dataset) -> None:
    def colour(path: str) -> int:
        rgb = read_visible(Path(path)).astype(int)
        return int(np.abs(rgb[..., 0] - rgb[..., 2]).max())

    assert run(dataset) == 0
    assert run(dataset, "--gray", "--output_dir", "grey") == 0
    assert colour("results/b.jpg") > 40 and colour("grey/b.jpg") == 0


def test_metrics_files(dataset, capsys) -> None:
    assert run(dataset, "--metrics") == 0
    content = json.loads(Path("results/metrics.json").read_text(encoding="utf-8"))
    assert list(content["images"]) == ["a/1.x", "b"] and content["model"] == "net.safetensors"
    assert content["mean"]["EN"] == pytest.approx(np.mean([values["EN"] for values in content["images"].values()]))
    with Path("results/metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a/1.x", "b", "mean"]
    assert list(rows[0]) == ["name", *METRICS, *NATURAL_METRICS]
    assert "mean of 2: EN " in capsys.readouterr().err


def report_data() -> dict:
    text = Path("results/report/data.js").read_text(encoding="utf-8")
    return json.loads(text[len("window.REPORT = ") : -2])


def test_report_is_one_folder_with_everything_in_it(dataset, capsys) -> None:
    assert run(dataset) == 0
    assert "report: open results/report/index.html" in capsys.readouterr().err
    assert not Path("results/metrics.csv").exists()
    data = report_data()
    facts = dict(data["facts"])
    assert "--model_path net.safetensors" in facts["command"] and facts["network"].startswith("thfuse_lite, ")
    digest = hashlib.sha256(Path("net.safetensors").read_bytes()).hexdigest()
    assert digest in facts["weights"] and facts["masks"].startswith("none; no ")
    assert {"code", "machine", "time"} <= set(facts)
    assert [pair["name"] for pair in data["pairs"]] == ["a/1.x", "b"]
    for pair in data["pairs"]:
        assert len(pair["values"][0]) == len(data["metrics"]) == len(METRICS) + len(NATURAL_METRICS)
        for address in (pair["ir"], pair["vi"], pair["thumbnail"], *pair["fused"]):
            assert (Path("results/report") / address).is_file()
    assert data["methods"][0]["meanRank"] is None
    # A second run takes the place of the first one.
    assert run(dataset) == 0


def test_compare_measures_all_methods_alike(dataset, tmp_path, capsys) -> None:
    shutil.copytree(dataset / "vi", tmp_path / "visible")
    (tmp_path / "visible" / "b.jpg").unlink()
    assert run(dataset, "--compare", str(tmp_path / "visible"), f"Same={tmp_path / 'visible'}") == 0
    err = capsys.readouterr().err
    assert "visible: has 1 of 2 pairs" in err and "Means over 1 of 2 pairs." in err
    table = [line.split(" | ") for line in err.splitlines() if line.startswith("| ")]
    assert table[0][:2] == ["| method", "mean rank"] and "SSIM (sum over both)" in table[0]
    ranks = [float(row[1].split()[0]) for row in table[1:]]
    assert len(ranks) == 3 and ranks == sorted(ranks)
    data = report_data()
    own, visible, same = data["methods"]
    assert (own["name"], visible["name"], same["name"]) == ("thfuse_lite", "visible", "Same")
    assert visible["mean"] == same["mean"] and visible["images"] == 1 and data["sharedPairs"] == 1
    assert visible["meanRank"] == same["meanRank"] != own["meanRank"]
    assert data["pairs"][1]["fused"][1] is None and data["pairs"][1]["values"][1] is None
    with Path("results/comparison.csv").open(encoding="utf-8", newline="") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"thfuse_lite", "visible", "Same"}


def test_targets_in_table_files_and_report(dataset, tmp_path, capsys) -> None:
    labels = tmp_path / "targets"
    labels.mkdir()
    (labels / "classes.txt").write_text("person\n", encoding="utf-8")
    (labels / "b.txt").write_text("0 0.5 0.5 0.4 0.4\n7 0.5 0.5 0.4 0.4\n", encoding="utf-8")
    (labels / "absent.txt").write_text("0 0.5 0.5 0.4 0.4\n", encoding="utf-8")
    assert run(dataset, "--targets", str(labels), "--metrics") == 0
    err = capsys.readouterr().err
    assert "2 labels left out of every row: " in err and "no pair 'absent'" in err and "class 7" in err
    assert "| thfuse_lite | person | all |" in err
    with Path("results/targets.csv").open(encoding="utf-8", newline="") as file:
        assert [row["size"] for row in csv.DictReader(file)] == ["all", "small"]
    kept = json.loads(Path("results/metrics.json").read_text(encoding="utf-8"))["targets"]
    shown = report_data()["methods"][0]["targets"]
    assert [row["category"] for row in kept] == ["person"] * 2 == [row["category"] for row in shown]
    assert kept[0]["contrast_kept"] == pytest.approx(shown[0]["contrast_kept"])


def test_report_off_in_an_option_file(dataset) -> None:
    Path("off.yaml").write_text("report: false\n", encoding="utf-8")
    assert run(dataset, "--config", "off.yaml") == 0
    assert not Path("results/report").exists()


def test_folder_that_is_no_report_is_left_alone(dataset, capsys) -> None:
    Path("results/report").mkdir(parents=True)
    Path("results/report/mine.txt").touch()
    assert run(dataset) == 1
    assert "other files than a report" in capsys.readouterr().err
    assert [path.name for path in Path("results/report").iterdir()] == ["mine.txt"]


def failure(capsys, argv: list[str], status: int) -> str:
    assert main(argv) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("test.py: error: "), lines
    assert not Path("results").exists()
    return lines[0]


def test_unequal_sizes_stop_before_anything_is_written(dataset, make_pairs, tmp_path, capsys) -> None:
    larger = make_pairs(("b",), size=(40, 48), root=tmp_path / "larger", vi_suffix=".jpg")
    shutil.copy(larger / "vi" / "b.jpg", dataset / "vi" / "b.jpg")
    line = failure(capsys, ["--model_path", "net.safetensors", "--dataset_path", str(dataset)], 1)
    assert "'b'" in line and "48x32" in line and "48x40" in line

    assert run(dataset, "--skip_bad", "--metrics") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("b: not fused: ") and "1 image fused" in lines[-2]
    assert Path("results/a/1.x.jpg").exists() and not Path("results/b.jpg").exists()


@pytest.mark.parametrize("name", ["thfuse_tiny", "models/thfuse_tiny.safetensors"])
def test_shipped_networks_are_found_by_their_names(dataset, capsys, name: str) -> None:
    Path("thfuse_tiny").mkdir()  # such as the output of a training
    argv = ["--model_path", name, "--dataset_path", str(dataset), "--device", "cpu", "--no-report"]
    assert main(argv) == 0
    assert "thfuse_tiny from" in capsys.readouterr().err


def test_missing_shipped_model_names_the_remedy(dataset, capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(command, "shipped_root", lambda: tmp_path)
    line = failure(capsys, ["--dataset_path", str(dataset)], 1)
    assert "--model_path" in line and "train.py" in line


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["--model_path", "absent.pth"], 1, ("absent.pth", "no such file")),
        (["--model_path", "."], 1, ("--model_path .", "is a folder; give a file in it")),
        (["--emphasis", "ir"], 2, ("--emphasis ir", "there are no masks", "--use_sam")),
        (["--precomputed_masks_dir", "absent"], 2, ("absent", "precompute_masks.py")),
        (["--dataset_path", "absent"], 2, ("absent",)),
        (["--metric"], 2, ("--metric",)),
        (["--compare", "absent"], 2, ("--compare absent", "no such folder")),
        (["--targets", "absent"], 2, ("--targets absent", "no such file")),
    ],
)
def test_wrong_option_is_one_line(dataset, capsys, argv: list[str], status: int, words: tuple[str, ...]) -> None:
    defaults = ["--model_path", "net.safetensors", "--dataset_path", str(dataset), "--device", "cpu"]
    line = failure(capsys, [*defaults, *argv], status)
    assert all(word in line for word in words)


def test_inputs_are_not_replaced(dataset, capsys) -> None:
    before = (dataset / "vi" / "b.jpg").read_bytes()
    assert run(dataset, "--output_dir", str(dataset / "vi")) == 2
    assert "--output_dir" in capsys.readouterr().err
    assert (dataset / "vi" / "b.jpg").read_bytes() == before


@pytest.fixture
def unequal(dataset) -> Path:
    """The pairs of `dataset`, the infrared images of half the size."""
    for path in (dataset / "ir").rglob("*.png"):
        with Image.open(path) as image:
            image.resize((24, 16)).save(path)
    return dataset


def test_images_of_unequal_sizes_are_fused_if_asked_for(unequal, capsys) -> None:
    assert run(unequal) == 1
    assert "--align similarity" in capsys.readouterr().err and not Path("results").exists()
    mask = np.zeros((16, 24), np.uint8)
    mask[4:8, 4:12] = 2
    MaskFiles(Path("masks")).write("ir", "b", mask)
    argv = ["--align", "size", "--metrics", "--precomputed_masks_dir", "masks"]
    assert run(unequal, *argv) == 0
    assert image_size(Path("results/b.jpg")) == (32, 48) and "masks found 1" in capsys.readouterr().err
    assert run(unequal, "--size", "infrared", "--batch_size", "2", "--output_dir", "small") == 0
    assert image_size(Path("small/b.jpg")) == (16, 24)
    assert run(unequal, "--size", "60x40", "--output_dir", "other") == 0
    assert image_size(Path("other/a/1.x.jpg")) == (40, 60)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--align", "size", "--targets", "x"], ("--targets x", "leave --align")),
        (["--size", "infrared", "--compare", "x"], ("--size infrared", "--compare")),
        (["--rig", "absent.yaml"], ("--rig absent.yaml", "No such file")),
    ],
)
def test_what_does_not_go_with_aligning(unequal, capsys, argv, words) -> None:
    assert run(unequal, *argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line


def test_temperatures_are_kept_as_they_lie_on_the_fused_image(dataset, tmp_path, capsys) -> None:
    data = tmp_path / "data"
    for folder in ("ir", "vi"):
        (data / folder).mkdir(parents=True)
    kelvin = np.full((24, 32), 29_000, np.uint16)
    kelvin[8:16, 8:16], kelvin[:, :4] = 31_000, 0  # what was not measured
    Image.fromarray(kelvin).save(data / "ir" / "a.b.tiff")
    Image.fromarray(np.full((24, 32), 20, np.uint8)).save(data / "ir" / "c.png")
    for name in ("a.b", "c"):
        Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(data / "vi" / f"{name}.png")
    assert run(data, "--align", "size", "--keep_temperature") == 0
    assert "no temperatures to keep; infrared images of 8 bits: c" in capsys.readouterr().err
    with Image.open("results/a.b_temperature.tiff") as image:
        kept = np.array(image)
    assert kept.dtype == np.uint16 and kept.shape == (48, 64) and not Path("results/c_temperature.tiff").exists()
    assert (kept[:, :8] == 0).all() and (kept[:, 8:14] == 29_000).all() and (kept[20:28, 20:28] == 31_000).all()
    assert run(data, "--keep_temperature", "--size", "infrared", "--output_dir", "small") == 0
    with Image.open("small/a.b_temperature.tiff") as image:
        assert np.array_equal(np.array(image), kelvin)


def test_temperatures_replace_no_input(tmp_path, capsys) -> None:
    infrared, visible = tmp_path / "x_temperature.tiff", tmp_path / "v.png"
    Image.fromarray(np.full((24, 32), 29_000, np.uint16)).save(infrared)
    Image.fromarray(np.full((24, 32), 90, np.uint8)).save(visible)
    argv = ["--ir", str(infrared), "--vi", str(visible), "-o", str(tmp_path / "x.png"), "--keep_temperature"]
    assert main(argv) == 2
    assert "x_temperature.tiff is an input image" in capsys.readouterr().err


def test_fused_images_take_no_name_of_an_input(tmp_path, capsys) -> None:
    for folder, suffix in (("ir", "png"), ("vi", "jpg")):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((24, 32), 90, np.uint8)).save(tmp_path / folder / f"1.{suffix}")
    assert main(["--dataset_path", str(tmp_path), "--output_dir", str(tmp_path / "ir")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "1.jpg would be named as the input image" in error and "1.png; give another folder" in error


def test_pairs_out_of_register_are_noticed_and_mended(dataset, tmp_path, capsys) -> None:
    for name, shift in (("good", 0), ("off", 20)):
        infrared, visible = scenes.pair(6)
        infrared = scenes.moved(infrared, 0, 1, (shift, 4 if shift else 0))[0]
        for folder, image in (("ir", infrared), ("vi", visible)):
            (tmp_path / "two" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / "two" / folder / f"{name}.png")
    assert run(tmp_path / "two", "--precomputed_masks_dir", "none") == 0
    err = capsys.readouterr().err
    assert "appear twice: 1 of 2 pairs (off by 6" in err and "--align similarity" in err
    page = Path("results/report/data.js").read_text()
    assert page.count('"offset":null') == 1 and '"offset":0.06' in page
    assert run(tmp_path / "two", "--align", "similarity", "--metrics", "--output_dir", "mended") == 0
    assert "out of register" not in capsys.readouterr().err


def test_a_pair_that_cannot_be_aligned_is_named(dataset, tmp_path, capsys) -> None:
    for folder, image in (("ir", scenes.pair(4)[0]), ("vi", scenes.pair(5)[1])):
        (tmp_path / "one" / folder).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "one" / folder / "a.png")
    assert run(tmp_path / "one", "--align", "similarity", "--no-report") == 0
    assert "left as they are, because too little structure agrees: 1 of 1 pair (a);" in capsys.readouterr().err


def test_the_report_shows_an_aligned_pair_before_and_after(dataset, tmp_path) -> None:
    infrared, visible = scenes.pair(6)
    for folder, image in (("ir", scenes.moved(infrared, 2, 1.03, (12, 5))[0]), ("vi", visible)):
        (tmp_path / "one" / folder).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "one" / folder / "a.png")
    assert run(tmp_path / "one", "--align", "similarity", "--metrics") == 0
    before, after = (read_visible(Path(f"results/report/pictures/00001_{when}.jpg")) for when in ("before", "after"))
    assert before.shape == after.shape == (240, 320, 3) and not np.array_equal(before, after)
    page = Path("results/report/data.js").read_text()
    assert "similarity, moved by 4" in page and '"before":"pictures/00001_before.jpg"' in page
    # What lies in the report is the aligned infrared image, not the file.
    shown = read_visible(Path("results/report/pictures/00001_ir.png"))[60:180, 80:240, 0].astype(int)
    assert np.abs(shown - infrared[60:180, 80:240]).mean() < 8
    assert run(tmp_path / "one", "--align", "size", "--output_dir", "plain") == 0
    assert not Path("plain/report/pictures/00001_before.jpg").exists()
