import dataclasses
import errno
import random

import numpy as np
import pytest
import torch
from torch import nn

from thfuse_sam.errors import OutputError
from thfuse_sam.training import checkpoint as checkpoints
from thfuse_sam.training.random_state import capture_random_states, restore_random_states


def make_checkpoint() -> checkpoints.Checkpoint:
    network = nn.Conv2d(2, 3, 3)
    return checkpoints.Checkpoint(
        network=checkpoints.NetworkSpec("tiny", {"width": 3}),
        weights=network.state_dict(),
        training={"lr": 0.1, "masks": None},
        epoch=2,
        step=9,
        optimizer=torch.optim.AdamW(network.parameters()).state_dict(),
        scheduler={},
        random_states=capture_random_states(),
        progress={"best": float("inf"), "sums": {"total": 1.5}},
    )


def test_checkpoint_survives_a_round_trip(tmp_path) -> None:
    saved = make_checkpoint()
    path = tmp_path / "new" / "model.pth"
    checkpoints.save_checkpoint(path, saved)
    loaded = checkpoints.load_checkpoint(path)
    for field in dataclasses.fields(saved):
        if field.name not in ("weights", "random_states"):
            assert getattr(loaded, field.name) == getattr(saved, field.name)
    assert all(torch.equal(saved.weights[key], value) for key, value in loaded.weights.items())
    assert [file.name for file in path.parent.iterdir()] == ["model.pth"]


def test_random_states_go_on_where_they_were(tmp_path) -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(()))]

    draw()
    checkpoints.save_checkpoint(tmp_path / "model.pth", make_checkpoint())
    expected = draw()
    draw()
    restore_random_states(checkpoints.load_checkpoint(tmp_path / "model.pth").random_states)
    assert draw() == expected


def test_full_disk_keeps_the_older_checkpoint(tmp_path, monkeypatch) -> None:
    path = tmp_path / "latest.pth"
    checkpoints.save_checkpoint(path, make_checkpoint())
    before = path.read_bytes()

    def refuse(*_: object) -> None:
        # torch raises an error of its own over the system's
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904

    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(OutputError, match="No space left"):
        checkpoints.save_checkpoint(path, make_checkpoint())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["latest.pth"]
