import csv
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from thfuse_sam.errors import OutputError, TrainingError, UsageError
from thfuse_sam.fusion import training as train_fusion
from thfuse_sam.fusion.training import FusionTask
from thfuse_sam.options.training import FusionSettings
from thfuse_sam.training import checkpoint as checkpoints
from thfuse_sam.training.batches import Batch
from thfuse_sam.training.ema import EmaWeights
from thfuse_sam.training.random_state import set_seed
from thfuse_sam.training.schedules import learning_rate
from thfuse_sam.training.trainer import Trainer

SIZE = 16


class Noise:
    """Fusion samples that are a function of (epoch, index), like the ones of FusionDataset."""

    def __init__(self, size: int = 5) -> None:
        self.size, self.epoch = size, 0

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> Batch:
        values = torch.from_numpy(np.random.default_rng((self.epoch, index)).random((6, SIZE, SIZE), np.float32))
        labels = torch.zeros(SIZE, SIZE, dtype=torch.int64)
        return {
            "ir": values[:1],
            "vi": values[1:2],
            "ir_guidance": values[2:4],
            "vi_guidance": values[4:],
            "ir_labels": labels,
            "vi_labels": labels,
            "has_ir_mask": True,
            "has_vi_mask": index == 0,
            "name": f"a/{index}",
        }


class Tiny(nn.Module):
    """Draws from torch's generator in training, so that a resumed run has to restore it."""

    name = "tiny"

    def __init__(self) -> None:
        super().__init__()
        self.options: dict[str, object] = {}
        self.layer = nn.Conv2d(6, 1, 3, padding=1)
        self.dropout = nn.Dropout(0.3)

    def forward(self, ir: Tensor, vi: Tensor, ir_guidance: Tensor, vi_guidance: Tensor, ir_labels: Tensor) -> Tensor:
        return self.layer(self.dropout(torch.cat([ir, vi, ir_guidance, vi_guidance], dim=1))).sigmoid()


class Distance(nn.Module):
    """A loss that can be told to become NaN, or to press Ctrl-C, at its n-th call in training."""

    def __init__(self, nan_at: int | None = None, interrupt_at: int | None = None) -> None:
        super().__init__()
        self.nan_at, self.interrupt_at, self.calls = nan_at, interrupt_at, 0

    def forward(self, fused: Tensor, ir: Tensor, vi: Tensor, *_: Tensor | None) -> dict[str, Tensor]:
        self.calls += fused.requires_grad
        if fused.requires_grad and self.calls == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        intensity = (fused - torch.maximum(ir, vi)).abs().mean()
        if fused.requires_grad and self.calls == self.nan_at:
            intensity = intensity * math.nan
        return {"total": 2 * intensity, "intensity": intensity}


def make_trainer(
    folder: Path,
    loss: nn.Module | None = None,
    *,
    val: bool = True,
    size: int = 5,
    options=None,
    device="cpu",
    **settings,
) -> Trainer:
    set_seed(7)
    values = {"epochs": 3, "batch_size": 2, "save_interval": 2, "seed": 7, **settings}
    task = FusionTask(Tiny(), loss or Distance(), Noise(size), Noise(2) if val else None, FusionSettings(**values))
    return Trainer(
        task,
        device=torch.device(device),
        output_dir=folder,
        options={"note": "kept", **(options or {})},
    )


def read_log(folder: Path) -> list[dict[str, str]]:
    with (folder / "train_log.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def same(one: object, other: object) -> bool:
    """Bit for bit equality of nested values; speeds are no part of a checkpoint."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def assert_same_end(one: Path, other: Path) -> None:
    first, second = (checkpoints.load_checkpoint(folder / "latest.pth") for folder in (one, other))
    for name in ("weights", "raw_weights", "optimizer", "scheduler", "progress", "random_states", "epoch", "step"):
        assert same(getattr(first, name), getattr(second, name)), name
    rows = [[{k: v for k, v in row.items() if k != "images_per_second"} for row in read_log(f)] for f in (one, other)]
    assert rows[0] == rows[1]


def test_run_writes_checkpoints_options_and_log(tmp_path) -> None:
    result = make_trainer(tmp_path).run()
    assert (result.epoch, result.step, result.interrupted) == (3, 9, False)
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    expected = {"best.pth", "latest.pth", "model_epoch2.pth", "model_epoch3.pth", "train_options.json", "train_log.csv"}
    assert names == expected
    options = json.loads((tmp_path / "train_options.json").read_text(encoding="utf-8"))
    assert (options["note"], options["epochs"], options["network"]["name"]) == ("kept", 3, "tiny")
    rows = read_log(tmp_path)
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6"), ("3", "9")]
    for row in rows:
        assert (row["masks_found"], row["placeholders"]) == ("6", "4")
        assert float(row["train/total"]) == pytest.approx(2 * float(row["train/intensity"]), rel=1e-4)
    best = min(float(row["val/total"]) for row in rows)
    assert result.best == pytest.approx(best, rel=1e-4)
    assert checkpoints.load_checkpoint(tmp_path / "best.pth").progress["best"] == result.best


def test_training_lowers_the_loss(tmp_path) -> None:
    make_trainer(tmp_path, epochs=20, lr=0.05, save_interval=100).run()
    losses = [float(row["val/total"]) for row in read_log(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]


def test_without_validation_the_training_loss_decides(tmp_path) -> None:
    result = make_trainer(tmp_path, val=False).run()
    rows = read_log(tmp_path)
    assert "val/total" not in rows[0]
    assert result.best == pytest.approx(min(float(row["train/total"]) for row in rows), rel=1e-4)


@pytest.mark.parametrize("max_steps", [3, 4, 8])  # at the end of an epoch, and inside one
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, max_steps: int) -> None:
    make_trainer(tmp_path / "whole").run()
    stopped = make_trainer(tmp_path / "parts", max_steps=max_steps).run()
    assert stopped.step == max_steps and not (tmp_path / "parts" / "model_epoch3.pth").exists()
    torch.rand(3)
    again = make_trainer(tmp_path / "parts")
    again.resume(tmp_path / "parts" / "latest.pth")
    assert again.run().epoch == 3
    first, second = (checkpoints.load_checkpoint(tmp_path / name / "latest.pth") for name in ("whole", "parts"))
    for name in ("weights", "optimizer", "random_states", "epoch", "step"):
        assert same(getattr(first, name), getattr(second, name)), name


def test_interrupt_saves_the_step_and_the_resumed_run_equals_an_uninterrupted_one(tmp_path) -> None:
    make_trainer(tmp_path / "whole").run()
    result = make_trainer(tmp_path / "parts", Distance(interrupt_at=5)).run()
    assert result.interrupted and (result.epoch, result.step) == (1, 5)
    again = make_trainer(tmp_path / "parts")
    again.resume(result.latest)
    assert not again.run().interrupted
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_finished_run_can_be_extended(tmp_path) -> None:
    make_trainer(tmp_path).run()
    again = make_trainer(tmp_path, epochs=4)
    again.resume(tmp_path / "latest.pth")
    assert again.run().epoch == 4
    assert (tmp_path / "model_epoch4.pth").exists()


def test_resume_refuses_another_run(tmp_path) -> None:
    make_trainer(tmp_path, max_steps=1).run()
    with pytest.raises(UsageError, match="5 pairs to train on, this command has 6"):
        make_trainer(tmp_path, size=6).resume(tmp_path / "latest.pth")
    trainer = make_trainer(tmp_path)
    trainer.task.spec = checkpoints.NetworkSpec("other", {})
    with pytest.raises(UsageError, match="`network`"):
        trainer.resume(tmp_path / "latest.pth")


def test_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path) -> None:
    make_trainer(tmp_path, max_steps=3).run()
    before = (tmp_path / "latest.pth").read_bytes()
    trainer = make_trainer(tmp_path, Distance(nan_at=2))
    trainer.resume(tmp_path / "latest.pth")
    with pytest.raises(TrainingError, match=r"step 5: total, intensity not finite on a/\d, a/\d"):
        trainer.run()
    assert (tmp_path / "latest.pth").read_bytes() == before


def test_full_disk_is_one_error(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(OutputError, match="No space left"):
        make_trainer(tmp_path).run()
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".pth", ".partial")]


# Averages, schedules, precision, accumulation

EVERYTHING = {"ema_decay": 0.9, "schedule": "plateau", "plateau_patience": 0, "accumulate": 2, "batch_size": 1}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_run_with_every_option_equals_an_uninterrupted_one(tmp_path, precision: str) -> None:
    settings = {**EVERYTHING, "precision": precision, "val_metrics": ("SD", "SCD")}
    make_trainer(tmp_path / "whole", **settings).run()
    stopped = make_trainer(tmp_path / "parts", Distance(interrupt_at=7), **settings).run()
    assert stopped.interrupted and (stopped.epoch, stopped.step) == (1, 4)
    again = make_trainer(tmp_path / "parts", **settings)
    again.resume(stopped.latest)
    assert again.run().epoch == 3
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_the_average_is_what_is_kept_and_validated(tmp_path) -> None:
    trainer = make_trainer(tmp_path, ema_decay=0.9, epochs=1, lr=0.1)
    seen: list[Tensor] = []
    trainer.task.module.layer.register_forward_pre_hook(
        lambda layer, _: None if trainer.task.module.training else seen.append(layer.weight.detach().clone())
    )
    trainer.run()
    saved = checkpoints.load_checkpoint(tmp_path / "best.pth")
    assert not torch.equal(saved.weights["layer.weight"], saved.raw_weights["layer.weight"])
    assert torch.equal(saved.raw_weights["layer.weight"], trainer.task.module.layer.weight)
    assert torch.equal(saved.weights["layer.weight"], seen[-1])


def test_average_of_steps() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    average = EmaWeights(network.state_dict(), 0.5)
    nn.init.constant_(network.weight, 1.0)
    average.update(network.state_dict(), 1)
    assert average.weights["weight"].item() == pytest.approx(1 - 2 / 11)
    average.update(network.state_dict(), 1000)
    assert average.weights["weight"].item() == pytest.approx(1 - 1 / 11)
    with average.in_place_of(network.state_dict(), network.load_state_dict):
        assert network.weight.item() == pytest.approx(1 - 1 / 11)
    assert network.weight.item() == 1


def test_accumulated_batches_equal_one_large_batch(tmp_path) -> None:
    weights = []
    for name, settings in (("one", {"batch_size": 4}), ("two", {"batch_size": 2, "accumulate": 2})):
        trainer = make_trainer(tmp_path / name, size=7, epochs=2, **settings)
        trainer.task.module.dropout.p = 0.0
        assert trainer.run().step == 4  # four pairs, then the three that are left
        weights.append(trainer.task.module.layer.weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


def test_plateau_lowers_the_learning_rate_when_nothing_gets_better(tmp_path) -> None:
    make_trainer(tmp_path, lr=1e-12, epochs=4, schedule="plateau", plateau_patience=1, warmup_steps=0, size=2).run()
    rates = [float(row["lr"]) for row in read_log(tmp_path)]
    assert rates == pytest.approx([1e-12, 1e-12, 1e-12, 5e-13])


def test_warm_up_has_the_steps_asked_for() -> None:
    for schedule in ("cosine", "plateau"):
        settings = FusionSettings(lr=1.0, warmup_steps=4, schedule=schedule)
        assert [learning_rate(settings, step, 100) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_fp16_needs_a_gpu(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"`precision` fp16.*bf16"):
        make_trainer(tmp_path, precision="fp16")


@pytest.mark.gpu
def test_fp16_trains_and_keeps_the_scale_of_the_loss(tmp_path) -> None:
    result = make_trainer(tmp_path, precision="fp16", epochs=2, device="cuda").run()
    scaler = checkpoints.load_checkpoint(result.latest).scaler
    assert scaler["scale"] > 0
    again = make_trainer(tmp_path, precision="fp16", epochs=3, device="cuda")
    again.resume(result.latest)
    assert again.run().epoch == 3


def test_compile_wraps_the_network_and_leaves_the_names_of_its_weights(tmp_path, monkeypatch) -> None:
    compiled = []

    def compile_eagerly(network: nn.Module, **options: object) -> nn.Module:
        compiled.append(network)
        return original(network, **{**options, "backend": "eager"})  # Fabric compiles again, with these options

    original = torch.compile
    monkeypatch.setattr(torch, "compile", compile_eagerly)
    trainer = make_trainer(tmp_path, compile=True, epochs=1)
    trainer.run()
    assert trainer.task.module in compiled
    assert set(checkpoints.load_checkpoint(tmp_path / "latest.pth").weights) == {"layer.weight", "layer.bias"}


# Validation metrics, pictures


def test_validation_metrics_are_logged_and_are_those_of_the_fused_crops(tmp_path) -> None:
    trainer = make_trainer(tmp_path, epochs=1, val_metrics=("SD", "VIF"))
    trainer.run()
    row = read_log(tmp_path)[0]
    assert "val/VIF" not in row  # not defined for so small crops
    expected = []
    for index in range(2):
        sample = {key: value[None] for key, value in Noise(2)[index].items() if isinstance(value, Tensor)}
        with torch.no_grad():
            fused = train_fusion.forward_batch(trainer.task.module.eval(), sample)
        expected.append(float((fused * 255).round().std(correction=0)))
    assert float(row["val/SD"]) == pytest.approx(sum(expected) / 2, rel=1e-4)


@pytest.mark.parametrize(("ir", "vi"), [(True, False), (False, False)])
def test_without_any_mask_the_loss_gets_no_segments(ir: bool, vi: bool) -> None:
    """Their parts then take no time, a fifth of a step on a CPU."""
    batch = next(iter(DataLoader(Noise(2), batch_size=2)))
    batch |= {"has_ir_mask": torch.tensor([False, ir]), "has_vi_mask": torch.tensor([False, vi])}
    given = []

    def loss(fused: Tensor, *rest: Tensor | None) -> dict[str, Tensor]:
        given.append(rest)
        return {"total": fused.mean()}

    train_fusion.fusion_loss(loss, batch["ir"], batch)  # type: ignore[arg-type]
    ((_, _, ir_labels, vi_labels, _),) = given
    assert (ir_labels is not None, vi_labels is not None) == (ir, vi)


def test_pictures_show_sources_result_and_masks() -> None:
    batch = {key: value[None] for key, value in Noise()[0].items() if isinstance(value, Tensor)} | {"name": ["a/0"]}
    batch["ir_labels"] = torch.ones(1, SIZE, SIZE, dtype=torch.int64)
    fused = torch.rand(1, 1, SIZE, SIZE)
    (picture,) = train_fusion.pictures(fused, batch, 4).values()
    assert picture.shape == (SIZE, 5 * SIZE, 3) and picture.dtype == np.uint8
    parts = np.split(picture, 5, axis=1)
    np.testing.assert_array_equal(parts[2][..., 0], (fused[0, 0] * 255).round())
    assert (parts[3] != parts[0]).any() and (parts[4] == parts[1]).all()


def test_tensorboard_gets_parts_metrics_and_pictures(tmp_path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    make_trainer(tmp_path, epochs=1, val_metrics=("SD",)).run()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/intensity", "val/total", "val/SD", "lr"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["val/a/0", "val/a/1"]


# Resume with other options


def test_resume_says_what_is_not_what_it_was(tmp_path, caplog) -> None:
    before = {"crop_size": 128, "loss_weights": {"ssim": 1.0}, "masks": "precomputed", "output_dir": "a"}
    make_trainer(tmp_path, max_steps=1, options=before).run()
    after = {"crop_size": 96, "loss_weights": {"ssim": 2.0}, "masks": "none", "output_dir": "b"}
    caplog.clear()
    make_trainer(tmp_path, options=after, lr=1e-2).resume(tmp_path / "latest.pth")
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 4
    for words in ("`crop_size` was 128, now it is 96", "`loss_weights` was", "masks was precomputed", "`lr` was"):
        assert any(words in line for line in said), words


# Several processes

TWO_PROCESSES = """
import importlib.util, json, sys
from pathlib import Path

import torch

spec = importlib.util.spec_from_file_location("trainer_tests", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
folder, settings = Path(sys.argv[2]), json.loads(sys.argv[3])
trainer = tests.make_trainer(folder, **settings)
trainer.task.module.dropout.p = 0.0
result = trainer.run()
rank = trainer._fabric.global_rank
torch.save(trainer.task.module.state_dict(), folder / f"rank{rank}.pt")
print(json.dumps([rank, result.step]))
"""


def test_two_processes_equal_one_with_twice_the_batch(tmp_path) -> None:
    (tmp_path / "script.py").write_text(TWO_PROCESSES, encoding="utf-8")
    settings = {"epochs": 2, "batch_size": 2, "size": 7, "ema_decay": 0.9}
    root = Path(train_fusion.__file__).resolve().parents[2]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *(str(tmp_path / "script.py"), __file__, str(tmp_path), json.dumps(settings)),
        ],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    one = make_trainer(tmp_path / "one", **{**settings, "batch_size": 4})
    one.task.module.dropout.p = 0.0
    assert one.run().step == 4
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for key, value in one.task.module.state_dict().items():
        assert torch.equal(ranks[0][key], ranks[1][key]), key
        torch.testing.assert_close(ranks[0][key], value, rtol=1e-5, atol=1e-6)
    both = [checkpoints.load_checkpoint(folder / "latest.pth") for folder in (tmp_path, tmp_path / "one")]
    assert both[0].step == both[1].step == 4
    torch.testing.assert_close(both[0].weights, both[1].weights, rtol=1e-5, atol=1e-6)
    rows = [read_log(folder) for folder in (tmp_path, tmp_path / "one")]
    for two, alone in zip(*rows, strict=True):
        for key in ("train/total", "val/total", "masks_found", "placeholders"):
            assert float(two[key]) == pytest.approx(float(alone[key]), rel=1e-4), key
