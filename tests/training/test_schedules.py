import itertools

import pytest
import torch
from torch import nn

from thfuse_sam.options.training import RunSettings, Schedule
from thfuse_sam.training.schedules import Plateau, learning_rate


def rates(schedule: Schedule) -> list[float]:
    settings = RunSettings(schedule=schedule, lr=1.0, warmup_steps=10)
    return [learning_rate(settings, step, 100) for step in range(101)]


def test_learning_rate_rises_then_falls_to_the_floor() -> None:
    factors = rates("cosine")
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert factors[100] == pytest.approx(0.01)


def test_polynomial_rises_then_falls_to_nothing() -> None:
    factors = rates("polynomial")
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[55] == pytest.approx(0.5**0.9)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert factors[100] == 0


def test_plateau_equals_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=2, threshold=1e-4)
    own = Plateau(factor=0.1, patience=2)
    for score in (1.0, 0.9, 0.9, 0.89999, 0.9, 0.5, 0.6, 0.6, 0.6, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4):
        own.update(score)
        reference.step(score)
        assert own.scale == pytest.approx(optimizer.param_groups[0]["lr"])
    assert own.scale < 0.011
