import csv
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from thfuse_sam.errors import TrainingError, WorkerError
from thfuse_sam.interrupts import StopRequest
from thfuse_sam.training import loop


class Numbers:
    """Samples that say which epoch and index they were made for."""

    def __init__(self, size: int = 10) -> None:
        self.size, self.epoch = size, -1

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> loop.Batch:
        return {"x": torch.tensor([float(index)]), "epoch": self.epoch, "name": str(index)}


def names(loader) -> list[list[str]]:
    return [batch["name"] for batch in loader]


def test_order_depends_on_seed_and_epoch_only_and_holds_every_sample() -> None:
    loader, batches = loop.make_loader(Numbers(), 4, seed=1, num_workers=0)
    batches.start_at(3)
    third = names(loader)
    assert sorted(name for batch in third for name in batch) == sorted(map(str, range(10)))
    assert [len(batch) for batch in third] == [4, 4, 2]
    assert names(loader) == third
    batches.start_at(4)
    assert names(loader) != third
    other, other_batches = loop.make_loader(Numbers(), 4, seed=2, num_workers=0)
    other_batches.start_at(3)
    assert names(other) != third


def test_a_pass_can_start_in_the_middle() -> None:
    loader, batches = loop.make_loader(Numbers(), 4, seed=1, num_workers=0)
    batches.start_at(2)
    whole = names(loader)
    batches.start_at(2, first=1)
    assert names(loader) == whole[1:]


def test_workers_that_outlive_an_epoch_learn_of_the_next_one() -> None:
    loader, batches = loop.make_loader(Numbers(4), 2, seed=None, num_workers=1)
    for epoch in (0, 5):
        batches.start_at(epoch)
        assert [batch["epoch"].tolist() for batch in loader] == [[epoch, epoch]] * 2


def test_starting_a_pass_draws_nothing_from_the_global_generator() -> None:
    loader, _ = loop.make_loader(Numbers(), 4, seed=1, num_workers=0)
    before = torch.get_rng_state()
    names(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_learning_rate_rises_then_falls_to_the_floor() -> None:
    factors = [loop.warmup_cosine(step, 100, 10) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert factors[100] == pytest.approx(0.01)


def run_steps(loss_function, settings: loop.StepSettings, stop: StopRequest | None = None) -> tuple:
    fabric = loop.make_fabric(torch.device("cpu"))
    module = nn.Linear(1, 1)
    network, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=1.0))
    loader, _ = loop.make_loader(Numbers(), 4, seed=None, num_workers=0)
    progress = loop.Progress()
    error = None
    before = [value.clone() for value in module.parameters()]
    try:
        loop.train_epoch(
            fabric, network, optimizer, loader, loss_function, lambda batch: {"seen": len(batch["name"])}, settings,
            progress, stop or StopRequest(),
        )  # fmt: skip
    except TrainingError as caught:
        error = caught
    changed = any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    return progress, error, changed


def squares(network: nn.Module, batch: loop.Batch) -> dict[str, torch.Tensor]:
    value = network(batch["x"]).square().mean()
    return {"total": value, "half": value / 2}


def test_epoch_averages_over_images_and_counts() -> None:
    def index_mean(network: nn.Module, batch: loop.Batch) -> dict[str, torch.Tensor]:
        return {"total": network(batch["x"]).sum() * 0 + batch["x"].mean()}

    progress, error, _ = run_steps(index_mean, loop.StepSettings(lambda step: 0.1, 1.0))
    assert error is None
    assert progress.means() == pytest.approx({"total": 4.5})
    assert (progress.step, progress.batch, progress.images, progress.counts) == (3, 3, 10, {"seen": 10})


def test_max_steps_and_stop_end_an_epoch_early() -> None:
    progress, _, _ = run_steps(squares, loop.StepSettings(lambda step: 1e-4, 1.0, max_steps=2))
    assert (progress.step, progress.images) == (2, 8)
    stop = StopRequest()
    stop.asked = True
    progress, _, changed = run_steps(squares, loop.StepSettings(lambda step: 1e-4, 1.0), stop)
    assert (progress.step, changed) == (0, False)


def test_loss_that_is_not_finite_stops_before_the_weights_change() -> None:
    def broken(network: nn.Module, batch: loop.Batch) -> dict[str, torch.Tensor]:
        value = network(batch["x"]).mean()
        return {"total": value * float("nan"), "fine": value, "ssim": value * float("inf")}

    progress, error, changed = run_steps(broken, loop.StepSettings(lambda step: 0.1, 1.0))
    assert not changed and progress.step == 0
    for word in ("step 1", "total, ssim", "0, 1, 2, 3", "`lr`"):
        assert word in str(error)
    assert "fine" not in str(error)


def test_gradient_that_is_not_finite_stops_before_the_weights_change() -> None:
    def broken(network: nn.Module, batch: loop.Batch) -> dict[str, torch.Tensor]:
        return {"total": (network(batch["x"]).sum() * 0).sqrt()}  # finite, but the slope of the root is infinite

    _, error, changed = run_steps(broken, loop.StepSettings(lambda step: 0.1, 1.0))
    assert "gradient norm" in str(error) and not changed


def test_log_keeps_one_row_an_epoch_and_drops_those_done_over(tmp_path) -> None:
    first = loop.EpochLog(tmp_path, 0)
    for epoch in (1, 2, 3):
        first.write(epoch, {"train/total": epoch / 7})
    first.close()
    second = loop.EpochLog(tmp_path, 2)
    second.write(3, {"train/total": 9.0, "val/total": 0.5})
    second.close()
    with (tmp_path / "train_log.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["train/total"] for row in rows] == ["0.142857", "0.285714", "9"]
    assert [row["val/total"] for row in rows] == ["", "", "0.5"]


def test_plain_batches_are_one_step_each() -> None:
    plan = loop.EpochBatches(10, 4, 1).plan
    assert [(len(batch.positions), batch.share, batch.ends_step) for batch in plan] == [
        (4, 1.0, True),
        (4, 1.0, True),
        (2, 1.0, True),
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_step_is_the_mean_over_its_samples_however_it_is_divided(world_size: int, batch_size: int) -> None:
    ranks = [
        loop.EpochBatches(11, batch_size, 1, step_size=6, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert {batches.steps for batches in ranks} == {2}
    # What the gradient of a step weighs each sample with: the share, divided among its batch, averaged over processes.
    weights = [[0.0] * 11, [0.0] * 11]
    for batches in ranks:
        step = 0
        for batch in batches.plan:
            for position in batch.positions:
                weights[step][position] += batch.share / len(batch.positions) / world_size
            step += batch.ends_step
    assert weights[0] == pytest.approx([1 / 6] * 6 + [0] * 5)
    assert weights[1] == pytest.approx([0] * 6 + [1 / 5] * 5)


def test_too_few_samples_for_all_processes_wait() -> None:
    ranks = [loop.EpochBatches(9, 1, 1, rank=rank, world_size=4) for rank in range(4)]
    assert [len(batches) for batches in ranks] == [2, 2, 2, 2]
    assert {batches.steps for batches in ranks} == {2}


def step_with(batch_size: int, step_size: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    fabric = loop.make_fabric(torch.device("cpu"))
    module = nn.Linear(1, 1)
    network, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=1e-3))
    loader, batches = loop.make_loader(Numbers(), batch_size, seed=None, num_workers=0, step_size=step_size)
    progress = loop.Progress()
    loop.train_epoch(
        fabric, network, optimizer, loader, squares, lambda batch: {"seen": len(batch["name"])},
        loop.StepSettings(lambda step: 1e-3, 1e6), progress, StopRequest(), None, batches.plan,
    )  # fmt: skip
    assert (progress.images, progress.step, progress.counts) == (10, batches.steps, {"seen": 10})
    return [value.detach().clone() for value in module.parameters()]


def test_accumulated_gradients_equal_those_of_one_large_batch() -> None:
    whole = step_with(4, 4)
    for batch_size in (1, 2, 3):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(step_with(batch_size, 4), whole, strict=True))
    assert not all(torch.allclose(a, b, atol=1e-6) for a, b in zip(step_with(2, 2), whole, strict=True))


def test_polynomial_rises_then_falls_to_nothing() -> None:
    factors = [loop.warmup_polynomial(step, 100, 10) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[55] == pytest.approx(0.5**0.9)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert factors[100] == 0


def test_plateau_equals_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=2, threshold=1e-4)
    own = loop.Plateau(factor=0.1, patience=2)
    for score in (1.0, 0.9, 0.9, 0.89999, 0.9, 0.5, 0.6, 0.6, 0.6, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4):
        own.update(score)
        reference.step(score)
        assert own.scale == pytest.approx(optimizer.param_groups[0]["lr"])
    assert own.scale < 0.011


def test_overflows_are_let_pass_in_half_precision_alone() -> None:
    calls = itertools.count()

    def sometimes(network: nn.Module, batch: loop.Batch) -> dict[str, torch.Tensor]:
        # Without the weights in the end: no gradient scaler is here to skip the step that breaks them.
        if next(calls) < 2:
            return {
                "total": (network(batch["x"]).detach().sum() * 0 + network.module.weight.sum() * 0).nan_to_num().sqrt()
            }
        return {"total": torch.ones((), requires_grad=True) * 1}

    progress, error, _ = run_steps(sometimes, loop.StepSettings(lambda step: 0.0, 1.0, overflows=2))
    assert error is None and progress.step == 3
    calls = itertools.count()
    _, error, _ = run_steps(sometimes, loop.StepSettings(lambda step: 0.0, 1.0, overflows=1))
    assert "gradient norm" in str(error)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_that_dies_while_it_hands_a_batch_over(error: Exception) -> None:
    def batches() -> Iterator[loop.Batch]:
        raise error
        yield {}

    with pytest.raises(WorkerError, match=r"a process that makes samples died \((.*reset by peer|EOFError)\)"):
        loop.next_batch(batches())
