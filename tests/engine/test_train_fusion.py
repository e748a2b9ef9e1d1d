import csv
import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thfuse_sam.datasets.pairs import ImagePair
from thfuse_sam.engine import checkpoint as checkpoints
from thfuse_sam.engine import loop, train_fusion
from thfuse_sam.engine.train_fusion import FusionTrainer, TrainingSettings
from thfuse_sam.errors import OutputError, TrainingError, UsageError

SIZE = 16


class Noise:
    """Fusion samples that are a function of (epoch, index), like the ones of FusionDataset."""

    def __init__(self, size: int = 5) -> None:
        self.size, self.epoch = size, 0

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> loop.Batch:
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

    def __init__(self) -> None:
        super().__init__()
        self.options: dict[str, object] = {}
        self.layer = nn.Conv2d(6, 1, 3, padding=1)
        self.dropout = nn.Dropout(0.3)

    def forward(self, ir: Tensor, vi: Tensor, ir_guidance: Tensor, vi_guidance: Tensor) -> Tensor:
        return self.layer(self.dropout(torch.cat([ir, vi, ir_guidance, vi_guidance], dim=1))).sigmoid()


class Distance(nn.Module):
    """A loss that can be told to become NaN, or to press Ctrl-C, at its n-th call in training."""

    def __init__(self, nan_at: int | None = None, interrupt_at: int | None = None) -> None:
        super().__init__()
        self.nan_at, self.interrupt_at, self.calls = nan_at, interrupt_at, 0

    def forward(self, fused: Tensor, ir: Tensor, vi: Tensor, ir_labels: Tensor, vi_labels: Tensor) -> dict[str, Tensor]:
        self.calls += fused.requires_grad
        if fused.requires_grad and self.calls == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        intensity = (fused - torch.maximum(ir, vi)).abs().mean()
        if fused.requires_grad and self.calls == self.nan_at:
            intensity = intensity * math.nan
        return {"total": 2 * intensity, "intensity": intensity}


def make_trainer(
    folder: Path, loss: nn.Module | None = None, *, val: bool = True, size: int = 5, **settings
) -> FusionTrainer:
    loop.set_seed(7)
    values = {"epochs": 3, "batch_size": 2, "save_interval": 2, "seed": 7, **settings}
    return FusionTrainer(
        Tiny(),
        "tiny",
        loss or Distance(),
        Noise(size),
        Noise(2) if val else None,
        TrainingSettings(**values),
        device=torch.device("cpu"),
        output_dir=folder,
        options={"note": "kept"},
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
    for name in ("weights", "optimizer", "progress", "random_states", "epoch", "step"):
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
    for other, word in (({"batch_size": 3}, "batch_size 2, now it is 3"), ({"size": 6}, "pairs 5, now it is 6")):
        with pytest.raises(UsageError, match=word):
            make_trainer(tmp_path, **other).resume(tmp_path / "latest.pth")
    trainer = make_trainer(tmp_path)
    trainer.spec = checkpoints.NetworkSpec("other", {})
    with pytest.raises(UsageError, match="--network"):
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


def test_split_is_disjoint_complete_and_by_seed() -> None:
    pairs = [ImagePair(str(index), Path("ir"), Path("vi")) for index in range(20)]
    train, val = train_fusion.split_pairs(pairs, 0.1, seed=3)
    assert len(val) == 2 and sorted([*train, *val], key=pairs.index) == pairs
    assert train_fusion.split_pairs(pairs, 0.1, seed=3) == (train, val)
    assert any(train_fusion.split_pairs(pairs, 0.1, seed=seed)[1] != val for seed in range(5))


@pytest.mark.parametrize(("number", "share", "held_out"), [(20, 0.0, 0), (1, 0.5, 0), (2, 0.1, 1), (3, 0.99, 2)])
def test_split_leaves_one_to_train_on(number: int, share: float, held_out: int) -> None:
    pairs = [ImagePair(str(index), Path("ir"), Path("vi")) for index in range(number)]
    train, val = train_fusion.split_pairs(pairs, share, seed=0)
    assert (len(train), len(val)) == (number - held_out, held_out)
