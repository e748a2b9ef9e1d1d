"""Short trainings on small images."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.training.checkpoint import load_checkpoint
from thfuse_sam.training.random_state import set_seed
from thfuse_sam.training.trainer import Trainer
from tools.vit_nano import __main__ as command
from tools.vit_nano.options import NanoSettings
from tools.vit_nano.training import NanoTask, steps_within

SIZE = 64
CPU = torch.device("cpu")


def make_task(former: dict[str, torch.Tensor] | None = None, **settings: Any) -> NanoTask:
    set_seed(0)
    values = {"batch_size": 2, "epoch_images": 4, "prompts": 4, "crop_size": 32, "num_workers": 0, "max_steps": 3}
    return NanoTask(build_vit_nano(SIZE), [], [], NanoSettings(**{**values, **settings}), former=former)


@pytest.mark.parametrize(
    ("precision", "crop_height", "prompts"), [("fp32", None, 4), ("bf16", None, 4), ("bf16", 16, 4), ("fp32", 16, 0)]
)
def test_a_short_training_saves_a_changed_model(
    tmp_path: Path, precision: str, crop_height: int | None, prompts: int
) -> None:
    task = make_task(precision=precision, crop_height=crop_height, prompts=prompts)
    before = {name: value.clone() for name, value in task.module.sam.state_dict().items()}
    assert Trainer(task, device=CPU, output_dir=tmp_path).run().step == 3
    saved = load_file(tmp_path / "vit_nano.safetensors")
    average = load_checkpoint(tmp_path / "latest.pth").weights
    assert saved.keys() == before.keys()
    changed = {name for name, value in saved.items() if not torch.equal(value, before[name].to(value.dtype))}
    assert any(name.startswith("image_encoder") for name in changed)
    assert any(name.startswith("mask_decoder") for name in changed) == bool(prompts)
    assert all(torch.equal(value, average[f"sam.{name}"].to(value.dtype)) for name, value in saved.items())
    with (tmp_path / "train_log.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and ("train/iou" in rows[0]) == bool(prompts)


def test_without_its_weights_the_auxiliary_head_is_left_out(tmp_path: Path) -> None:
    task = make_task(affinity_weight=0, identity_weight=0, max_steps=1)
    before = {name: value.clone() for name, value in task.module.head.state_dict().items()}
    Trainer(task, device=CPU, output_dir=tmp_path).run()
    assert all(torch.equal(value, before[name]) for name, value in task.module.head.state_dict().items())
    assert "train/affinity" not in (tmp_path / "train_log.csv").read_text()


def test_former_weights_are_mixed_into_what_is_saved(tmp_path: Path) -> None:
    former = build_vit_nano(SIZE).state_dict()
    Trainer(make_task(former, former_share=0.25), device=CPU, output_dir=tmp_path).run()
    saved = load_file(tmp_path / "vit_nano.safetensors")
    trained = load_checkpoint(tmp_path / "latest.pth").weights
    for name, value in former.items():
        if value.is_floating_point():
            expected = (0.75 * trained[f"sam.{name}"] + 0.25 * value.float()).half()
            torch.testing.assert_close(saved[name], expected, rtol=2e-3, atol=1e-5)


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    Trainer(make_task(epochs=2, max_steps=None), device=CPU, output_dir=tmp_path / "whole").run()
    stopped = Trainer(make_task(epochs=2, max_steps=1), device=CPU, output_dir=tmp_path / "parts").run()
    assert stopped.step == 1
    again = Trainer(make_task(epochs=2, max_steps=None), device=CPU, output_dir=tmp_path / "parts")
    again.resume(stopped.latest)
    again.run()
    whole, parts = (load_checkpoint(tmp_path / name / "latest.pth") for name in ("whole", "parts"))
    for name, value in whole.raw_weights.items():
        assert torch.equal(value, parts.raw_weights[name]), name


def test_minutes_become_steps_and_the_model_stays_what_it_was() -> None:
    task = make_task()
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    few, many = (steps_within(minutes, task, CPU) for minutes in (1e-9, 60))
    assert few == 1 and many > 60
    assert all(torch.equal(value, before[name]) for name, value in task.module.state_dict().items())


def test_the_command_trains_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: True)  # would last, and Hypothesis minds
    small = f"--image_size {SIZE} --crop_size 32 --prompts 4 --batch_size 2 --epoch_images 4 --num_workers 0"
    argv = [*small.split(), "--threads", "1", "--scenes", "0", "--device", "cpu", "--output_dir", str(tmp_path / "run")]
    assert command.train.main([*argv, "--minutes", "0.001"]) == 0
    assert "minutes are about" in capsys.readouterr().out
    latest = str(tmp_path / "run" / "latest.pth")
    assert command.train.main([*argv, "--resume", latest]) == 0
    shipped = str(tmp_path / "run" / "vit_nano.safetensors")
    for init in (latest, shipped):
        other = str(tmp_path / "other")
        assert command.train.main([*argv, "--init", init, "--max_steps", "1", "--output_dir", other]) == 0
