"""The training loop that all trainers share: order of samples, steps, a clean stop, logs. Runs on lightning-fabric.

A trainer brings objects (network, loss, loaders, optimiser) and a step function; this module runs epochs of them such
that a run that was stopped anywhere and goes on computes bit for bit what an uninterrupted one computes (on a CPU).
"""

import contextlib
import csv
import dataclasses
import io
import logging
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import lightning_fabric
import numpy as np
import torch
from lightning_fabric.strategies import DDPStrategy
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from thfuse_sam.errors import OutputError, ThFuseError, TrainingError, WorkerError
from thfuse_sam.files import write_text
from thfuse_sam.interrupts import StopRequest, ignore_interrupts
from thfuse_sam.precision import Precision

log = logging.getLogger(__name__)
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its hints are for those who write programs

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


@dataclasses.dataclass(frozen=True)
class PlannedBatch:
    """One batch of one process, and its place in the optimiser step that it is a part of."""

    positions: tuple[int, ...]  # of its samples in the epoch's order
    share: float  # factor on its mean loss, such that a step's gradient is that of the mean over all its samples
    ends_step: bool


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) keys in an order drawn from (seed, epoch), from batch `first` on.

    An optimiser step is made of one batch or of several (accumulated gradients), in one process or in several, which
    take its samples in turns. The order, and which samples make a step, do not depend on the number of processes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int | None,
        *,
        step_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`seed` None: in the dataset's own order. `step_size`: samples of a step, of all processes together; None:
        one batch of each. Where fewer samples than processes are left for the last step, they wait for another epoch.
        """
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.first = 0
        self.plan: list[PlannedBatch] = []
        step_size = step_size or batch_size * world_size
        for start in range(0, size, step_size):
            members = range(start, min(start + step_size, size))
            if len(members) < world_size:
                continue
            own = members[rank::world_size]
            for first in range(0, len(own), batch_size):
                batch = tuple(own[first : first + batch_size])
                share = len(batch) * world_size / len(members)
                self.plan.append(PlannedBatch(batch, share, first + batch_size >= len(own)))

    @property
    def steps(self) -> int:
        """Optimiser steps in a whole epoch."""
        return sum(batch.ends_step for batch in self.plan)

    def start_at(self, epoch: int, first: int = 0) -> None:
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        """Batches of this process in a whole epoch."""
        return len(self.plan)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = list(range(self.size))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size).tolist()
        for batch in self.plan[self.first :]:
            yield [(self.epoch, order[position]) for position in batch.positions]


def make_loader(
    dataset: EpochDataset,
    batch_size: int,
    *,
    seed: int | None,
    num_workers: int,
    pin_memory: bool = False,
    step_size: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    collate: Callable[[list[Any]], Batch] | None = None,
) -> tuple[DataLoader[Any], EpochBatches]:
    """A loader and the sampler that says which epoch, and from which batch on, its next pass is.

    `step_size`, `rank` and `world_size` are those of `EpochBatches`; `collate` None stacks the samples' tensors.
    """
    batches = EpochBatches(len(dataset), batch_size, seed, step_size=step_size, rank=rank, world_size=world_size)
    loader: DataLoader[Any] = DataLoader(
        _ByEpoch(dataset),
        batch_sampler=batches,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        collate_fn=collate,
        worker_init_fn=ignore_interrupts,
        # A generator of its own: starting a pass must not draw from the one that dropout draws from.
        generator=torch.Generator().manual_seed(0),
    )
    return loader, batches


_FABRIC_PRECISION: dict[Precision, Literal["32-true", "16-mixed", "bf16-mixed"]] = {
    "fp32": "32-true",
    "fp16": "16-mixed",
    "bf16": "bf16-mixed",
}


def make_fabric(device: torch.device, precision: Precision = "fp32") -> lightning_fabric.Fabric:
    """Fabric for one device; "fp16" and "bf16" compute in mixed precision."""
    devices = [device.index or 0] if device.type == "cuda" else 1
    return lightning_fabric.Fabric(accelerator=device.type, devices=devices, precision=_FABRIC_PRECISION[precision])


def is_distributed() -> bool:
    """Whether `torchrun` has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ


def is_main_process() -> bool:
    """Whether this process is the one that writes files: the only one, or the first of several."""
    return not is_distributed() or os.environ.get("RANK", "0") == "0"


def make_distributed_fabric(device: torch.device, precision: Precision = "fp32") -> lightning_fabric.Fabric:
    """Fabric for the processes that `torchrun` started on this and other machines, one device each.

    Gradients are averaged over the processes: by NCCL between CUDA devices, by gloo between CPUs.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = lightning_fabric.Fabric(
        accelerator=device.type,
        devices=local,
        num_nodes=int(os.environ["WORLD_SIZE"]) // local,
        # Some weights have no part in a step: those for boxes where all prompts are points.
        strategy=DDPStrategy(
            find_unused_parameters=True, process_group_backend="nccl" if device.type == "cuda" else "gloo"
        ),
        precision=_FABRIC_PRECISION[precision],
    )
    fabric.launch()
    return fabric


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


def warmup_polynomial(step: int, total_steps: int, warmup_steps: int, power: float = 0.9) -> float:
    """Factor on the learning rate at `step`: a linear rise, then (1 - t) to the power of `power`, t from 0 to 1.

    The polynomial ("poly") decay of DeepLab, Chen et al., TPAMI 2018.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    return float((1 - done) ** power)


@dataclasses.dataclass
class Plateau:
    """Lowers the learning rate when a score has stopped falling, as torch's ReduceLROnPlateau in mode "min" does."""

    factor: float = 0.1  # on the learning rate, each time
    patience: int = 3  # epochs without a better score that are let pass
    threshold: float = 1e-4  # relative; a score must be lower by this to be better
    scale: float = 1.0  # of the learning rate, so far
    best: float = math.inf
    bad_epochs: int = 0

    def update(self, score: float) -> None:
        """Take the score of another epoch, the lower the better."""
        if score < self.best * (1 - self.threshold):
            self.best, self.bad_epochs = score, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs > self.patience:
            self.scale, self.bad_epochs = self.scale * self.factor, 0


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """How one optimiser step is taken."""

    learning_rate: Callable[[int], float]  # step -> learning rate
    grad_clip: float  # largest norm of the gradient
    max_steps: int | None = None  # stop at this step; None: no limit
    overflows: int = 0  # steps in a row whose gradient may be infinite, as at the start of training in fp16
    after_step: Callable[[int], None] | None = None  # called with the number of steps taken, after each of them

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
    plan: Sequence[PlannedBatch] | None = None,
) -> None:
    """Take the remaining steps of the epoch under way, as far as `stop` and `settings` let it, and keep `progress`.

    `network`, `optimizer` and `loader` are Fabric's. `plan` says which batches make a step (`EpochBatches.plan`); None:
    each is one. Raises TrainingError before a step that is not finite, so that the weights are still good ones.
    """
    network.train()
    remaining = iter(loader)
    alone = fabric.world_size == 1
    overflows = 0
    # Asked before a batch is made: with live masks, making one that is not used takes seconds.
    while not _is_asked(fabric, stop) and not settings.is_last(progress.step):
        trouble: list[str] = []
        step: list[tuple[Batch, dict[str, float]]] = []
        while True:
            batch = next_batch(remaining)
            if batch is None:
                return
            planned = plan[progress.batch + len(step)] if plan is not None else None
            if not step:
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate(progress.step)
                optimizer.zero_grad(set_to_none=True)
            ends_step = planned is None or planned.ends_step
            waiting = contextlib.nullcontext() if alone or ends_step else fabric.no_backward_sync(network)  # type: ignore[arg-type]
            with waiting:
                parts = loss_function(network, batch)
                values = _as_floats(parts)
                trouble += [] if _is_finite(values) else [_describe_trouble(values, progress, batch)]
                # Of several processes each one has to go on to where they meet, or the others wait for it.
                if trouble and alone:
                    raise TrainingError(trouble[0])
                total = parts["total"]
                fabric.backward(total if planned is None or planned.share == 1 else total * planned.share)
            step.append((batch, values))
            if ends_step:
                break
        clipped = fabric.clip_gradients(network, optimizer, max_norm=settings.grad_clip, error_if_nonfinite=False)
        assert clipped is not None  # it is for clipping by value only
        norm = float(clipped)
        overflows = 0 if math.isfinite(norm) else overflows + 1
        if trouble or overflows > settings.overflows:
            last = step[-1][0]
            raise TrainingError(trouble[0] if trouble else _describe_trouble({"gradient norm": norm}, progress, last))
        optimizer.step()
        for batch, values in step:
            _add_up(progress, batch, values, count, bar)
        progress.step += 1
        if settings.after_step is not None:
            settings.after_step(progress.step)
        if bar is not None:
            bar.set_postfix(loss=f"{step[-1][1]['total']:.4f}", refresh=False)


def next_batch(batches: Iterator[Batch]) -> Batch | None:
    """The next batch, None after the last one. An error of a loader's worker is raised without that worker's trace.

    Raises WorkerError where the worker died while it handed a batch over.
    """
    try:
        return next(batches, None)
    except (ConnectionError, EOFError) as error:
        reason = str(error) or type(error).__name__
        raise WorkerError(f"a process that makes samples died ({reason}); use fewer `num_workers`") from error
    except ThFuseError as error:
        lines = str(error).strip().splitlines()
        if len(lines) < 2:
            raise
        # The last line is "module.Class: message".
        raise type(error)(lines[-1].partition(": ")[2]) from None


def _add_up(
    progress: Progress, batch: Batch, values: Mapping[str, float], count: CountFunction, bar: "tqdm[Any] | None"
) -> None:
    images = _batch_size(batch)
    for key, value in values.items():
        progress.sums[key] = progress.sums.get(key, 0.0) + value * images
    for key, number in count(batch).items():
        progress.counts[key] = progress.counts.get(key, 0) + number
    progress.images += images
    progress.batch += 1
    if bar is not None:
        bar.update(images)


def _is_asked(fabric: lightning_fabric.Fabric, stop: StopRequest) -> bool:
    """Whether any process was asked to stop: all of them stop after the same step."""
    if fabric.world_size == 1:
        return stop.asked
    asked = fabric.all_reduce(torch.tensor(float(stop.asked), device=fabric.device), reduce_op="max")
    stop.asked = bool(asked > 0)  # type: ignore[operator]  # all_reduce keeps the type of its argument
    return stop.asked


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
        """Rows of epochs after `finished_epochs`, from a run that is done over, are dropped.

        Raises OutputError where a log is there that is damaged.
        """
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

    def write_picture(self, epoch: int, name: str, picture: NDArray[np.uint8]) -> None:
        """Show a picture, uint8 HxWx3 RGB, in TensorBoard, where it is installed."""
        if self._board is not None:
            self._board.add_image(name, picture, epoch, dataformats="HWC")

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
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if _is_epoch(row.get("epoch") or "")]
    except (ValueError, csv.Error) as error:
        raise OutputError(f"{path}: no log that can be gone on with ({error}); repair or remove it") from None
    return [{key: value for key, value in row.items() if key and value} for row in rows]


def _is_epoch(text: str) -> bool:
    return text.isdecimal() and len(text) < 10


def _as_floats(parts: Mapping[str, Tensor]) -> dict[str, float]:
    # One transfer for all parts, because each one waits for the GPU.
    values: Sequence[float] = torch.stack([part.detach().float() for part in parts.values()]).tolist()
    return dict(zip(parts, values, strict=True))


def _batch_size(batch: Batch) -> int:
    return len(batch["name"])


def _is_finite(values: Mapping[str, float]) -> bool:
    return all(math.isfinite(value) for value in values.values())


def _describe_trouble(values: Mapping[str, float], progress: Progress, batch: Batch) -> str:
    bad = [key for key, value in values.items() if not math.isfinite(value)]
    return (
        f"step {progress.step + 1}: {', '.join(bad)} not finite on {', '.join(batch['name'])}; "
        "lower `lr` or take these images out; the checkpoints from before are kept"
    )
