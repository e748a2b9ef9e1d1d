"""What tests of batches and of the loop share."""

from typing import Any

import torch
from torch.utils.data import DataLoader

from thfuse_sam.training.batches import Batch, EpochBatches, make_loader


class Numbers:
    """Samples that say which epoch and index they were made for."""

    def __init__(self, size: int = 10) -> None:
        self.size, self.epoch = size, -1

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> Batch:
        return {"x": torch.tensor([float(index)]), "epoch": self.epoch, "name": str(index)}


def load(
    dataset: Numbers, batch_size: int, seed: int | None = None, num_workers: int = 0, step_size: int | None = None
) -> tuple[DataLoader[Any], EpochBatches]:
    batches = EpochBatches(len(dataset), batch_size, seed, step_size=step_size)
    return make_loader(dataset, batches, num_workers=num_workers), batches
