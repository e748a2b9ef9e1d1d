"""The training loop that all trainers share: order of samples, steps, a clean stop, logs. Runs on lightning-fabric.

A trainer brings objects (network, loss, loaders, optimiser) and a step function; this module runs epochs of them such
that a run that was stopped anywhere and goes on computes bit for bit what an uninterrupted one computes (on a CPU).
"""

import csv
import dataclasses
import io
import logging
import math
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol

import lightning_fabric
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from thfuse_sam.errors import TrainingError
from thfuse_sam.files import write_text

log = logging.getLogger(__name__)

Batch = dict[str, Any]
# (network, batch) -> loss parts as 0-d tensors, "total" is minimised
LossFunction = Callable[[nn.Module, Batch], Mapping[str, Tensor]]
# batch -> figures to sum up over the epoch, such as masks found
CountFunction = Callable[[Batch], Mapping[str, int]]


class EpochDataset(Protocol):
    """A dataset whose samples are a function of (seed, epoch, index)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...  # a dict of tensors and plain values, with "name"
    def set_epoch(self, epoch: int) -> None: ...


@dataclasses.dataclass
class Progress:
    """How far a run is; part of a checkpoint. The last four belong to the epoch under way."""

    epoch: int = 0  # finished epochs
    step: int = 0  # optimiser steps since the start of training
    best: float = math.inf  # lowest loss at the end of an epoch
    batch: int = 0  # batches done
    images: int = 0  # images done
    sums: dict[str, float] = dataclasses.field(default_factory=dict)  # loss parts times images
    counts: dict[str, int] = dataclasses.field(default_factory=dict)  # what the trainer counts, such as masks found

    def means(self) -> dict[str, float]:
        """Loss parts of the epoch under way, averaged over its images so far."""
        return {key: value / max(self.images, 1) for key, value in self.sums.items()}

    def close_epoch(self) -> None:
        self.epoch += 1
        self.batch = self.images = 0
        self.sums, self.counts = {}, {}


class _ByEpoch(Dataset[Any]):
    """Takes (epoch, index) keys, so that workers which outlive an epoch learn of the next one."""

    def __init__(self, dataset: EpochDataset) -> None:
        self.dataset = dataset
        self._epoch: int | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        if epoch != self._epoch:
            self.dataset.set_epoch(epoch)
            self._epoch = epoch
        return self.dataset[index]


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) keys in an order drawn from (seed, epoch), from batch `first` on."""

    def __init__(self, size: int, batch_size: int, seed: int | None) -> None:
        """`seed` None: in the dataset's own order."""
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.first = 0

    def start_at(self, epoch: int, first: int = 0) -> None:
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return math.ceil(self.size / self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = list(range(self.size))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size).tolist()
        for batch in range(self.first, len(self)):
            members = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(self.epoch, index) for index in members]


def make_loader(
    dataset: EpochDataset, batch_size: int, *, seed: int | None, num_workers: int, pin_memory: bool = False
) -> tuple[DataLoader[Any], EpochBatches]:
    """A loader and the sampler that says which epoch, and from which batch on, its next pass is."""
    batches = EpochBatches(len(dataset), batch_size, seed)
    loader: DataLoader[Any] = DataLoader(
        _ByEpoch(dataset),
        batch_sampler=batches,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_interrupts,
        # A generator of its own: starting a pass must not draw from the one that dropout draws from.
        generator=torch.Generator().manual_seed(0),
    )
    return loader, batches


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches the whole process group; the main process ends the workers when it is done."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def make_fabric(device: torch.device) -> lightning_fabric.Fabric:
    """Fabric for one device, in 32-bit floats."""
    devices = [device.index or 0] if device.type == "cuda" else 1
    return lightning_fabric.Fabric(accelerator=device.type, devices=devices, precision="32-true")


def set_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def warmup_cosine(step: int, total_steps: int, warmup_steps: int, floor: float = 0.01) -> float:
    """Factor on the learning rate at `step`: a linear rise, then half a cosine down to `floor`.

    Cosine decay as in SGDR, Loshchilov and Hutter 2017, without restarts.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


class StopRequest:
    """While entered, the first Ctrl-C (or SIGTERM) asks the loop to stop after its step; the second one interrupts."""

    def __init__(self) -> None:
        self.asked = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # handlers can be set nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """How one optimiser step is taken."""

    learning_rate: Callable[[int], float]  # step -> learning rate
    grad_clip: float  # largest norm of the gradient
    max_steps: int | None = None  # stop at this step; None: no limit

    def is_last(self, step: int) -> bool:
        return self.max_steps is not None and step >= self.max_steps


def train_epoch(
    fabric: lightning_fabric.Fabric,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Iterable[Batch],
    loss_function: LossFunction,
    count: CountFunction,
    settings: StepSettings,
    progress: Progress,
    stop: StopRequest,
    bar: "tqdm[Any] | None" = None,
) -> None:
    """Take the remaining steps of the epoch under way, as far as `stop` and `settings` let it, and keep `progress`.

    `network`, `optimizer` and `loader` are Fabric's. Raises TrainingError before a step that is not finite, so that
    the weights are still good ones.
    """
    network.train()
    remaining = iter(loader)
    # Asked before a batch is made: with live masks, making one that is not used takes seconds.
    while not stop.asked and not settings.is_last(progress.step):
        batch = next(remaining, None)
        if batch is None:
            return
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate(progress.step)
        optimizer.zero_grad(set_to_none=True)
        parts = loss_function(network, batch)
        values = _as_floats(parts)
        _require_finite(values, progress, batch)
        fabric.backward(parts["total"])
        norm = fabric.clip_gradients(network, optimizer, max_norm=settings.grad_clip, error_if_nonfinite=False)
        assert norm is not None  # it is for clipping by value only
        _require_finite({"gradient norm": float(norm)}, progress, batch)
        optimizer.step()
        images = _batch_size(batch)
        for key, value in values.items():
            progress.sums[key] = progress.sums.get(key, 0.0) + value * images
        for key, number in count(batch).items():
            progress.counts[key] = progress.counts.get(key, 0) + number
        progress.images += images
        progress.batch += 1
        progress.step += 1
        if bar is not None:
            bar.update(images)
            bar.set_postfix(loss=f"{values['total']:.4f}", refresh=False)


@torch.no_grad()
def evaluate(network: nn.Module, loader: Iterable[Batch], loss_function: LossFunction) -> dict[str, float]:
    """Loss parts over `loader`, averaged over its images."""
    network.eval()
    sums: dict[str, float] = {}
    images = 0
    for batch in loader:
        size = _batch_size(batch)
        for key, value in _as_floats(loss_function(network, batch)).items():
            sums[key] = sums.get(key, 0.0) + value * size
        images += size
    return {key: value / images for key, value in sums.items()}


def progress_bar(total: int, done: int, label: str) -> "tqdm[Any]":
    """A bar in images and images/s on a terminal, nothing elsewhere."""
    return tqdm(total=total, initial=done, desc=label, unit=" images", leave=False, disable=None, file=sys.stderr)


class Stopwatch:
    """Seconds and images since it was made."""

    def __init__(self, images: int) -> None:
        self._started = time.perf_counter()
        self._images = images

    def images_per_second(self, images: int) -> float:
        return (images - self._images) / max(time.perf_counter() - self._started, 1e-9)


class EpochLog:
    """One row an epoch: `train_log.csv`, rewritten atomically, and TensorBoard's files where it is installed."""

    def __init__(self, folder: Path, finished_epochs: int) -> None:
        """Rows of epochs after `finished_epochs`, from a run that is done over, are dropped."""
        self.path = folder / "train_log.csv"
        self._rows = [row for row in _read_rows(self.path) if int(row["epoch"]) <= finished_epochs]
        self._board = _tensorboard_writer(folder / "tensorboard")

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add the row of `epoch` (1-based). Raises OutputError."""
        row = {"epoch": str(epoch), **{key: f"{value:.6g}" for key, value in values.items()}}
        self._rows = [*(old for old in self._rows if old["epoch"] != row["epoch"]), row]
        columns = list(dict.fromkeys(key for row in self._rows for key in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self.path, text.getvalue())
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(key, value, epoch)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _tensorboard_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(log_dir=str(folder))


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row.get("epoch") or "").isdigit()]
    return [{key: value for key, value in row.items() if key and value} for row in rows]


def _as_floats(parts: Mapping[str, Tensor]) -> dict[str, float]:
    # One transfer for all parts, because each one waits for the GPU.
    values: Sequence[float] = torch.stack([part.detach().float() for part in parts.values()]).tolist()
    return dict(zip(parts, values, strict=True))


def _batch_size(batch: Batch) -> int:
    return len(batch["name"])


def _require_finite(values: Mapping[str, float], progress: Progress, batch: Batch) -> None:
    bad = [key for key, value in values.items() if not math.isfinite(value)]
    if bad:
        raise TrainingError(
            f"step {progress.step + 1}: {', '.join(bad)} not finite on {', '.join(batch['name'])}; "
            "lower --lr or take these images out; the checkpoints from before are kept"
        )
