import csv
import dataclasses
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from thfuse_sam.cli.commands import train
from thfuse_sam.commands import train as command
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.fusion.loading import load_network, save_network
from thfuse_sam.images import MODALITIES
from thfuse_sam.masks.manifest import Manifest, Signature
from thfuse_sam.masks.tree import MaskFiles
from thfuse_sam.options.shared import TRAIN_SAMPLE
from thfuse_sam.options.train import TrainOptions
from thfuse_sam.shipped import shipped_root
from thfuse_sam.training.checkpoint import NetworkSpec, load_checkpoint
from thfuse_sam.training.trainer import RunResult, Trainer

ROOT = shipped_root()
FAST = ["--epochs", "1", "--batch_size", "2", "--crop_size", "32", "--device", "cpu"]


def write_masks(root: Path, dataset: Path) -> None:
    """One box as the only segment of every image but the last visible one."""
    pairs = find_pairs(dataset)
    tree = MaskFiles(root)
    label_map = np.zeros((32, 48), np.uint8)
    label_map[8:20, 10:30] = 1
    for pair in pairs.pairs:
        for modality in MODALITIES:
            if (modality, pair) != ("vi", pairs.pairs[-1]):
                tree.write(modality, pair.name, label_map)
    manifest = Manifest(Signature("vit_nano", "00", {}, "0.1"))
    manifest.sources.append({"ir": str(pairs.ir_dir.resolve()), "vi": str(pairs.vi_dir.resolve())})
    manifest.save(root)


@pytest.fixture
def dataset(make_pairs, monkeypatch, tmp_path) -> Path:
    """Four pairs; the current folder is an empty one."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return make_pairs(("a/1", "a/2", "b/1", "b/2"))


def test_trains_with_a_mask_tree_and_says_what_it_found(dataset, tmp_path, capsys) -> None:
    write_masks(tmp_path / "masks", dataset)
    masks = ["--precomputed_masks_dir", str(tmp_path / "masks"), "--use_sam", "--sam_checkpoint", "absent.pth"]
    assert train.main(["--dataset_path", str(dataset), *masks, *FAST, "--val_fraction", "0", "--epochs", "2"]) == 0
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2 and all("masks found 7, placeholders 1" in line for line in lines)
    assert "masks: precomputed" in err
    missing = next(line for line in err.splitlines() if "1 of 8 images have no mask" in line)
    tree = f"--output_dir {tmp_path / 'masks'} --sam_model_type vit_nano --thermal_points 0"
    command = f"precompute_masks.py --dataset_path {dataset} {tree}"
    assert missing.endswith(command)
    assert {path.name for path in Path("models").glob("*.pth")} == {"best.pth", "latest.pth", "model_epoch2.pth"}
    options = json.loads(Path("models/train_options.json").read_text(encoding="utf-8"))
    assert (options["masks"], options["epochs"], options["pairs"]) == ("precomputed", 2, 4)
    assert load_checkpoint(Path("models/best.pth")).network.name == "thfuse_lite"


def test_resume_auto_goes_on_and_the_hint_repeats_the_command(dataset, capsys, monkeypatch) -> None:
    argv = ["--dataset_path", str(dataset), *FAST, "--loss_weights", "ssim=0", "gradient=1"]
    assert train.main([*argv, "--resume", "--max_steps", "1"]) == 0
    assert f"--resume: no {Path('models/latest.pth')} yet" in capsys.readouterr().err
    assert train.main([*argv, "--resume", "--epochs", "2"]) == 0
    assert "1 step done" in capsys.readouterr().err
    saved = load_checkpoint(Path("models/latest.pth"))
    assert (saved.epoch, saved.step) == (2, 4)
    assert saved.training["loss_weights"]["gradient"] == 1

    interrupted = RunResult(0, 3, 1.0, Path("models/best.pth"), Path("models/latest.pth"), interrupted=True)
    monkeypatch.setattr(Trainer, "run", lambda self: interrupted)
    assert train.main([*argv, "--resume", "auto"]) == 130
    hint = capsys.readouterr().err.splitlines()[-1]
    assert hint.startswith("stopped after step 3") and hint.count("--resume") == 1
    assert hint.endswith(f"gradient=1 --resume {Path('models/latest.pth')}") and str(dataset) in hint


def test_a_resumed_run_keeps_its_learning_rate(dataset, capsys) -> None:
    argv = ["--dataset_path", str(dataset), *FAST]
    assert train.main([*argv, "--init", "thfuse_lite", "--output_dir", "tuned"]) == 0
    assert train.main([*argv, "--epochs", "2", "--output_dir", "tuned", "--resume", "tuned"]) == 0
    assert "--lr was" not in capsys.readouterr().err
    assert load_checkpoint(Path("tuned/latest.pth")).training["lr"] == 1e-4
    assert train.main([*argv, "--epochs", "3", "--output_dir", "tuned", "--resume", "--lr", "0.01"]) == 0
    assert "--lr was 0.0001, now it is 0.01" in capsys.readouterr().err


def test_a_resumed_run_on_other_pairs_than_the_sample_asks_for_them(dataset, capsys) -> None:
    folders = ["--ir_dir", str(dataset / "ir"), "--vi_dir", str(dataset / "vi")]
    for number, given in enumerate((["--dataset_path", str(dataset)], folders)):
        assert train.main([*given, *FAST, "--output_dir", f"own{number}"]) == 0
        for resumed in (f"own{number}", "auto"):
            capsys.readouterr()
            assert train.main([*FAST, "--output_dir", f"own{number}", "--resume", resumed]) == 2
            [line] = capsys.readouterr().err.splitlines()
            trained = f"--resume own{number}/latest.pth: the run was trained on {dataset / 'ir'} and {dataset / 'vi'};"
            assert line.startswith(f"train.py: error: {trained}") and line.endswith("or --ir_dir and --vi_dir")
    both = ["--dataset_path", str(ROOT / TRAIN_SAMPLE), str(dataset), "--output_dir", "both"]
    assert train.main([*both, *FAST, "--max_steps", "1"]) == 0
    assert train.main([*FAST, "--output_dir", "both", "--resume"]) == 2
    assert f"{dataset / 'ir'} and " in capsys.readouterr().err
    assert train.main([*FAST, "--output_dir", "sample", "--max_steps", "1"]) == 0
    assert train.main([*FAST, "--output_dir", "sample", "--max_steps", "2", "--resume"]) == 0


def test_a_resumed_run_on_other_pairs_says_that_its_result_differs(dataset, make_pairs, tmp_path, capsys) -> None:
    moved = shutil.copytree(dataset, tmp_path / "moved")
    for former in (by_folders(dataset), ["--dataset_path", str(dataset)]):
        assert train.main([*former, *FAST, "--max_steps", "1", "--overwrite"]) == 0
        relative = [os.path.relpath(word) if word.startswith(os.sep) else word for word in by_folders(dataset)]
        for same in (by_folders(dataset), relative):
            assert train.main([*same, *FAST, "--max_steps", "1", "--resume"]) == 0
        assert "result differs" not in capsys.readouterr().err
        assert train.main([*by_folders(moved), *FAST, "--max_steps", "2", "--resume"]) == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if "result differs" in line]
        for line, modality in zip(lines, MODALITIES, strict=True):
            assert f"--{modality}_dir was {dataset / modality}, now it is {moved / modality}; training goes on" in line


def by_folders(dataset: Path) -> list[str]:
    return ["--ir_dir", str(dataset / "ir"), "--vi_dir", str(dataset / "vi")]


def test_report_has_the_curves_and_a_sample_of_each_checkpoint(dataset, capsys) -> None:
    argv = ["--dataset_path", str(dataset), *FAST, "--epochs", "2", "--save_interval", "1", "--report"]
    assert train.main(argv) == 0
    assert f"report: open {Path('models/report/index.html')}" in capsys.readouterr().err
    text = Path("models/report/data.js").read_text(encoding="utf-8")
    data = json.loads(text[len("window.REPORT = ") : -2])
    assert [row["epoch"] for row in data["rows"]] == [1, 2] == data["sampleEpochs"]
    assert len(data["samples"]) == 1 and "--report" in dict(data["facts"])["command"]


def test_a_finished_run_is_neither_lost_nor_mixed_with_another(dataset, tmp_path, capsys) -> None:
    argv = ["--dataset_path", str(dataset), *FAST, "--save_interval", "1"]
    assert train.main([*argv, "--epochs", "2"]) == 0
    finished = {path.name: path.read_bytes() for path in Path("models").iterdir() if path.is_file()}
    capsys.readouterr()
    for others in ([], ["--resume", "other/latest.pth"]):
        if others:
            shutil.copytree("models", "other")
        assert train.main([*argv, *others]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "--output_dir models: holds an earlier run (best.pth, latest.pth, model_epoch1.pth and 1 more)" in line
        assert "--resume" in line and "--overwrite" in line and ("other/latest.pth" in line) == bool(others)
        assert line.endswith("give another --output_dir, such as other" if others else "give another --output_dir")
    assert train.main([*argv, "--resume", "--overwrite"]) == 2
    assert {path.name: path.read_bytes() for path in Path("models").iterdir() if path.is_file()} == finished
    assert train.main([*argv, "--overwrite"]) == 0
    assert not Path("models/model_epoch2.pth").exists() and load_checkpoint(Path("models/best.pth")).epoch == 1


def test_the_log_of_another_run_is_neither_lost_nor_mixed_with_another(dataset, capsys) -> None:
    argv = ["--dataset_path", str(dataset), *FAST, "--log_dir", "log"]
    log = Path("log/train_log.csv")
    assert train.main([*argv, "--epochs", "2", "--save_interval", "1", "--output_dir", "first"]) == 0
    rows = log.read_bytes()
    capsys.readouterr()
    for others in ([], ["--resume"], ["--resume", "first/model_epoch1.pth"]):
        assert train.main([*argv, "--output_dir", "second", *others]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "--log_dir log: holds the train_log.csv of an earlier run" in line and "--overwrite" in line
        assert line.endswith("continue that run with --resume in its own output folder")
        assert log.read_bytes() == rows and not Path("second").exists()
    assert train.main([*argv, "--epochs", "3", "--output_dir", "first", "--resume"]) == 0
    assert log.read_bytes().startswith(rows) and log.read_bytes() != rows
    assert train.main([*argv, "--output_dir", "second", "--overwrite"]) == 0
    assert len([*Path("log/tensorboard").glob("events*")]) == bool(find_spec("tensorboard"))
    assert len(log.read_text(encoding="utf-8").splitlines()) == 2


def test_starts_from_given_weights(dataset, capsys) -> None:
    argv = ["--dataset_path", str(dataset), *FAST, "--lr", "1e-12", "--val_fraction", "0"]
    assert train.main([*argv, "--init", "models/thfuse_lite.safetensors", "--output_dir", "tuned"]) == 0
    err = capsys.readouterr().err
    assert (
        "need about" not in err and "starting from models/thfuse_lite.safetensors with a learning rate of 1e-12" in err
    )
    assert err.count("masks: none") == 1 and "masks found" not in err and "placeholders" not in err
    trained, (shipped, _) = (
        load_checkpoint(Path("tuned/best.pth")).weights,
        load_network(ROOT / "models/thfuse_lite.safetensors"),
    )
    torch.testing.assert_close(trained, shipped.state_dict(), atol=1e-6, rtol=1e-6)
    assert "the best weights are in tuned" in err
    assert train.main([*argv, "--init", "thfuse_lite", "--output_dir", "named"]) == 0
    assert train.main([*argv, "--init", "models/thfuse_lite.safetensors", "--network", "thfuse"]) == 2
    assert "--init models/thfuse_lite.safetensors: holds thfuse_lite" in capsys.readouterr().err
    assert train.main([*argv, "--crop_size", "40"]) == 0
    short = capsys.readouterr().err
    assert "random weights need about 1000 steps to fuse well, not 2: raise --epochs, or" in short
    assert short.count(" is 48x32, smaller than --crop_size 40: it is mirrored at its borders") == 1
    assert "smaller than" not in err


def test_goes_on_with_the_range_of_its_weights(dataset, capsys) -> None:
    for path in dataset.glob("ir/**/*.png"):
        Image.fromarray(np.linspace(7000, 9000, 32 * 48).reshape(32, 48).astype(np.uint16)).save(path)
    network, _ = load_network(ROOT / "models/thfuse_lite.safetensors")
    save_network(Path("own.safetensors"), network, NetworkSpec(network.name, network.options), (0, 40_000))

    def ir_range(*argv: str) -> list[float] | None:
        assert train.main(["--dataset_path", str(dataset), *FAST, "--dry_run", *argv]) == 0
        return json.loads(capsys.readouterr().out)["ir_range"]

    given = ["--init", "own.safetensors"]
    assert ir_range(*given) == [0, 40_000] and ir_range() is None
    assert ir_range(*given, "--ir_range", "image") is None
    low, high = ir_range(*given, "--ir_range", "dataset") or [0, 0]  # of another camera
    assert 7000 <= low < high <= 9000
    assert train.main(["--dataset_path", str(dataset), *FAST, *given, "--output_dir", "tuned"]) == 0
    assert "0 becomes black and 40000 white (as own.safetensors was trained)" in capsys.readouterr().err
    assert ir_range("--resume", "tuned/latest.pth", "--epochs", "2") == [0, 40_000]


def test_a_stopped_training_has_its_report(dataset, monkeypatch, capsys) -> None:
    run = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self: dataclasses.replace(run(self), interrupted=True))
    assert train.main(["--dataset_path", str(dataset), *FAST, "--report"]) == 130
    assert Path("models/report/index.html").is_file()
    err = capsys.readouterr().err
    assert "report: open" in err and "stopped after step 2" in err


def test_dry_run_prints_the_plan_and_writes_nothing(dataset, capsys) -> None:
    assert train.main(["--dataset_path", str(dataset), *FAST, "--dry_run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["masks"], plan["device"], plan["crop_size"]) == ("none", "cpu", 32)
    assert plan["plan"] == "3 pairs to train on, 1 to validate on"
    assert not list(Path().iterdir())


@pytest.mark.parametrize(("max_steps", "told"), [(3, True), (100_000, False)])
def test_a_run_whose_steps_alone_are_given_is_called_short_where_it_is(dataset, caplog, max_steps, told) -> None:
    options = TrainOptions(dataset_path=(dataset,), epochs=None, max_steps=max_steps, device="cpu")
    with caplog.at_level(logging.INFO):
        command._log_if_short(command._prepare(options))
    assert ("random weights need" in caplog.text) is told


def test_other_pairs_for_validation(dataset, make_pairs, tmp_path, capsys) -> None:
    other = make_pairs(("x", "y", "z"), root=tmp_path / "other")
    argv = ["--dataset_path", str(dataset), "--val_dataset_path", str(other), *FAST, "--dry_run"]
    assert train.main(argv) == 0
    assert "4 pairs to train on, 3 to validate on" in capsys.readouterr().out


def test_masks_of_validation_pairs_are_looked_at_too(dataset, make_pairs, tmp_path, caplog) -> None:
    write_masks(tmp_path / "masks", dataset)
    other = make_pairs(("x", "y"), root=tmp_path / "other")
    options = TrainOptions(
        dataset_path=(dataset,), val_dataset_path=other, precomputed_masks_dir=(tmp_path / "masks",),
        max_steps=1, crop_size=32, device="cpu",
    )  # fmt: skip
    live = dataclasses.replace(options, val_precomputed_masks_dir=Path("none"), use_sam=True, num_workers=2)
    assert command._prepare(live).settings.num_workers == 0, "else each process would have a SAM of its own"
    with caplog.at_level(logging.WARNING):
        command.train(options)
    assert "4 of 4 images have no mask" in caplog.text


def test_an_absent_tree_of_validation_pairs_is_told_by_its_own_name(dataset, make_pairs, tmp_path, capsys) -> None:
    other = make_pairs(("x", "y"), root=tmp_path / "other")
    absent = ["--val_dataset_path", str(other), "--val_precomputed_masks_dir", "absent"]
    assert train.main(["--dataset_path", str(dataset), *absent, *FAST]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: error: --val_precomputed_masks_dir absent: ")


def test_several_folders_are_mixed_each_with_its_masks_and_validation_pairs(
    dataset, make_pairs, tmp_path, capsys
) -> None:
    other = make_pairs(("x", "y", "z"), root=tmp_path / "other")
    write_masks(tmp_path / "masks", dataset)
    write_masks(tmp_path / "other_masks", other)
    folders = ["--dataset_path", str(dataset), "--dataset_path", str(other)]
    masks = ["--precomputed_masks_dir", str(tmp_path / "masks"), str(tmp_path / "other_masks")]
    assert train.main([*folders, *masks, *FAST]) == 0
    err = capsys.readouterr().err
    assert "5 pairs to train on, 2 to validate on" in err
    options = json.loads(Path("models/train_options.json").read_text(encoding="utf-8"))
    assert options["pairs"] == 5 and str(other / "ir") in options["ir_dir"] and len(options["mask_trees"]) == 2
    (line,) = (line for line in err.splitlines() if line.startswith("epoch "))
    found = [int(word) for word in re.findall(r"(?:masks found|placeholders) (\d+)", line)]
    assert sum(found) == 10 and found[1] <= 2


def test_folders_in_an_option_file_are_replaced_by_given_ones(dataset, make_pairs, tmp_path, capsys) -> None:
    other = make_pairs(("x", "y", "z"), root=tmp_path / "other")
    config = tmp_path / "options.yaml"
    config.write_text(f"dataset_path: ['{dataset}', '{other}']\n", encoding="utf-8")
    for given, number in (([], 5), (["--dataset_path", str(other)], 2)):
        assert train.main(["--config", str(config), *given, "--dry_run", "--device", "cpu"]) == 0
        assert json.loads(capsys.readouterr().out)["plan"].startswith(f"{number} pairs")


def test_skip_bad_leaves_out_what_cannot_be_used_and_lists_it(dataset, make_pairs, tmp_path, capsys) -> None:
    write_masks(tmp_path / "masks", dataset)
    MaskFiles(tmp_path / "masks").write("vi", "a/1", np.ones((8, 8), np.uint8))
    broken = dataset / "ir" / "b" / "1.png"
    broken.write_bytes(broken.read_bytes()[:-60])
    (dataset / "vi" / "b" / "2.png").unlink()
    argv = ["--dataset_path", str(dataset), "--precomputed_masks_dir", str(tmp_path / "masks"), *FAST]
    assert train.main([*argv, "--skip_bad"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped ")]
    assert len(lines) == 3
    assert any("ir/b/2.png: no partner" in line.replace(os.sep, "/") for line in lines)
    assert any(line.startswith("skipped b/1: ") for line in lines)
    assert any("the mask of a/1" in line and "8x8" in line for line in lines)


def test_mask_of_another_size_is_one_line(dataset, tmp_path, capsys) -> None:
    write_masks(tmp_path / "masks", dataset)
    MaskFiles(tmp_path / "masks").write("vi", "a/1", np.ones((8, 8), np.uint8))
    line = failure(capsys, ["--dataset_path", str(dataset), "--precomputed_masks_dir", str(tmp_path / "masks")], 1)
    assert "8x8" in line and "48x32" in line and "precompute_masks.py" in line


def test_missing_partner_is_one_line(dataset, capsys) -> None:
    (dataset / "vi" / "b" / "2.png").unlink()
    line = failure(capsys, ["--dataset_path", str(dataset)], 2)
    assert "2.png has no partner" in line and "--skip_bad" in line


def test_broken_image_is_one_line_also_from_a_worker(dataset, capsys) -> None:
    for path in (dataset / "ir").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:-60])
    assert train.main(["--dataset_path", str(dataset), *FAST, "--num_workers", "1"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("train.py: error: ") and ".png" in line and "Traceback" not in line
    assert not Path("models/train_options.json").exists(), "nothing was trained"


def test_every_training_option_reaches_the_run(dataset, capsys) -> None:
    argv = ["--accumulate", "2", "--schedule", "plateau", "--warmup_steps", "3", "--ema_decay", "0.9"]
    argv += ["--precision", "bf16", "--val_metrics", "SD", "SCD", "--grad_clip", "0.5", "--weight_decay", "0"]
    assert train.main(["--dataset_path", str(dataset), *FAST, *argv]) == 0
    saved = load_checkpoint(Path("models/latest.pth"))
    for key, value in (("accumulate", 2), ("schedule", "plateau"), ("ema_decay", 0.9), ("precision", "bf16")):
        assert saved.training[key] == value
    assert saved.raw_weights and saved.scheduler["name"] == "plateau"
    (row,) = csv.DictReader(Path("models/train_log.csv").read_text(encoding="utf-8").splitlines())
    assert "val/SD" in row and "val/SCD" in row and "val/EN" not in row


def failure(capsys, argv: list[str], status: int) -> str:
    assert train.main(argv) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("train.py: error: "), lines
    assert not list(Path().iterdir())
    return lines[0]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--dataset_path", "absent"], ("absent",)),
        (["--val_dataset_path", "absent"], ("--val_dataset_path absent: no such folder",)),
        (["--network", "resnet"], ("--network", "resnet", "thfuse_lite")),
        (["--loss_weights", "beauty=1"], ("beauty", "ssim")),
        (["--loss_weights", "ssim=-1"], ("--loss_weights ssim=-1", "at least 0")),
        (["--loss_weights", "perceptual=1"], ("perceptual", "--vgg_weights")),
        (["--val_metrics", "SD", "Beauty"], ("--val_metrics Beauty", "SCD")),
        (["--precomputed_masks_dir", ".", ".", "."], ("3 trees", "1 --dataset_path")),
        (["--precision", "fp16", "--device", "cpu"], ("--precision fp16", "bf16")),
        (["--resume", "absent.pth"], ("--resume absent.pth", "no such file")),
        (["--precomputed_masks_dir", "absent"], ("--precomputed_masks_dir absent", "precompute_masks.py")),
        (["--val_precomputed_masks_dir", "none"], ("--val_precomputed_masks_dir none", "give --val_dataset_path")),
        (["--device", "tpu"], ("tpu",)),
        (["--config", "absent.yaml"], ("--config absent.yaml",)),
        (["--ir_dir", "."], ("--vi_dir",)),
    ],
)
def test_wrong_option_is_one_line_and_leaves_nothing(dataset, capsys, argv: list[str], words: tuple[str, ...]) -> None:
    given = argv if "--dataset_path" in argv or "--ir_dir" in argv else ["--dataset_path", str(dataset), *argv]
    line = failure(capsys, given, 2)
    assert all(word in line for word in words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_absent_gpu_is_one_line(dataset, capsys) -> None:
    assert "cuda" in failure(capsys, ["--dataset_path", str(dataset), "--device", "cuda"], 2)


def test_pair_of_two_sizes_is_one_line(dataset, make_pairs, tmp_path, capsys) -> None:
    larger = make_pairs(("a/2",), size=(40, 48), root=tmp_path / "larger")
    shutil.copy(larger / "vi" / "a" / "2.png", dataset / "vi" / "a" / "2.png")
    line = failure(capsys, ["--dataset_path", str(dataset)], 1)
    assert "a/2" in line and "48x32" in line and "48x40" in line


def test_output_dir_that_cannot_be_made_is_one_line(dataset, tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    argv = ["--dataset_path", str(dataset), *FAST, "--output_dir", str(tmp_path / "file" / "models")]
    assert train.main(argv) == 1
    assert "file" in capsys.readouterr().err.splitlines()[-1]


SCRIPTS = """
import runpy, sys

for name in ("segment_anything", "mobile_sam", "thfuse_sam.sam"):
    sys.modules[name] = None  # importing it raises ImportError
root, *parts = sys.argv[1:]
middle = parts.index("+")
for script, argv in (("train.py", parts[:middle]), ("test.py", parts[middle + 1 :])):
    sys.argv = [script, *argv]
    try:
        runpy.run_path(f"{root}/{script}", run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            raise
"""


def test_scripts_with_a_mask_tree_never_import_sam(dataset, tmp_path) -> None:
    write_masks(Path("precomputed_masks"), dataset)
    sam = ["--use_sam", "--sam_checkpoint", "sam_vit_h_4b8939.pth", "--sam_model_type", "vit_h"]
    masks = ["--precomputed_masks_dir", "precomputed_masks"]
    first = [*sam, *masks, "--dataset_path", str(dataset), *FAST]
    folders = ["--ir_dir", str(dataset / "ir"), "--vi_dir", str(dataset / "vi")]
    second = ["--model_path", "models/model_epoch1.pth", *sam, *masks, *folders, "--output_dir", "results"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPTS, str(ROOT), *first, "+", *second, "--device", "cpu"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "masks found 7, 1 image without a mask" in done.stderr
    written = (path.relative_to("results") for path in Path("results").glob("[ab]/*.png"))
    fused = sorted(path.as_posix() for path in written if path.parts[0] != "report")
    assert fused == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]
