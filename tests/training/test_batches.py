from collections.abc import Iterator

import pytest
import torch

from thfuse_sam.errors import WorkerError
from thfuse_sam.training.batches import Batch, EpochBatches, next_batch

from .conftest import Numbers, load


def names(loader) -> list[list[str]]:
    return [batch["name"] for batch in loader]


def test_order_depends_on_seed_and_epoch_only_and_holds_every_sample() -> None:
    loader, batches = load(Numbers(), 4, seed=1)
    batches.start_at(3)
    third = names(loader)
    assert sorted(name for batch in third for name in batch) == sorted(map(str, range(10)))
    assert [len(batch) for batch in third] == [4, 4, 2]
    assert names(loader) == third
    batches.start_at(4)
    assert names(loader) != third
    other, other_batches = load(Numbers(), 4, seed=2)
    other_batches.start_at(3)
    assert names(other) != third


def test_a_pass_can_start_in_the_middle() -> None:
    loader, batches = load(Numbers(), 4, seed=1)
    batches.start_at(2)
    whole = names(loader)
    batches.start_at(2, first=1)
    assert names(loader) == whole[1:]


def test_workers_that_outlive_an_epoch_learn_of_the_next_one() -> None:
    loader, batches = load(Numbers(4), 2, seed=None, num_workers=1)
    for epoch in (0, 5):
        batches.start_at(epoch)
        assert [batch["epoch"].tolist() for batch in loader] == [[epoch, epoch]] * 2


def test_starting_a_pass_draws_nothing_from_the_global_generator() -> None:
    loader, _ = load(Numbers(), 4, seed=1)
    before = torch.get_rng_state()
    names(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_plain_batches_are_one_step_each() -> None:
    plan = EpochBatches(10, 4, 1).plan
    assert [(len(batch.positions), batch.loss_scale, batch.ends_step) for batch in plan] == [
        (4, 1.0, True),
        (4, 1.0, True),
        (2, 1.0, True),
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_step_is_the_mean_over_its_samples_however_it_is_divided(world_size: int, batch_size: int) -> None:
    ranks = [
        EpochBatches(11, batch_size, 1, step_size=6, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert {batches.steps for batches in ranks} == {2}
    # What a step weighs each sample with: the scale of the loss, divided among its batch, averaged over processes.
    weights = [[0.0] * 11, [0.0] * 11]
    for batches in ranks:
        step = 0
        for batch in batches.plan:
            for position in batch.positions:
                weights[step][position] += batch.loss_scale / len(batch.positions) / world_size
            step += batch.ends_step
    assert weights[0] == pytest.approx([1 / 6] * 6 + [0] * 5)
    assert weights[1] == pytest.approx([0] * 6 + [1 / 5] * 5)


def test_too_few_samples_for_all_processes_wait() -> None:
    ranks = [EpochBatches(9, 1, 1, rank=rank, world_size=4) for rank in range(4)]
    assert [len(batches) for batches in ranks] == [2, 2, 2, 2]
    assert {batches.steps for batches in ranks} == {2}


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_that_dies_while_it_hands_a_batch_over(error: Exception) -> None:
    def batches() -> Iterator[Batch]:
        raise error
        yield {}

    with pytest.raises(WorkerError, match=r"a process that makes samples died \((.*reset by peer|EOFError)\)"):
        next_batch(batches())
