"""`finetune.py` and `predict.py` from the command line, on a few generated images and a small random model."""

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from thfuse_sam.cli.commands import finetune, precompute, predict
from thfuse_sam.commands import finetune as command
from thfuse_sam.false_colour import colour_table
from thfuse_sam.images import write_image
from thfuse_sam.options.finetune import FinetuneOptions
from thfuse_sam.options.generator import GENERATOR_DEFAULTS
from thfuse_sam.options.training import FinetuneSettings
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.sam.registry import build_sam, generator_defaults
from thfuse_sam.shipped import shipped_root
from thfuse_sam.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path for path in (ROOT / "configs" / "finetune").glob("*.yaml") if "mixture_example" not in path.name)

MIXTURE = ROOT / "configs" / "finetune" / "mixture_example.yaml"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("THFUSE_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four images with instance masks of one or two objects, as in Penn-Fudan."""
    root = tmp_path / "data"
    for folder in ("PNGImages", "PedMasks"):
        (root / folder).mkdir(parents=True)
    for index in range(4):
        random = np.random.default_rng(index)
        image = random.integers(0, 60, (40, 56, 3), dtype=np.uint8)
        labels = np.zeros((40, 56), np.uint8)
        labels[5:20, 4:24] = 1
        if index % 2:
            labels[22:38, 30:50] = 2
        image[labels > 0] = 220
        Image.fromarray(image).save(root / "PNGImages" / f"scene{index}.png")
        Image.fromarray(labels).save(root / "PedMasks" / f"scene{index}_mask.png")
    return root


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "base.pth"
    torch.save(build_vit_nano(64).state_dict(), path)
    return path


@pytest.fixture
def run(data: Path, checkpoint: Path) -> Callable[..., int]:
    def call(*options: str) -> int:
        given = ["--data_dir", str(data), "--checkpoint", str(checkpoint), "--num_epochs", "1", *options]
        return finetune.main(given)

    return call


def test_tunes_exports_and_the_export_makes_masks(
    run: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    make_pairs: Callable[..., Path],
) -> None:
    full = tmp_path / "full.pth"
    with caplog.at_level(logging.INFO):
        assert run("--freeze_image_encoder", "--exp_name", "a", "--batch_size", "2", "--export", str(full)) == 0
    table = capsys.readouterr().out
    assert "| box | IoU |" in table and "zero-shot | fine-tuned" in table
    folder = tmp_path / "runs" / "a"
    assert {"best.safetensors", "latest.pth", "train_log.csv"} <= {path.name for path in folder.glob("*.*")}
    # The exported file and the trained weights on their base predict the same.
    image = str(tmp_path / "data" / "PNGImages" / "scene1.png")
    for name, source in (("one", full), ("two", folder / "best.safetensors")):
        options = ["--base_checkpoint", str(tmp_path / "base.pth")] if name == "two" else []
        assert (
            predict.main(
                ["--input", image, "--checkpoint", str(source), "--boxes", "4,5,24,20", "--output_dir", name, *options]
            )
            == 0
        )
    assert np.array_equal(np.load(tmp_path / "one" / "scene1.npy"), np.load(tmp_path / "two" / "scene1.npy"))
    assert precompute.main(
        ["--sam_checkpoint", str(full), "--dataset_path", str(make_pairs()), "--output_dir", "tree",
         "--points_per_side", "4", "--pred_iou_thresh", "0", "--stability_score_thresh", "0"]
    ) == 0  # fmt: skip
    assert np.load(tmp_path / "tree" / "ir" / "0001.npy").shape == (32, 48)
    # What suits the tuned model's estimates of IoU is the default for whoever opens the file.
    results = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    shift = results["fine_tuned"]["point"]["estimated_iou"] - results["zero_shot"]["point"]["estimated_iou"]
    expected = round(GENERATOR_DEFAULTS["vit_nano"].pred_iou_thresh + shift, 2)
    assert AutomaticMaskGenerator(build_sam("vit_nano", full)).settings.pred_iou_thresh == expected
    assert f"{full} has its own defaults for masks: `pred_iou_thresh` {expected}" in caplog.text
    assert precompute.main([
        "--sam_checkpoint", str(full), "--dataset_path", str(tmp_path / "pairs"), "--output_dir", "t", "--dry_run"
    ]) == 0  # fmt: skip
    assert f"pred_iou_thresh: {expected}" in capsys.readouterr().out
    # And later, from the trained weights alone.
    again = tmp_path / "again.safetensors"
    trained = ["--checkpoint", str(folder / "best.safetensors"), "--base_checkpoint", str(tmp_path / "base.pth")]
    assert finetune.main([*trained, "--export", str(again)]) == 0
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    whole = torch.load(full, weights_only=True)
    assert all(torch.equal(value, whole[name]) for name, value in load_file(again).items())
    # Of other weights there is no evaluation; a whole checkpoint keeps what it has.
    assert generator_defaults("vit_nano", again).pred_iou_thresh == expected
    caplog.clear()
    assert finetune.main(["--checkpoint", str(full), "--export", str(again)]) == 0
    assert generator_defaults("vit_nano", again).pred_iou_thresh == expected and "before tuning" not in caplog.text
    trained[1] = str(folder / "other.safetensors")
    tensors = load_file(folder / "best.safetensors")
    tensors[next(iter(tensors))] += 1
    with safe_open(folder / "best.safetensors", "pt") as file:
        save_file(tensors, trained[1], file.metadata())
    assert finetune.main([*trained, "--export", str(again)]) == 0
    usual = GENERATOR_DEFAULTS["vit_nano"].pred_iou_thresh
    assert generator_defaults("vit_nano", again).pred_iou_thresh == usual
    assert f"{again}: has the `pred_iou_thresh` of the model before tuning" in caplog.text
    # Never over the model that was tuned, which the trained weights need, also where nobody named it.
    base = Path(shutil.copy(tmp_path / "base.pth", folder))
    before = base.read_bytes()
    assert finetune.main([*trained[:2], "--export", str(base)]) == 2
    assert "which would be lost" in capsys.readouterr().err and base.read_bytes() == before


def test_a_run_in_place_of_another_leaves_no_evaluation_of_that(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("--freeze_image_encoder") == 0
    assert (tmp_path / "runs/finetune/evaluation.json").is_file()
    assert run("--freeze_image_encoder", "--val_fraction", "0", "--overwrite") == 0
    assert not (tmp_path / "runs/finetune/evaluation.json").exists()


def test_a_dry_run_exports_nothing(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune.main(["--checkpoint", str(checkpoint), "--export", str(tmp_path / "e.pth"), "--dry_run"]) == 2
    assert "--data_dir is not given" in only_line(capsys) and not (tmp_path / "e.pth").exists()


def test_an_export_never_takes_the_place_of_the_weights_it_is_made_of(
    run: Callable[..., int], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = checkpoint.read_bytes()
    for given in ([], ["--dry_run"]):
        assert run("--export", str(checkpoint), *given) == 2
        assert "is the model that was tuned, which would be lost; give another name" in capsys.readouterr().err
    assert checkpoint.read_bytes() == weights and not (tmp_path / "runs").exists()


def test_a_run_is_resumed_on_its_own_images(
    run: Callable[..., int], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("val", "other"):
        shutil.copytree(data, tmp_path / name)
    assert run("--val_dir", str(tmp_path / "val")) == 0
    capsys.readouterr()
    (tmp_path / "val").rename(tmp_path / "moved")
    assert run("--val_dir", str(tmp_path / "moved"), "--resume") == 0
    assert f"--val_dir was {tmp_path / 'val'}, now it is {tmp_path / 'moved'}; training goes" in capsys.readouterr().err
    for folder, file in (("PNGImages", "scene3.png"), ("PedMasks", "scene3_mask.png")):
        (tmp_path / "other" / folder / file).rename(tmp_path / "other" / folder / file.replace("3", "4"))
    for given, use in ((["--val_dir", str(tmp_path / "other")], "validated"), (["--val_fraction", "0"], "validated")):
        assert run(*given, "--resume") == 2
        assert f"--resume: the run was {use} on other images" in capsys.readouterr().err
    given = ["--data_dir", str(tmp_path / "other"), "--val_dir", str(tmp_path / "moved"), "--resume"]
    assert run(*given) == 2 and "the run was trained on other images" in capsys.readouterr().err


def test_resume_goes_on(run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run("--freeze_image_encoder") == 0
    with caplog.at_level(logging.INFO):
        assert run("--freeze_image_encoder", "--num_epochs", "2", "--resume") == 0
    assert "resumed" in caplog.text
    assert len((tmp_path / "runs" / "finetune" / "train_log.csv").read_text().splitlines()) == 3


def test_a_finished_run_is_not_lost(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "finetune"
    assert run("--num_epochs", "2", "--save_interval", "1") == 0
    finished = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    capsys.readouterr()
    assert run("--lr", "1e-3") == 2
    line = only_line(capsys)
    assert f"--output_dir {Path('runs/finetune')}: holds an earlier run (best.safetensors, " in line
    assert "--resume" in line and line.endswith("replace it with --overwrite, or give another --exp_name")
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == finished
    assert run("--overwrite") == 0
    assert (folder / "epoch1.safetensors").is_file() and not (folder / "epoch2.safetensors").exists()


def test_one_example(run: Callable[..., int], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert run("-d", "--num_epochs", "5", "--n_iterations", "2") == 0
    assert "1 image to train on, 1 to validate on" in caplog.text and "2 steps" in caplog.text


@pytest.mark.parametrize("value", ["off", "auto", "kept"])
def test_where_embeddings_go(run: Callable[..., int], tmp_path: Path, cache: Path, value: str) -> None:
    assert run("--freeze_image_encoder", "--cache_embeddings", value) == 0
    found = {path: len(list(path.rglob("*.safetensors"))) for path in (cache, tmp_path / "kept")}
    assert found == {cache: 4 * (value == "auto"), tmp_path / "kept": 4 * (value == "kept")}


def test_mirrored_images_are_not_kept(run: Callable[..., int], cache: Path) -> None:
    assert run("--freeze_image_encoder", "--flip", "0.5") == 0
    assert len(list(cache.rglob("*.safetensors"))) == 1, "that of the validation image"


def test_report_shows_masks_before_and_after(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("--freeze_image_encoder", "--num_epochs", "2", "--report") == 0
    report = tmp_path / "runs" / "finetune" / "report"
    data = json.loads((report / "data.js").read_text(encoding="utf-8")[len("window.REPORT = ") : -2])
    scores = json.loads((tmp_path / "runs" / "finetune" / "evaluation.json").read_text(encoding="utf-8"))
    facts = dict(data["facts"])
    assert facts["command"].startswith("python finetune.py --data_dir")
    assert facts["images"] == "3 images to train on, 1 to validate on"
    assert facts["network"].startswith("vit_nano, ") and "box 1, point 1" in facts["prompts"]
    shown = {(row["kind"], row["figure"]): (row["before"], row["after"]) for row in data["figures"]}
    for kind in ("point", "box"):
        pair = (scores["zero_shot"][kind]["iou"], scores["fine_tuned"][kind]["iou"])
        assert shown[kind, "IoU"] == pytest.approx(pair, abs=1e-5)
        # One image validates: its pictures show the masks that were scored.
        (sample,) = data["samples"]
        assert (sample["before"][kind]["iou"], sample["after"][kind]["iou"]) == pytest.approx(pair, abs=1e-5)
        assert (report / sample["after"][kind]["picture"]).is_file()
    curve = next(chart for chart in data["charts"] if chart["title"] == "IoU, validation")
    assert [len(line["points"]) for line in curve["series"]] == [3, 3], "before training, and two epochs"


def test_dry_run_writes_nothing(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert run("--dry_run", "--prompts", "box=2", "mask=1", "--loss", "bce=3") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["sam_model_type"], plan["epochs"], plan["loss"]["bce"]) == ("vit_nano", 1, 3.0)
    assert plan["prompts"] == {"box": 2, "point": 0, "random": 0, "points": 0, "negative": 0, "mask": 1}
    assert "3 images to train on, 1 to validate on" in plan["plan"]
    assert sorted(tmp_path.rglob("*")) == before


def test_synonyms_are_one_option() -> None:
    parse = finetune.build_parser().parse_command
    groups = [
        (["--data_dir", "d"], ["--data_root", "d"]),
        (["--checkpoint", "c.pth"], ["--checkpoint_path", "c.pth"], ["--sam_checkpoint", "c.pth"]),
        (["--model_type", "vit_t"], ["-m", "vit_t"], ["--sam_model_type", "vit_t"]),
        (["--batch_size", "3"], ["-b", "3"]),
        (["--n_objects", "3"], ["--n_objects_per_batch", "3"], ["-n", "3"]),
        (["--device", "cpu"], ["-g", "cpu"]),
        (["--max_steps", "3"], ["--n_iterations", "3"], ["-i", "3"], ["--steps", "3"]),
        (["--sub_iterations", "3"], ["--n_sub_iteration", "3"], ["-s", "3"]),
        (["--num_epochs", "3"], ["--epoch_num", "3"], ["--epochs", "3"], ["-e", "3"]),
        (["--lr", "0.1"], ["--learning_rate", "0.1"]),
        (["--exp_name", "x"], ["--checkpoint_name", "x"]),
        (["--val_interval", "3"], ["--test_interval", "3"], ["--eval_interval", "3"]),
        (["--accumulate", "3"], ["--virtual_batch_size", "3"]),
        (["--val_fraction", "0.5"], ["--val_ratio", "0.5"]),
        (["--plateau_patience", "7"], ["--patience", "7"]),
        (["--debug_with_one_example"], ["-d"]),
        (["--config", str(RECIPES[0])], ["-c", str(RECIPES[0])]),
    ]  # fmt: skip
    for first, *others in groups:
        for other in others:
            assert parse(other).options == parse(first).options, other
        assert parse(first).options != parse([]).options, first


# Commands of earlier workflows, and what they mean here.
EARLIER = [
    (
        "--data_dir O --checkpoint C.pth --model_type vit_h --output_dir R --freeze_image_encoder --batch_size 2 "
        "--num_epochs 10 --lr 1e-5 --point_selection center --num_points 1 --eval_interval 2",
        {"data_dir": Path("O"), "sam_model_type": "vit_h", "freeze_image_encoder": True, "lr": 1e-5, "val_interval": 2},
    ),
    (
        "--data_root D --model_type vit_h --checkpoint_path C.pth --freeze_image_encoder --batch_size 2 --steps 1500 "
        "--learning_rate 1e-5 --weight_decay 0.01",
        {"data_dir": Path("D"), "sam_checkpoint": Path("C.pth"), "max_steps": 1500, "weight_decay": 0.01},
    ),
    (
        "-d --exp_name first -m vit_t -b 1 -n 25 -g cuda -i 200 -s 2",
        {
            **{"debug_with_one_example": True, "exp_name": "first", "sam_model_type": "vit_t", "device": "cuda"},
            **{"n_objects": 25, "max_steps": 200, "sub_iterations": 2, "data_dir": None},
        },
    ),
    (
        "-b 4 --virtual_batch_size 4 --lr 1e-4 --alpha 0.75 --epoch_num 10 --save_interval 2 --exp_name NAME",
        {"batch_size": 4, "accumulate": 4, "alpha": 0.75, "epochs": 10, "exp_name": "NAME"},
    ),
    ("--dist True --port 1234 --epoch 5 --seed 21", {"epochs": 5, "seed": 21}),
    ("-d -i 5", {"debug_with_one_example": True, "max_steps": 5}),
]


@pytest.mark.parametrize(("command", "expected"), EARLIER)
def test_commands_of_earlier_workflows_are_understood(command: str, expected: dict[str, Any]) -> None:
    options = finetune.build_parser().parse_command(command.split()).options
    assert {name: getattr(options, name) for name in expected} == expected


def test_predict_takes_earlier_commands_too() -> None:
    options = (
        predict.build_parser()
        .parse_command(["--image_path", "I.png", "--checkpoint", "C.pth", "--model_type", "vit_h"])
        .options
    )
    assert (options.input, options.sam_checkpoint, options.sam_model_type) == (Path("I.png"), Path("C.pth"), "vit_h")


@pytest.mark.parametrize("flag", ["-c", "--config"])
def test_an_option_file_may_hold_the_mixture(run: Callable[..., int], data: Path, tmp_path: Path, flag: str) -> None:
    part = {"data_dir": str(data), "bg_paths": None, "w_aug": True, "aug_details": ["crop_foreground"]}
    content = {"dataset": {"train": [{**part, "percentage": 0.5}], "test": {"data_dir": str(data), "bg_paths": None}}}
    (tmp_path / "cfg.yaml").write_text(yaml.safe_dump({**content, "n_objects": 3}), encoding="utf-8")
    argv = [flag, "cfg.yaml", "--checkpoint", "base.pth", "--dist", "True", "--epoch", "1", "--port", "1234"]
    assert finetune.main(argv) == 0
    options = json.loads((tmp_path / "runs/finetune/finetune_options.json").read_text(encoding="utf-8"))
    assert (options["n_objects"], options["images"], options["data_dir"]) == (3, 2, "cfg.yaml")


def settings_of(options: FinetuneOptions) -> FinetuneSettings:
    return command.finetune_settings(options, command._adaptation(options))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], 0.5),
        (["--freeze_image_encoder"], 0.0),
        (["--freeze_image_encoder", "--cache_embeddings", "off"], 0.5),
        (["--freeze_image_encoder", "--flip", "0.25"], 0.25),
        (["--lora_rank", "2", "--freeze_image_encoder"], 0.5),
        (["--debug_with_one_example"], 0.0),
        (["--flip", "0"], 0.0),
    ],
)
def test_images_are_mirrored_unless_their_embeddings_are_kept(given: list[str], expected: float) -> None:
    assert settings_of(finetune.build_parser().parse_command(given).options).flip == expected


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_understood(recipe: Path) -> None:
    options = finetune.build_parser().parse_command(["--config", str(recipe)]).options
    assert any(command.prompt_mix(options).weights().values())
    settings = settings_of(options)
    assert settings.lr < 1e-3 and options.exp_name
    assert len(RECIPES) == 4


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--model_type", "vit_x"], 2, "vit_x"),
        (["--checkpoint", "missing.pth"], 1, "missing.pth: no such checkpoint"),
        (
            ["--model_type", "vit_b"],
            1,
            "is a vit_nano, not a vit_b; use --sam_model_type vit_nano or a checkpoint of vit_b (177 missing",
        ),
        (["--freeze_image_encoder", "--freeze_prompt_encoder", "--freeze_mask_decoder"], 2, "every part"),
        (["--data_dir", "nowhere"], 2, "nowhere"),
        (["--labels", "unicorn"], 2, "--labels"),
        (["--precision", "fp16", "--device", "cpu"], 2, "--precision fp16"),
        (["--cache_embeddings", "somewhere"], 2, "--freeze_image_encoder"),
        (["--prompts", "box=1", "--point_selection", "center"], 2, "give one"),
        (["--prompts", "box=0"], 2, "0"),
        (["--prompts", "circle=1"], 2, "circle"),
        (["--loss", "dice=0", "focal=0"], 2, "no loss of the mask"),
        (["--alpha", "2"], 2, "--alpha"),
        (["--export", "full.onnx"], 2, "--export full.onnx"),
        (["--resume", "none.pth"], 2, "--resume none.pth"),
        (["--lora_alpha", "16"], 2, "--lora_alpha 16.0: has no effect without adapters; give --lora_rank"),
        (["-d", "--val_dir", "data"], 2, "--val_dir data: is given beside --debug_with_one_example"),
        (["--lr", "0"], 2, "--lr"),
        (["--output_dir", "base.pth"], 1, "base.pth"),
        (["--export", "base.pth/full.pth"], 1, "--export base.pth: base.pth is a file"),
        (["--log_dir", "base.pth"], 1, "--log_dir base.pth: base.pth is a file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    run: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    status: int,
    words: str,
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert run(*options) == status
    assert words in only_line(capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_truncated_checkpoint_and_checkpoint_of_other_keys(
    run: Callable[..., int], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.load(checkpoint, weights_only=True)
    weights["mask_decoder.extra"] = weights.pop("mask_decoder.iou_token.weight")
    torch.save(weights, checkpoint)
    assert run() == 1
    line = only_line(capsys)
    assert "mask_decoder.extra" in line and "mask_decoder.iou_token.weight" in line
    checkpoint.write_bytes(checkpoint.read_bytes()[:-500])
    assert run() == 1
    assert "truncated" in only_line(capsys)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        cv2.error("error: (-4:Insufficient memory) Failed to allocate 1 bytes"),
    ],
)
def test_full_memory_names_the_option(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(self: Trainer) -> None:
        raise error

    monkeypatch.setattr(Trainer, "run", fail)
    assert run() == 1
    assert "--n_objects" in only_line(capsys)


def test_trained_weights_alone_are_no_start(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    capsys.readouterr()
    assert run("--exp_name", "b", "--checkpoint", str(tmp_path / "runs" / "finetune" / "best.safetensors")) == 1
    assert "--export FILE.pth" in only_line(capsys)
    assert finetune.main([]) == 2
    assert "--data_dir is not given" in only_line(capsys)


@pytest.mark.parametrize(
    ("given", "expected"),
    [([], (10, None)), (["-i", "7"], (None, 7)), (["-e", "3"], (3, None)), (["-i", "7", "-e", "3"], (3, 7))],
)
def test_iterations_decide_the_epochs_where_none_are_given(
    given: list[str], expected: tuple[int | None, int | None]
) -> None:
    settings = settings_of(finetune.build_parser().parse_command(given).options)
    assert (settings.epochs, settings.max_steps) == expected


def test_without_images_to_validate_on_the_training_loss_decides(
    run: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert run("--freeze_image_encoder", "--val_fraction", "0") == 0
    assert "0 to validate on" in caplog.text and "did not help" not in caplog.text


def test_a_training_that_does_not_help_says_so(
    run: Callable[..., int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for before, after, told in ((0.7, 0.6, True), (0.6, 0.7, False)):
        caplog.clear()
        values = iter([before, after])
        monkeypatch.setattr(command, "mean_iou", lambda results, values=values: next(values))
        assert run("--freeze_image_encoder", "--exp_name", f"after_{after}") == 0
        assert (
            "fine-tuning did not help: mean IoU on the validation images is 0.600, was 0.700" in caplog.text
        ) is told


# predict.py


@pytest.fixture
def ask(checkpoint: Path, data: Path) -> Callable[..., int]:
    def call(*options: str) -> int:
        return predict.main(["--input", str(data / "PNGImages"), "--checkpoint", str(checkpoint), *options])

    return call


def test_every_prompt_is_an_object_in_every_format(ask: Callable[..., int], tmp_path: Path) -> None:
    options = ["--points", "10,10", "12,12,0", "--points", "40,30", "--boxes", "4,5,24,20"]
    assert ask(*options, "--format", "npy", "png", "coco", "--overlay", "--output_dir", "out") == 0
    content = json.loads((tmp_path / "out" / "annotations.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in content["images"]] == [f"scene{index}.png" for index in range(4)]
    assert len(content["annotations"]) == 12
    for image in content["images"]:
        name = Path(image["file_name"]).stem
        labels = np.load(tmp_path / "out" / f"{name}.npy")
        assert labels.shape == (40, 56) and labels.max() <= 3
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / f"{name}.png")), labels)
        overlay = np.asarray(Image.open(tmp_path / "out" / "overlays" / f"{name}.png"))
        assert overlay.shape == (40, 56, 3) and tuple(overlay[30, 40]) == (40, 220, 60)  # the second point, in green
        own = [item for item in content["annotations"] if item["image_id"] == image["id"]]
        union = np.zeros((40, 56), bool)
        for item in own:
            area = int(coco_mask.area(item["segmentation"]))
            assert area == item["area"]
            with warnings.catch_warnings():
                # pycocotools' own array class speaks an older protocol than NumPy 2 asks for; the result is right.
                warnings.simplefilter("ignore", DeprecationWarning)
                union |= coco_mask.decode(item["segmentation"]).astype(bool)
        assert np.array_equal(union, labels > 0)


def test_automatic_masks_of_one_image(ask: Callable[..., int], data: Path, tmp_path: Path) -> None:
    image = str(data / "PNGImages" / "scene0.png")
    assert ask("--input", image, "--points_per_side", "4", "--pred_iou_thresh", "0", "--output_dir", "out") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scene0.npy"]


def test_masks_of_an_infrared_image_are_those_of_a_tree(tmp_path: Path) -> None:
    image = shipped_root() / "datasets" / "sample" / "test" / "ir" / "test_night_001.png"
    (tmp_path / "ir").mkdir()
    (tmp_path / "ir" / image.name).symlink_to(image)
    few = ["--sam_model_type", "vit_nano", "--points_per_side", "4", "--device", "cpu", "--modality", "ir"]
    assert precompute.main([*few, "--ir_dir", "ir", "--output_dir", "tree"]) == 0
    assert predict.main([*few, "--input", "ir", "--output_dir", "out"]) == 0
    assert predict.main([*few, "--input", "ir", "--output_dir", "grid", "--thermal_points", "0"]) == 0
    labels, expected, without_warm = (
        np.load(tmp_path / folder / f"{image.stem}.npy") for folder in ("out", "tree/ir", "grid")
    )
    assert np.array_equal(labels, expected) and labels.max() > without_warm.max()


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--boxes", "4,5,24,20", "--pred_iou_thresh", "0.9"], 2, "--pred_iou_thresh 0.9: is for masks of everything"),
        (["--points", "10,10", "--adaptive_points"], 2, "--adaptive_points True: is for masks of everything"),
        (["--thermal_points", "20"], 2, "--thermal_points 20: is for infrared images; give --modality ir"),
        (["--points", "10"], 2, "X,Y"),
        (["--points", "10,10,2"], 2, "inside (1) or outside (0)"),
        (["--points", "10,10,0"], 2, "no point inside"),
        (["--points", "100,10"], 2, "outside the image of 56x40"),
        (["--boxes", "20,20,10,30"], 2, "--boxes 20,20,10,30"),
        (["--boxes", "20,20,60,30"], 2, "reaches out of the image of 56x40"),
        (["--boxes", "nan,0,1,1"], 2, "X0,Y0,X1,Y1"),
        (["--input", "nowhere"], 2, "nowhere"),
        (["--checkpoint", "none.pth"], 1, "none.pth"),
    ],
)
def test_bad_prompts_and_paths(
    ask: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    status: int,
    words: str,
) -> None:
    assert ask(*options, "--output_dir", "out") == status
    assert words in only_line(capsys)
    assert not (tmp_path / "out").exists()


def test_masks_of_an_earlier_run_are_named(
    data: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = data / "PNGImages"

    def masks(image: str, *options: str) -> str:
        given = ["--input", str(images / image), "--checkpoint", str(checkpoint), "--points", "9,9"]
        assert predict.main([*given, *options]) == 0
        return capsys.readouterr().err

    out = ("-o", str(tmp_path / "out"))
    for _ in range(2):
        assert "not of this run" not in masks("scene1.png", *out, "--overlay")
    said = masks("scene2.png", *out, "--format", "coco")
    assert f"not of this run, but beside it: 2 mask files, such as {tmp_path / 'out' / 'scene1.npy'}" in said
    assert "such as" not in masks("scene2.png", "-o", str(images)), "images of the data set are no masks"


@pytest.mark.parametrize(("folder", "options"), [(".", ["--overlay"]), ("overlays", ["--format", "npy", "png"])])
def test_predictions_never_replace_the_images(
    ask: Callable[..., int], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str, options: Any
) -> None:
    (data / "PNGImages").rename(tmp_path / "overlays")
    before = {path: path.read_bytes() for path in (tmp_path / "overlays").iterdir()}
    assert ask("--boxes", "4,5,24,20", "--input", "overlays", "--output_dir", folder, *options) == 2
    assert f"--output_dir {folder}: {Path('overlays/scene0.png')} is an input image" in only_line(capsys)
    assert {path: path.read_bytes() for path in (tmp_path / "overlays").iterdir()} == before


@pytest.mark.parametrize("prompt", [("--boxes", "4,5,50,20"), ("--points", "50,20")])
def test_prompts_are_checked_against_every_image_first(
    ask: Callable[..., int], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], prompt: tuple[str, str]
) -> None:
    write_image(data / "PNGImages" / "scene3.png", np.zeros((40, 40, 3), np.uint8))
    assert ask(*prompt, "--output_dir", "out") == 2
    line = only_line(capsys)
    assert "scene3.png" in line and prompt[0] in line
    assert not (tmp_path / "out").exists()


def test_unreadable_image_is_reported_and_the_others_are_done(
    ask: Callable[..., int], data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (data / "PNGImages" / "scene2.png").write_bytes(b"no image")
    with caplog.at_level(logging.INFO):
        assert ask("--boxes", "4,5,24,20", "--output_dir", "out") == 1
    assert "scene2.png" in caplog.text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scene0.npy", "scene1.npy", "scene3.npy"]


def test_infrared_options_of_predictions(
    ask: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ramp = np.linspace(0, 255, 56).astype(np.uint8)[None].repeat(40, 0)
    write_image(tmp_path / "jet.png", colour_table("jet")[ramp])
    image = ["--input", str(tmp_path / "jet.png"), "--boxes", "4,5,24,20", "--output_dir", "out"]
    assert ask(*image, "--modality", "ir") == 1
    assert "--ir_colormap" in only_line(capsys) and not (tmp_path / "out").exists()
    assert ask(*image, "--ir_gray") == 2
    assert "--modality ir" in only_line(capsys)
    for option in ("--ir_channel", "--ir_nodata"):
        assert ask(*image, option, "0") == 2
        line = only_line(capsys)
        assert f"{option} 0" in line and "is for infrared images" in line
    assert ask(*image, "--modality", "ir", "--ir_colormap", "jet", "--overlay") == 0
    drawn = np.asarray(Image.open(tmp_path / "out" / "overlays" / "jet.png"))
    bare = np.load(tmp_path / "out" / "jet.npy") == 0
    bare[5:21, 4:25] = False  # there the box is drawn
    np.testing.assert_array_equal(drawn[bare][:, 0], ramp[bare])  # the model saw temperatures


def test_no_mask_covers_pixels_without_data(ask: Callable[..., int], tmp_path: Path) -> None:
    counts = np.linspace(28000, 31000, 40 * 56).reshape(40, 56).astype(np.uint16)
    counts[:, :20] = 29500
    Image.fromarray(counts).save(tmp_path / "a.png")
    image = ["--input", str(tmp_path / "a.png"), "--boxes", "4,5,50,30", "--modality", "ir"]
    assert ask(*image, "--output_dir", "all") == ask(*image, "--ir_nodata", "29500", "--output_dir", "out") == 0
    assert np.load(tmp_path / "all" / "a.npy")[:, :20].any() and not np.load(tmp_path / "out" / "a.npy")[:, :20].any()
