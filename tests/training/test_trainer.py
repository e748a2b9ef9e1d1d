"""What every run does, whatever it trains."""

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning_fabric
import pytest
import torch
from torch import Tensor, nn

from thfuse_sam.errors import UsageError
from thfuse_sam.options.training import RunSettings
from thfuse_sam.training import trainer as trainer_module
from thfuse_sam.training.batches import Batch
from thfuse_sam.training.checkpoint import Checkpoint, NetworkSpec, load_checkpoint, save_checkpoint
from thfuse_sam.training.resuming import changed_options
from thfuse_sam.training.task import Evaluation, ShowPicture, TrainingTask
from thfuse_sam.training.trainer import Trainer, run_length

from .conftest import Numbers


class LineTask(TrainingTask):
    """Fits a line; its scores are given beforehand."""

    sample_noun = "numbers"
    must_match = ("slope",)
    may_differ = frozenset(("note",))

    def __init__(self, settings: RunSettings, scores: list[float] | None = None) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(1, 1), NetworkSpec("line", {}), Numbers(4), scores, settings)
        self.evaluated = 0

    def loss(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"total": (network(batch["x"]) - 1).square().mean()}

    def evaluate(self, fabric: lightning_fabric.Fabric, show: ShowPicture | None) -> Evaluation:
        self.evaluated += 1
        return Evaluation(self.val_set[self.evaluated - 1], {"number": self.evaluated})

    def state(self) -> dict[str, Any]:
        return {"evaluated": self.evaluated}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.evaluated = state["evaluated"]


def make_trainer(folder: Path, scores: list[float] | None = None, options: Any = None, **settings: Any) -> Trainer:
    task = LineTask(RunSettings(**{"epochs": 3, "batch_size": 2, "num_workers": 0, **settings}), scores)
    return Trainer(task, device=torch.device("cpu"), output_dir=folder, options={"slope": 1, **(options or {})})


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "train_log.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rewrite(path: Path, **values: Any) -> None:
    """Change entries of a checkpoint; None takes one away."""
    content = {**torch.load(path, weights_only=True), **values}
    torch.save({key: value for key, value in content.items() if value is not None}, path)


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"), [(3, None, (3, 12)), (3, 5, (3, 12)), (None, 5, (2, 5)), (None, 8, (2, 8))]
)
def test_the_schedule_spans_the_epochs_or_else_the_steps(
    epochs: int | None, max_steps: int | None, expected: tuple[int, int]
) -> None:
    assert run_length(epochs, max_steps, 4) == expected


def test_a_run_needs_an_end(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`epochs` nor `max_steps`"):
        make_trainer(tmp_path, epochs=None).run()


def test_steps_alone_end_a_run_at_the_end_of_its_schedule(tmp_path: Path) -> None:
    result = make_trainer(tmp_path, epochs=None, max_steps=5, schedule="polynomial", warmup_steps=1, lr=1.0).run()
    assert (result.epoch, result.step) == (2, 5)
    assert [float(row["lr"]) for row in rows(tmp_path)] == pytest.approx([1, 0.5**0.9, 0.25**0.9], rel=1e-4)


def test_evaluations_keep_their_interval_and_end_a_run_that_gets_no_better(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scores = [3.0, 2.0, 2.5, 2.4]
    with caplog.at_level(logging.INFO):
        result = make_trainer(tmp_path, scores, epochs=20, val_interval=2, early_stopping=2).run()
    assert (result.epoch, result.best) == (8, 2.0)
    assert [row["val/number"] for row in rows(tmp_path)] == ["", "1", "", "2", "", "3", "", "4"]
    assert "epoch 8/20: early stopping: no better score in 2 evaluations" in caplog.text
    assert load_checkpoint(result.best_file).epoch == 4


def test_early_stopping_and_the_state_of_the_task_survive_a_resume(tmp_path: Path) -> None:
    scores = [2.0, 2.5, 2.4]
    make_trainer(tmp_path, scores, epochs=2, early_stopping=2).run()
    again = make_trainer(tmp_path, scores, epochs=20, early_stopping=2)
    again.resume(again.latest)
    assert again.run().epoch == 3


@pytest.mark.parametrize("killed_at", [1, 2, 3])  # of three files: best.pth twice, model_epoch2.pth
def test_a_run_that_ended_between_its_files_writes_them_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    make_trainer(tmp_path / "whole", [2.0, 1.0], epochs=2, save_interval=5).run()
    save, saved = LineTask.save, 0

    def killed(task: LineTask, path: Path, checkpoint: Checkpoint) -> None:
        nonlocal saved
        saved += 1
        if saved == killed_at:
            raise RuntimeError("killed")
        save(task, path, checkpoint)

    monkeypatch.setattr(LineTask, "save", killed)
    with pytest.raises(RuntimeError, match="killed"):
        make_trainer(tmp_path, [2.0, 1.0], epochs=2, save_interval=5).run()
    monkeypatch.undo()
    again = make_trainer(tmp_path, [2.0, 1.0], epochs=2, save_interval=5)
    again.resume(again.latest)
    again.run()
    for name in ("best.pth", "model_epoch2.pth", "latest.pth"):
        found, expected = (load_checkpoint(folder / name) for folder in (tmp_path, tmp_path / "whole"))
        assert (found.step, found.progress) == (expected.step, expected.progress)
        assert all(torch.equal(found.weights[key], value) for key, value in expected.weights.items())


def test_the_best_weights_come_along_into_another_folder(tmp_path: Path) -> None:
    scores = [1.0, 2.0, 3.0]
    former = make_trainer(tmp_path / "former", scores, epochs=2).run()
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "latest.pth").write_bytes(former.latest.read_bytes())
    for folder, best in (("former", 1.0), ("alone", 3.0)):  # where they are missing, they are those of the new folder
        again = make_trainer(tmp_path / f"after_{folder}", scores, epochs=3)
        again.resume(tmp_path / folder / "latest.pth")
        result = again.run()
        assert result.best == best
        assert load_checkpoint(result.best_file).epoch == (1 if best == 1.0 else 3)


def test_the_latest_weights_come_along_as_the_best_ones_that_they_are(tmp_path: Path) -> None:
    scores = [2.0, 1.0, 3.0]
    former = make_trainer(tmp_path / "former", scores, epochs=2).run()
    former.best_file.unlink()  # as where that run ended before it had written it
    again = make_trainer(tmp_path / "again", scores, epochs=3)
    again.resume(former.latest)
    result = again.run()
    assert result.best == 1.0 and load_checkpoint(result.best_file).epoch == 2


def test_options_that_may_differ_and_those_that_may_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_trainer(tmp_path, options={"note": "a", "what": 1}, max_steps=1).run()
    trainer = make_trainer(tmp_path, options={"note": "b", "what": 2}, lr=1.0, save_interval=7)
    trainer.resume(trainer.latest)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    changes = [line.partition(": ")[2].partition("; training goes on with the new value")[0] for line in warnings]
    assert changes == ["`what` was 1, now it is 2", "`lr` was 0.001, now it is 1.0"]
    assert changed_options({"what": "a" * 300}, {"what": "b" * 300}, ()) == ["`what` is another"]
    for changed in ({"seed": 1}, {"options": {"slope": 2}}):
        with pytest.raises(UsageError, match=f"the run had `{next(iter(changed.get('options', changed)))}`"):
            make_trainer(tmp_path, **changed).resume(trainer.latest)


def test_a_run_that_has_done_its_steps_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    again = make_trainer(tmp_path, epochs=9, max_steps=3)
    again.run()
    again = make_trainer(tmp_path, epochs=9, max_steps=3)
    again.resume(again.latest)
    with caplog.at_level(logging.INFO):
        again.run()
    assert "nothing is left to train: 3 steps of 3 are done" in caplog.text


def test_a_checkpoint_that_recorded_fewer_options_is_gone_on_with(tmp_path: Path) -> None:
    latest = make_trainer(tmp_path, max_steps=3).run().latest
    rewrite(latest, training={}, scaler=None, raw_weights=None)
    again = make_trainer(tmp_path)
    again.resume(latest)
    assert again.run().step == 6


def test_options_of_earlier_versions_have_todays_names(tmp_path: Path) -> None:
    latest = make_trainer(tmp_path, max_steps=1).run().latest
    rewrite(latest, training={"virtual_batch_size": 2, "patience": 3, "test_interval": 4})
    assert load_checkpoint(latest).training == {"accumulate": 2, "plateau_patience": 3, "val_interval": 4}


@pytest.mark.parametrize(
    ("changed", "stopped_at", "expected"),
    [
        ({"batch_size": 1}, 1, (3, 12)),  # 1 step of 2 numbers was done, which are 2 steps of one
        ({"batch_size": 4}, 3, (3, 3)),  # half of the second epoch was done, which is no whole step any more
        ({"batch_size": 1, "accumulate": 2}, 3, (3, 6)),
        ({"epochs": 5}, 3, (5, 10)),
    ],
)
def test_another_batch_size_goes_on_in_the_same_place(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    changed: dict[str, int],
    stopped_at: int,
    expected: tuple[int, int],
) -> None:
    make_trainer(tmp_path, max_steps=stopped_at).run()
    trainer = make_trainer(tmp_path, warmup_steps=0, schedule="polynomial", **changed)
    trainer.resume(trainer.latest)
    with caplog.at_level(logging.INFO):
        result = trainer.run()
    assert (result.epoch, result.step) == expected
    assert f"of {expected[1]} with learning rate" in caplog.text
    assert float(rows(tmp_path)[-1]["lr"]) < 0.5e-3, "the schedule ends with the run"


def test_a_table_of_losses_and_metrics_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        make_trainer(tmp_path, [3.0, 2.0, 1.0], log_every=2).run()
    tables = [record.getMessage() for record in caplog.records if "validation" in record.getMessage()]
    assert [[line.split() for line in table.splitlines()][2] for table in tables] == [
        ["number", "2.0000"],
        ["number", "3.0000"],
    ]
    assert "epoch 1/3" not in caplog.text


def test_a_number_format_that_the_device_computes_in_software_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    make_trainer(tmp_path, precision="bf16")
    assert "`precision` bf16: cpu has no instructions for it" in caplog.text


def test_the_scale_of_the_loss_in_fp16_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[dict[str, float]] = []

    def fabric_with_scaler(device: torch.device, precision: str) -> lightning_fabric.Fabric:
        fabric = original(device, "fp32")
        monkeypatch.setattr(fabric.strategy.precision, "state_dict", lambda: {"scale": 4096.0})
        monkeypatch.setattr(fabric.strategy.precision, "load_state_dict", loaded.append)
        return fabric

    original = trainer_module.make_fabric
    monkeypatch.setattr(trainer_module, "make_fabric", fabric_with_scaler)
    latest = make_trainer(tmp_path, max_steps=1).run().latest
    assert not loaded and load_checkpoint(latest).scaler == {"scale": 4096.0}
    again = make_trainer(tmp_path)
    again.resume(latest)
    again.run()
    assert loaded == [{"scale": 4096.0}]


def test_the_last_epoch_is_kept_besides_those_of_the_interval(tmp_path: Path) -> None:
    make_trainer(tmp_path, epochs=5, save_interval=2).run()
    assert sorted(path.name for path in tmp_path.glob("model_epoch*")) == [
        "model_epoch2.pth",
        "model_epoch4.pth",
        "model_epoch5.pth",
    ]


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    latest = make_trainer(tmp_path, max_steps=1).run().latest
    saved = load_checkpoint(latest)
    saved.network = NetworkSpec("curve", {})
    save_checkpoint(latest, saved)
    with pytest.raises(UsageError, match=r"the network curve \{\}, but `network` is line"):
        make_trainer(tmp_path).resume(latest)
