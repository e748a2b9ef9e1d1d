import itertools

import pytest
import torch
from torch import nn

from thfuse_sam.errors import TrainingError
from thfuse_sam.interrupts import StopRequest
from thfuse_sam.training.batches import Batch
from thfuse_sam.training.distributed import make_fabric
from thfuse_sam.training.loop import Progress, StepParts, StepSettings, train_epoch

from .conftest import Numbers, load


def seen(batch: Batch) -> dict[str, int]:
    return {"seen": len(batch["name"])}


def run_steps(loss_function, settings: StepSettings, stop: StopRequest | None = None) -> tuple:
    fabric = make_fabric(torch.device("cpu"))
    module = nn.Linear(1, 1)
    network, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=1.0))
    loader, _ = load(Numbers(), 4, seed=None)
    progress = Progress()
    error = None
    before = [value.clone() for value in module.parameters()]
    try:
        parts = StepParts(fabric, network, optimizer, loader, loss_function, seen, settings)
        train_epoch(parts, progress, stop or StopRequest())
    except TrainingError as caught:
        error = caught
    changed = any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    return progress, error, changed


def squares(network: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    value = network(batch["x"]).square().mean()
    return {"total": value, "half": value / 2}


def test_epoch_averages_over_images_and_counts() -> None:
    def index_mean(network: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        return {"total": network(batch["x"]).sum() * 0 + batch["x"].mean()}

    progress, error, _ = run_steps(index_mean, StepSettings(lambda step: 0.1, 1.0))
    assert error is None
    assert progress.totals(make_fabric(torch.device("cpu")))[0] == pytest.approx({"total": 4.5})
    assert (progress.step, progress.batch, progress.images, progress.counts) == (3, 3, 10, {"seen": 10})


def test_max_steps_and_stop_end_an_epoch_early() -> None:
    progress, _, _ = run_steps(squares, StepSettings(lambda step: 1e-4, 1.0, max_steps=2))
    assert (progress.step, progress.images) == (2, 8)
    stop = StopRequest()
    stop.asked = True
    progress, _, changed = run_steps(squares, StepSettings(lambda step: 1e-4, 1.0), stop)
    assert (progress.step, changed) == (0, False)


def test_loss_that_is_not_finite_stops_before_the_weights_change() -> None:
    def broken(network: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        value = network(batch["x"]).mean()
        return {"total": value * float("nan"), "fine": value, "ssim": value * float("inf")}

    progress, error, changed = run_steps(broken, StepSettings(lambda step: 0.1, 1.0))
    assert not changed and progress.step == 0
    for word in ("step 1", "total, ssim", "0, 1, 2, 3", "`lr`"):
        assert word in str(error)
    assert "fine" not in str(error)


def test_gradient_that_is_not_finite_stops_before_the_weights_change() -> None:
    def broken(network: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        return {"total": (network(batch["x"]).sum() * 0).sqrt()}  # finite, but the slope of the root is infinite

    _, error, changed = run_steps(broken, StepSettings(lambda step: 0.1, 1.0))
    assert "gradient norm" in str(error) and not changed


def step_with(batch_size: int, step_size: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    fabric = make_fabric(torch.device("cpu"))
    module = nn.Linear(1, 1)
    network, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=1e-3))
    loader, batches = load(Numbers(), batch_size, step_size=step_size)
    progress = Progress()
    settings = StepSettings(lambda step: 1e-3, 1e6)
    train_epoch(
        StepParts(fabric, network, optimizer, loader, squares, seen, settings, batches.plan), progress, StopRequest()
    )
    assert (progress.images, progress.step, progress.counts) == (10, batches.steps, {"seen": 10})
    return [value.detach().clone() for value in module.parameters()]


def test_accumulated_gradients_equal_those_of_one_large_batch() -> None:
    whole = step_with(4, 4)
    for batch_size in (1, 2, 3):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(step_with(batch_size, 4), whole, strict=True))
    assert not all(torch.allclose(a, b, atol=1e-6) for a, b in zip(step_with(2, 2), whole, strict=True))


def test_overflows_are_let_pass_in_half_precision_alone() -> None:
    calls = itertools.count()

    def sometimes(network: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        # Without the weights in the end: no gradient scaler is here to skip the step that breaks them.
        if next(calls) < 2:
            return {
                "total": (network(batch["x"]).detach().sum() * 0 + network.module.weight.sum() * 0).nan_to_num().sqrt()
            }
        return {"total": torch.ones((), requires_grad=True) * 1}

    progress, error, _ = run_steps(sometimes, StepSettings(lambda step: 0.0, 1.0, overflows=2))
    assert error is None and progress.step == 3
    calls = itertools.count()
    _, error, _ = run_steps(sometimes, StepSettings(lambda step: 0.0, 1.0, overflows=1))
    assert "gradient norm" in str(error)
