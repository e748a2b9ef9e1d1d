"""Training of a fusion network: epochs, validation, checkpoints, resume, the log. The plumbing is in `loop`.

Under `torchrun` every process trains on its part of each batch; the first one validates and writes all files.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import lightning_fabric
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from thfuse_sam.datasets.fusion import to_uint8
from thfuse_sam.datasets.pairs import ImagePair
from thfuse_sam.errors import TrainingError, UsageError
from thfuse_sam.files import write_json
from thfuse_sam.interrupts import StopRequest
from thfuse_sam.masks.overlay import draw_overlay
from thfuse_sam.metrics import METRICS
from thfuse_sam.precision import Precision
from thfuse_sam.training import checkpoint as checkpoints
from thfuse_sam.training import loop
from thfuse_sam.training.ema import EmaWeights

LATEST = "latest.pth"
BEST = "best.pth"
OPTIONS = "train_options.json"
OVERFLOWS = 20  # steps in a row that fp16 may take to find a scale for the loss
PICTURES = 4  # validation pairs shown in TensorBoard

# With another of these a run cannot go on: they decide which images a step sees.
_SAME_ON_RESUME = ("batch_size", "accumulate", "processes", "seed", "pairs")
# These say where and how long, not what is computed.
_FREE_ON_RESUME = frozenset(
    ("resume", "output_dir", "log_dir", "num_workers", "device", "max_steps", "save_interval", "compile", "val_metrics")
) | frozenset(
    ("config", "debug", "dry_run", "report", "skip_bad", "network", "ir_dir", "vi_dir", "use_sam", "sam_checkpoint")
)

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """What the loop needs to know; the network, the loss and the data come as objects."""

    epochs: int = 100
    batch_size: int = 8  # pairs that go through the network together, in each process
    accumulate: int = 1  # batches in an optimiser step
    lr: float = 1e-3  # at the peak, after the warm-up
    schedule: Literal["cosine", "plateau"] = (
        "cosine"  # down to a hundredth; or by steps, when validation gets no better
    )
    warmup_steps: int = 20  # over which the learning rate rises
    plateau_factor: float = 0.5  # on the learning rate
    plateau_patience: int = 5  # epochs without a better score that are let pass
    weight_decay: float = 1e-4
    grad_clip: float = 1.0  # largest norm of the gradient
    ema_decay: float = 0.0  # of averaged weights, which then are validated and kept; 0: no average
    precision: Precision = "fp32"  # "fp16", "bf16": mixed precision
    compile: bool = False  # torch.compile; takes a minute or more before the first step
    val_metrics: tuple[str, ...] = ()  # keys of metrics.METRICS, of the validation crops
    seed: int = 0
    num_workers: int = 0  # 0: samples are made in the training process
    save_interval: int = 10  # epochs between model_epoch{N}.pth
    max_steps: int | None = None  # stop after this many optimiser steps; None: no limit


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """Where a run has ended."""

    epoch: int  # finished epochs
    step: int
    best: float  # lowest validation loss (training loss without validation pairs)
    latest: Path
    interrupted: bool  # by Ctrl-C; `latest` then goes on from the very step


def epoch_file(epoch: int) -> str:
    """Name of the checkpoint kept after `epoch` epochs."""
    return f"model_epoch{epoch}.pth"


def require_precision(settings: TrainingSettings, device: torch.device) -> None:
    """Raise UsageError where `device` cannot train in the precision that `settings` ask for."""
    if settings.precision == "fp16" and device.type != "cuda":
        raise UsageError(f"`precision` fp16 on {device.type}: only GPUs train in it; use bf16 or fp32")


def split_pairs(pairs: Sequence[ImagePair], fraction: float, seed: int) -> tuple[list[ImagePair], list[ImagePair]]:
    """Pairs to train on and to validate on, drawn by `seed`, each in the given order.

    Of two pairs or more, a `fraction` above 0 takes at least one for validation, and one stays for training.
    """
    number = min(max(round(fraction * len(pairs)), 1), len(pairs) - 1) if fraction > 0 else 0
    held_out = set(np.random.default_rng(seed).permutation(len(pairs))[:number].tolist())
    return (
        [pair for index, pair in enumerate(pairs) if index not in held_out],
        [pair for index, pair in enumerate(pairs) if index in held_out],
    )


def fusion_loss(loss: nn.Module, network: nn.Module, batch: loop.Batch) -> Mapping[str, Tensor]:
    """Loss parts of `network` on a batch of `FusionDataset` samples."""
    return loss_of(loss, fused_batch(network, batch), batch)


def fused_batch(network: nn.Module, batch: loop.Batch) -> Tensor:
    """Fused images of a batch of `FusionDataset` samples: float B1HW in [0, 1]."""
    fused: Tensor = network(batch["ir"], batch["vi"], batch["ir_guidance"], batch["vi_guidance"])
    return fused


def loss_of(loss: nn.Module, fused: Tensor, batch: loop.Batch) -> Mapping[str, Tensor]:
    """Loss parts of the fused images of a batch."""
    parts: Mapping[str, Tensor] = loss(
        fused, batch["ir"], batch["vi"], batch["ir_labels"], batch["vi_labels"], batch.get("vi_rgb")
    )
    return parts


def count_masks(batch: loop.Batch) -> dict[str, int]:
    """Masks found and placeholders handed out in a batch."""
    flags = torch.cat([batch["has_ir_mask"], batch["has_vi_mask"]])
    found = int(flags.sum())
    return {"masks_found": found, "placeholders": len(flags) - found}


class FusionTrainer:
    """Trains one network; `run` does all of it."""

    def __init__(
        self,
        network: nn.Module,
        network_name: str,
        loss: nn.Module,
        train_set: loop.EpochDataset,
        val_set: loop.EpochDataset | None,
        settings: TrainingSettings,
        *,
        device: torch.device,
        output_dir: Path,
        log_dir: Path | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`network_name` is its key in `models.NETWORKS`; `options` are recorded as they are (JSON-able).

        `log_dir` None: the log goes to `output_dir`. Raises UsageError for settings that `device` cannot do.
        """
        require_precision(settings, device)
        self.settings = settings
        self.output_dir = output_dir
        self.log_dir = log_dir or output_dir
        self.options = {
            **(options or {}),
            **dataclasses.asdict(settings),
            "pairs": len(train_set),
            "processes": _processes(),
        }
        self.progress = loop.Progress()
        self.plateau = loop.Plateau(settings.plateau_factor, settings.plateau_patience)
        self.spec = checkpoints.NetworkSpec(network_name, dict(network.options))  # type: ignore[arg-type]
        self._device = _own_device(device)
        self.network = network.to(self._device)
        self.ema = EmaWeights(self.network, settings.ema_decay) if settings.ema_decay > 0 else None
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self._loss = loss.to(self._device)
        self._random_states: Mapping[str, Any] | None = None  # of the run to go on with
        self._scaler: Mapping[str, Any] = {}  # likewise
        self._fabric: lightning_fabric.Fabric | None = None
        self._train_set, self._val_set = train_set, val_set
        self._val_loader: DataLoader[Any] | None = None

    @property
    def latest(self) -> Path:
        return self.output_dir / LATEST

    def resume(self, path: Path) -> None:
        """Go on from the checkpoint at `path`. Raises CheckpointError, and UsageError where the runs do not fit."""
        saved = checkpoints.load_checkpoint(path)
        if saved.network != self.spec:
            raise UsageError(
                f"`resume` {path}: holds {saved.network.name} {saved.network.options}, "
                f"`network` is {self.spec.name} {self.spec.options}; give the same network or start without `resume`"
            )
        for key in _SAME_ON_RESUME:
            here = self.options[key]
            there = saved.training.get(key, here)
            if there != here:
                raise UsageError(
                    f"`resume` {path}: was trained with {key} {there}, now it is {here}; "
                    "give the same one or start without `resume`"
                )
        for line in changed_options(saved.training, self.options):
            log.warning("`resume` %s: %s", path, line)
        checkpoints.load_weights(self.network, saved.raw_weights or saved.weights, path)
        if self.ema is not None:
            self.ema.restart(saved.weights)
        self.optimizer.load_state_dict(saved.optimizer)
        self.progress = loop.Progress(epoch=saved.epoch, step=saved.step, **saved.progress)
        state = saved.scheduler.get("plateau", {})
        self.plateau = dataclasses.replace(
            self.plateau, **{key: state[key] for key in ("scale", "best", "bad_epochs") if key in state}
        )
        self._random_states, self._scaler = saved.random_states, saved.scaler
        log.info("resumed %s: %d epochs, %d steps done", path, saved.epoch, saved.step)

    def run(self) -> TrainingResult:
        """Train to the last epoch, to `max_steps` or to Ctrl-C. Raises TrainingError and OutputError."""
        settings, progress = self.settings, self.progress
        make_fabric = loop.make_distributed_fabric if loop.is_distributed() else loop.make_fabric
        fabric = self._fabric = make_fabric(self._device, settings.precision)
        module = cast(nn.Module, torch.compile(self.network)) if settings.compile else self.network
        network, optimizer = fabric.setup(module, self.optimizer)
        if self._scaler:
            fabric.strategy.precision.load_state_dict(dict(self._scaler))
        loader, batches = self._loader(fabric)
        steps = loop.StepSettings(
            functools.partial(self.learning_rate, settings.epochs * batches.steps),
            settings.grad_clip,
            settings.max_steps,
            overflows=OVERFLOWS if settings.precision == "fp16" else 0,
            after_step=self._average if self.ema is not None else None,
        )
        epoch_log = None
        if fabric.is_global_zero:
            write_json(self.output_dir / OPTIONS, {**self.options, "network": dataclasses.asdict(self.spec)})
            epoch_log = loop.EpochLog(self.log_dir, progress.epoch)
        loss = functools.partial(fusion_loss, self._loss)
        # Last, because setting up may draw from the generators.
        if self._random_states is not None:
            checkpoints.restore_random_states(self._random_states)
        try:
            with StopRequest() as stop:
                while progress.epoch < settings.epochs and not stop.asked and not steps.is_last(progress.step):
                    batches.start_at(progress.epoch, progress.batch)
                    label = f"epoch {progress.epoch + 1}/{settings.epochs}"
                    watch = loop.Stopwatch(progress.images)
                    share = len(self._train_set) // fabric.world_size
                    with loop.progress_bar(share, progress.images, label) as bar:
                        loop.train_epoch(
                            fabric, network, optimizer, loader, loss, count_masks, steps, progress, stop, bar,
                            batches.plan,
                        )  # fmt: skip
                    finished = progress.batch == len(batches)
                    if stop.asked and not finished:
                        self._save([self.latest])
                        break
                    speed = watch.images_per_second(progress.images) * fabric.world_size
                    val = fabric.broadcast(self._validate(fabric, epoch_log))
                    self._end_of_epoch(fabric, epoch_log, label, val, speed, finished)
        finally:
            if epoch_log is not None:
                epoch_log.close()
        if fabric.world_size > 1:
            fabric.barrier()  # nobody leaves before the last file is written
        return TrainingResult(progress.epoch, progress.step, progress.best, self.latest, stop.asked)

    def learning_rate(self, total_steps: int, step: int) -> float:
        """Of the step after `step` steps."""
        settings = self.settings
        warmup_steps = min(settings.warmup_steps, total_steps)
        if settings.schedule == "cosine":
            return settings.lr * loop.warmup_cosine(step, total_steps, warmup_steps)
        return settings.lr * self.plateau.scale * min((step + 1) / max(warmup_steps, 1), 1.0)

    def checkpoint(self) -> checkpoints.Checkpoint:
        """The run as it is now."""
        progress = dataclasses.asdict(self.progress)
        raw = self.network.state_dict()
        return checkpoints.Checkpoint(
            network=self.spec,
            weights=raw if self.ema is None else self.ema.weights,
            raw_weights={} if self.ema is None else raw,
            training=self.options,
            epoch=progress.pop("epoch"),
            step=progress.pop("step"),
            optimizer=self.optimizer.state_dict(),
            # The learning rate is a function of the step and of this.
            scheduler={"name": self.settings.schedule, "plateau": dataclasses.asdict(self.plateau)},
            scaler={} if self._fabric is None else self._fabric.strategy.precision.state_dict(),
            random_states=checkpoints.capture_random_states(),
            progress=progress,
        )

    def _average(self, step: int) -> None:
        assert self.ema is not None
        self.ema.update(self.network, step)

    def _save(self, paths: Sequence[Path]) -> None:
        if self._fabric is not None and not self._fabric.is_global_zero:
            return
        state = self.checkpoint()
        for path in paths:
            checkpoints.save_checkpoint(path, state)

    @torch.no_grad()
    def _validate(self, fabric: lightning_fabric.Fabric, epoch_log: loop.EpochLog | None) -> dict[str, float]:
        """Mean loss parts and metrics over the validation pairs; empty without any, and in all processes but one."""
        if self._val_set is None or epoch_log is None:
            return {}
        if self._val_loader is None:  # once: its workers live on into the next epochs
            self._val_loader, _ = loop.make_loader(
                self._val_set, self.settings.batch_size, seed=None, num_workers=self.settings.num_workers
            )
        values: dict[str, list[float]] = {}
        own_weights = contextlib.nullcontext() if self.ema is None else self.ema.applied_to(self.network)
        self.network.eval()
        with own_weights, fabric.autocast():
            remaining = iter(self._val_loader)
            first = True
            while (batch := loop.next_batch(remaining)) is not None:
                batch = {
                    key: value.to(self._device) if isinstance(value, Tensor) else value for key, value in batch.items()
                }
                fused = fused_batch(self.network, batch)
                size = len(batch["name"])
                for key, part in loss_of(self._loss, fused, batch).items():
                    values.setdefault(key, []).extend([float(part)] * size)
                for key, found in batch_metrics(fused, batch, self.settings.val_metrics).items():
                    values.setdefault(key, []).extend(found)
                if first and self._shows_pictures():
                    for name, picture in pictures(fused, batch, PICTURES).items():
                        epoch_log.write_picture(self.progress.epoch + 1, f"val/{name}", picture)
                first = False
        self.network.train()
        return {key: sum(found) / len(found) for key, found in values.items() if found}

    def _shows_pictures(self) -> bool:
        """Before the first epoch's checkpoint and at every one that is kept."""
        epoch = self.progress.epoch + 1
        return epoch == 1 or epoch % self.settings.save_interval == 0 or epoch == self.settings.epochs

    def _loader(self, fabric: lightning_fabric.Fabric) -> tuple[Any, loop.EpochBatches]:
        settings = self.settings
        loader, batches = loop.make_loader(
            self._train_set,
            settings.batch_size,
            seed=settings.seed,
            num_workers=settings.num_workers,
            pin_memory=self._device.type == "cuda",
            step_size=settings.batch_size * settings.accumulate * fabric.world_size,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        if not batches.plan:
            raise TrainingError(
                f"{len(self._train_set)} pairs to train on, {fabric.world_size} processes; start fewer of them"
            )
        return fabric.setup_dataloaders(loader, use_distributed_sampler=False), batches

    def _end_of_epoch(
        self,
        fabric: lightning_fabric.Fabric,
        epoch_log: loop.EpochLog | None,
        label: str,
        val: Mapping[str, float],
        speed: float,
        finished: bool,
    ) -> None:
        """Log the epoch and write its checkpoints. `finished` False: `max_steps` has ended it early."""
        progress, settings = self.progress, self.settings
        train, counts = _over_processes(fabric, progress)
        score = (val or train)["total"]
        if not math.isfinite(score):
            raise TrainingError(
                f"epoch {progress.epoch + 1}: validation loss is {score}; lower `lr`; "
                "the checkpoints from before are kept"
            )
        row: dict[str, float] = {"step": progress.step, "lr": self.optimizer.param_groups[0]["lr"], **counts}
        row |= {f"train/{key}": value for key, value in train.items()}
        row |= {f"val/{key}": value for key, value in val.items()}
        if epoch_log is not None:
            epoch_log.write(progress.epoch + 1, {**row, "images_per_second": speed})
            parts = ", ".join(f"{key} {value:.4f}" for key, value in train.items() if key != "total")
            log.info(
                "%s: loss %.4f (%s)%s, masks found %d, placeholders %d, %.1f images/s",
                label,
                train["total"],
                parts,
                f", validation {val['total']:.4f}" if val else "",
                counts.get("masks_found", 0),
                counts.get("placeholders", 0),
                speed,
            )
            measured = [f"{key} {val[key]:.3f}" for key in settings.val_metrics if key in val]
            if measured:
                log.info("validation of %s: %s", label, ", ".join(measured))
        is_best = score < progress.best
        progress.best = min(score, progress.best)
        if finished:
            progress.close_epoch()
            if settings.schedule == "plateau":
                self.plateau.update(score)
        names = [BEST] if is_best else []
        if finished and (progress.epoch % settings.save_interval == 0 or progress.epoch == settings.epochs):
            names.append(epoch_file(progress.epoch))
        # The latest one comes last: what it says is done is on the disk by then.
        self._save([self.output_dir / name for name in [*names, LATEST]])


def batch_metrics(fused: Tensor, batch: loop.Batch, names: Sequence[str]) -> dict[str, list[float]]:
    """Metrics of each image of a batch by name, without those that are not defined (images too small, equal)."""
    values: dict[str, list[float]] = {name: [] for name in names}
    if not names:
        return values
    images = (to_uint8(image[:, 0]) for image in (fused, batch["ir"], batch["vi"]))
    for one, ir, vi in zip(*images, strict=True):
        for name in names:
            value = METRICS[name].compute(one, ir, vi)
            if math.isfinite(value):
                values[name].append(value)
    return values


def pictures(fused: Tensor, batch: loop.Batch, number: int) -> dict[str, NDArray[np.uint8]]:
    """The first samples of a batch by name: infrared and visible with their segments drawn in, fused; uint8 HxWx3."""
    result = {}
    grey = {key: to_uint8(image[:number, 0]) for key, image in (("ir", batch["ir"]), ("vi", batch["vi"]), ("f", fused))}
    for index, name in enumerate(batch["name"][:number]):
        colour = {key: np.stack([images[index]] * 3, axis=2) for key, images in grey.items()}
        masked = [draw_overlay(colour[key], batch[f"{key}_labels"][index].cpu().numpy()) for key in ("ir", "vi")]
        result[name] = np.concatenate([colour["ir"], colour["vi"], colour["f"], *masked], axis=1)
    return result


def changed_options(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One line for each option that decides what is computed and is not what it was: 'lr was 0.001, now it is 0.01'."""
    plain_there, plain_here = (json.loads(json.dumps(options, default=str)) for options in (dict(there), dict(here)))
    return [
        f"{key} was {plain_there[key]}, now it is {value}"
        for key, value in plain_here.items()
        if key in plain_there and key not in _FREE_ON_RESUME and plain_there[key] != value
    ]


def _over_processes(
    fabric: lightning_fabric.Fabric, progress: loop.Progress
) -> tuple[dict[str, float], dict[str, int]]:
    """Mean loss parts and counts of the epoch under way, of all processes."""
    if fabric.world_size == 1:
        return progress.means(), dict(progress.counts)
    own = [progress.images, *progress.sums.values(), *progress.counts.values()]
    totals = fabric.all_reduce(torch.tensor(own, dtype=torch.float64, device=fabric.device), reduce_op="sum")
    assert isinstance(totals, Tensor)
    images, *rest = totals.tolist()
    sums, counts = rest[: len(progress.sums)], rest[len(progress.sums) :]
    return (
        {key: value / max(images, 1) for key, value in zip(progress.sums, sums, strict=True)},
        {key: round(value) for key, value in zip(progress.counts, counts, strict=True)},
    )


def _processes() -> int:
    return int(os.environ["WORLD_SIZE"]) if loop.is_distributed() else 1


def _own_device(device: torch.device) -> torch.device:
    """The device of this process: of several processes on a machine with GPUs each has its own."""
    if device.type != "cuda" or not loop.is_distributed():
        return device
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
