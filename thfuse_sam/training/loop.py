"""The optimiser steps of one epoch, on lightning-fabric; `trainer` makes a run of epochs."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning_fabric
import torch
from torch import Tensor, nn
from tqdm import tqdm

from thfuse_sam.errors import TrainingError
from thfuse_sam.interrupts import StopRequest
from thfuse_sam.training.batches import Batch, PlannedBatch, next_batch
from thfuse_sam.training.distributed import any_process, sums_over_processes

TOTAL = "total"  # name of the loss part that is minimised
# (network, batch) -> loss parts as 0-d tensors, with `TOTAL`
LossFunction = Callable[[nn.Module, Batch], Mapping[str, Tensor]]
# batch -> figures to sum up over the epoch, such as masks found
CountFunction = Callable[[Batch], Mapping[str, int]]


@dataclass
class Progress:
    """How far a run is; part of a checkpoint. `batch` and what follows belong to the epoch under way."""

    epoch: int = 0  # finished epochs
    step: int = 0  # optimiser steps since the start of training
    best: float = math.inf  # lowest score of an evaluation
    files: list[str] = field(default_factory=list)  # of weights, which are written after the checkpoint that names them
    batch: int = 0  # batches done
    images: int = 0  # images done
    sums: dict[str, float] = field(default_factory=dict)  # loss parts times images
    counts: dict[str, int] = field(default_factory=dict)  # what the task counts, such as masks found

    def totals(self, fabric: lightning_fabric.Fabric) -> tuple[dict[str, float], dict[str, int]]:
        """Mean loss parts and counts of the epoch under way, over all processes."""
        images, *totals = sums_over_processes(fabric, [self.images, *self.sums.values(), *self.counts.values()])
        means = {key: value / max(images, 1) for key, value in zip(self.sums, totals, strict=False)}
        counts = zip(self.counts, totals[len(self.sums) :], strict=True)
        return means, {key: round(value) for key, value in counts}

    def close_epoch(self) -> None:
        self.epoch += 1
        self.batch = self.images = 0
        self.sums, self.counts = {}, {}


@dataclass(frozen=True)
class StepSettings:
    """How one optimiser step is taken."""

    learning_rate: Callable[[int], float]  # step -> learning rate
    grad_clip: float  # largest norm of the gradient
    max_steps: int | None = None  # stop at this step; None: no limit
    overflows: int = 0  # most steps in a row with an infinite gradient, as at the start of training in fp16
    after_step: Callable[[int], None] | None = None  # called with the number of steps taken, after each of them

    def is_last(self, step: int) -> bool:
        return self.max_steps is not None and step >= self.max_steps


@dataclass(frozen=True)
class StepParts:
    """What optimiser steps are taken with; Fabric has set up the network, the optimiser and the loader."""

    fabric: lightning_fabric.Fabric
    network: nn.Module
    optimizer: torch.optim.Optimizer
    loader: Iterable[Batch]
    loss: LossFunction
    count: CountFunction
    settings: StepSettings
    plan: Sequence[PlannedBatch] | None = None  # which batches make a step; None: each batch makes one


def train_epoch(parts: StepParts, progress: Progress, stop: StopRequest, bar: "tqdm[Any] | None" = None) -> None:
    """Take the remaining steps of the epoch under way, until `stop` or the settings end it, and update `progress`.

    Raises TrainingError before a step that is not finite, so that the weights are still good ones.
    """
    fabric, network, optimizer, settings = parts.fabric, parts.network, parts.optimizer, parts.settings
    network.train()
    remaining = iter(parts.loader)
    overflows = 0
    # Asked before a batch is made: with live masks, making one that is not used takes seconds.
    while not is_asked(fabric, stop) and not settings.is_last(progress.step):
        optimizer.zero_grad(set_to_none=True)
        step = _add_gradients(parts, remaining, progress)
        if not step.batches:
            return
        clipped = fabric.clip_gradients(network, optimizer, max_norm=settings.grad_clip, error_if_nonfinite=False)
        assert clipped is not None  # None is returned for clipping by value only
        norm = float(clipped)
        overflows = 0 if math.isfinite(norm) else overflows + 1
        if overflows > settings.overflows:
            step.check({"gradient norm": norm}, progress, step.batches[-1])
        if step.trouble:
            raise TrainingError(step.trouble[0])
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate(progress.step)
        optimizer.step()
        for batch, values in zip(step.batches, step.values, strict=True):
            _add_up(progress, batch, values, parts.count(batch))
        progress.step += 1
        if settings.after_step is not None:
            settings.after_step(progress.step)
        if bar is not None:
            bar.set_postfix_str(f"loss {step.values[-1][TOTAL]:.4f}, best {progress.best:.4f}", refresh=False)
            bar.update()


@dataclass
class _Step:
    """The batches of an optimiser step, their loss parts, and what is not finite in them, in words."""

    batches: list[Batch] = field(default_factory=list)
    values: list[dict[str, float]] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    def check(self, values: Mapping[str, float], progress: Progress, batch: Batch) -> None:
        """Note those of `values` that are not finite."""
        bad = [key for key, value in values.items() if not math.isfinite(value)]
        if bad:
            self.trouble.append(
                f"step {progress.step + 1}: {', '.join(bad)} not finite on {', '.join(batch['name'])}; "
                "lower `lr` or take these images out; checkpoints written before this step are kept"
            )


def _add_gradients(parts: StepParts, remaining: Iterator[Batch], progress: Progress) -> _Step:
    """Add up the gradients of the next step's batches; a step without batches at the end of the epoch."""
    step, fabric, network = _Step(), parts.fabric, parts.network
    while (batch := next_batch(remaining)) is not None:
        planned = PlannedBatch() if parts.plan is None else parts.plan[progress.batch + len(step.batches)]
        waits = fabric.world_size > 1 and not planned.ends_step
        with fabric.no_backward_sync(network) if waits else contextlib.nullcontext():  # type: ignore[arg-type]
            loss = parts.loss(network, batch)
            # One transfer for all parts, because each one waits for the GPU.
            numbers = torch.stack([part.detach().float() for part in loss.values()]).tolist()
            values = dict(zip(loss, numbers, strict=True))
            step.check(values, progress, batch)
            # One of several processes must not stop here: the others would wait for it where they exchange gradients.
            if step.trouble and fabric.world_size == 1:
                raise TrainingError(step.trouble[0])
            fabric.backward(loss[TOTAL] * planned.loss_scale)
        step.batches.append(batch)
        step.values.append(values)
        if planned.ends_step:
            break
    return step


def _add_up(progress: Progress, batch: Batch, values: Mapping[str, float], counts: Mapping[str, int]) -> None:
    images = len(batch["name"])
    for key, value in values.items():
        progress.sums[key] = progress.sums.get(key, 0.0) + value * images
    for key, number in counts.items():
        progress.counts[key] = progress.counts.get(key, 0) + number
    progress.images += images
    progress.batch += 1


def is_asked(fabric: lightning_fabric.Fabric, stop: StopRequest) -> bool:
    """Whether any process was asked to stop, so that all stop after the same step. All processes call this together."""
    stop.asked = any_process(fabric, stop.asked)
    return stop.asked
