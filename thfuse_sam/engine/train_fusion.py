"""Training of a fusion network: epochs, validation, checkpoints, resume, the log. The plumbing is in `loop`."""

import dataclasses
import functools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
from torch import Tensor, nn

from thfuse_sam.datasets.pairs import ImagePair
from thfuse_sam.engine import checkpoint as checkpoints
from thfuse_sam.engine import loop
from thfuse_sam.errors import TrainingError, UsageError
from thfuse_sam.files import write_json

LATEST = "latest.pth"
BEST = "best.pth"
OPTIONS = "train_options.json"
WARMUP_STEPS = 20

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """What the loop needs to know; the network, the loss and the data come as objects."""

    epochs: int = 100
    batch_size: int = 8  # pairs
    lr: float = 1e-3  # at the peak, after the warm-up
    weight_decay: float = 1e-4
    grad_clip: float = 1.0  # largest norm of the gradient
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
    fused = network(batch["ir"], batch["vi"], batch["ir_guidance"], batch["vi_guidance"])
    return loss(fused, batch["ir"], batch["vi"], batch["ir_labels"], batch["vi_labels"])


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

        `log_dir` None: the log goes to `output_dir`.
        """
        self.settings = settings
        self.output_dir = output_dir
        self.log_dir = log_dir or output_dir
        self.options = {**(options or {}), **dataclasses.asdict(settings), "pairs": len(train_set)}
        self.progress = loop.Progress()
        self.spec = checkpoints.NetworkSpec(network_name, dict(network.options))  # type: ignore[arg-type]
        self.network = network.to(device)
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self._loss = functools.partial(fusion_loss, loss.to(device))
        self._random_states: Mapping[str, Any] | None = None  # of the run to go on with
        self._train_set, self._val_set = train_set, val_set
        self._device = device

    @property
    def latest(self) -> Path:
        return self.output_dir / LATEST

    def resume(self, path: Path) -> None:
        """Go on from the checkpoint at `path`. Raises CheckpointError, and UsageError where the runs do not fit."""
        saved = checkpoints.load_checkpoint(path)
        if saved.network != self.spec:
            raise UsageError(
                f"--resume {path}: holds {saved.network.name} {saved.network.options}, "
                f"--network is {self.spec.name} {self.spec.options}; give the same network or start without --resume"
            )
        # These decide which images a step sees; with others, "going on" would repeat some and leave out some.
        for key in ("batch_size", "seed", "pairs"):
            there, here = saved.training.get(key), self.options[key]
            if there != here:
                raise UsageError(
                    f"--resume {path}: was trained with {key} {there}, now it is {here}; "
                    "give the same one or start without --resume"
                )
        checkpoints.load_weights(self.network, saved.weights, path)
        self.optimizer.load_state_dict(saved.optimizer)
        self.progress = loop.Progress(epoch=saved.epoch, step=saved.step, **saved.progress)
        self._random_states = saved.random_states
        log.info("resumed %s: %d epochs, %d steps done", path, saved.epoch, saved.step)

    def run(self) -> TrainingResult:
        """Train to the last epoch, to `max_steps` or to Ctrl-C. Raises TrainingError and OutputError."""
        fabric = loop.make_fabric(self._device)
        network, optimizer = fabric.setup(self.network, self.optimizer)
        settings, progress = self.settings, self.progress
        loader, batches = self._loader(fabric, self._train_set, shuffle=True)
        val_loader, val_batches = (
            self._loader(fabric, self._val_set, shuffle=False) if self._val_set is not None else (None, None)
        )
        total_steps = settings.epochs * len(batches)
        steps = loop.StepSettings(
            functools.partial(self.learning_rate, total_steps), settings.grad_clip, settings.max_steps
        )
        write_json(self.output_dir / OPTIONS, {**self.options, "network": dataclasses.asdict(self.spec)})
        epoch_log = loop.EpochLog(self.log_dir, progress.epoch)
        # Last, because setting up may draw from the generators.
        if self._random_states is not None:
            checkpoints.restore_random_states(self._random_states)
        try:
            with loop.StopRequest() as stop:
                while progress.epoch < settings.epochs and not stop.asked and not steps.is_last(progress.step):
                    batches.start_at(progress.epoch, progress.batch)
                    label = f"epoch {progress.epoch + 1}/{settings.epochs}"
                    watch = loop.Stopwatch(progress.images)
                    with loop.progress_bar(len(self._train_set), progress.images, label) as bar:
                        loop.train_epoch(
                            fabric, network, optimizer, loader, self._loss, count_masks, steps, progress, stop, bar
                        )
                    finished = progress.batch == len(batches)
                    if stop.asked and not finished:
                        checkpoints.save_checkpoint(self.latest, self.checkpoint())
                        break
                    speed = watch.images_per_second(progress.images)
                    val = {}
                    if val_loader is not None and val_batches is not None:
                        val_batches.start_at(0)
                        val = loop.evaluate(network, val_loader, self._loss)
                    self._end_of_epoch(epoch_log, label, val, speed, finished)
        finally:
            epoch_log.close()
        return TrainingResult(progress.epoch, progress.step, progress.best, self.latest, stop.asked)

    def learning_rate(self, total_steps: int, step: int) -> float:
        return self.settings.lr * loop.warmup_cosine(step, total_steps, min(WARMUP_STEPS, total_steps))

    def checkpoint(self) -> checkpoints.Checkpoint:
        """The run as it is now."""
        progress = dataclasses.asdict(self.progress)
        return checkpoints.Checkpoint(
            network=self.spec,
            weights=self.network.state_dict(),
            training=self.options,
            epoch=progress.pop("epoch"),
            step=progress.pop("step"),
            optimizer=self.optimizer.state_dict(),
            scheduler={"name": "warmup_cosine", "warmup_steps": WARMUP_STEPS},  # a function of the step, no state
            random_states=checkpoints.capture_random_states(),
            progress=progress,
        )

    def _loader(
        self, fabric: lightning_fabric.Fabric, dataset: loop.EpochDataset, *, shuffle: bool
    ) -> tuple[Any, loop.EpochBatches]:
        loader, batches = loop.make_loader(
            dataset,
            self.settings.batch_size,
            seed=self.settings.seed if shuffle else None,
            num_workers=self.settings.num_workers,
            pin_memory=self._device.type == "cuda",
        )
        return fabric.setup_dataloaders(loader), batches

    def _end_of_epoch(
        self, epoch_log: loop.EpochLog, label: str, val: Mapping[str, float], speed: float, finished: bool
    ) -> None:
        """Log the epoch and write its checkpoints. `finished` False: `max_steps` has ended it early."""
        progress, settings = self.progress, self.settings
        train, counts = progress.means(), dict(progress.counts)
        score = (val or train)["total"]
        if not math.isfinite(score):
            raise TrainingError(
                f"epoch {progress.epoch + 1}: validation loss is {score}; lower --lr; "
                "the checkpoints from before are kept"
            )
        row: dict[str, float] = {"step": progress.step, "lr": self.optimizer.param_groups[0]["lr"], **counts}
        row |= {f"train/{key}": value for key, value in train.items()}
        row |= {f"val/{key}": value for key, value in val.items()}
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
        is_best = score < progress.best
        progress.best = min(score, progress.best)
        if finished:
            progress.close_epoch()
        names = [BEST] if is_best else []
        if finished and (progress.epoch % settings.save_interval == 0 or progress.epoch == settings.epochs):
            names.append(epoch_file(progress.epoch))
        state = self.checkpoint()
        # The latest one comes last: what it says is done is on the disk by then.
        for name in [*names, LATEST]:
            checkpoints.save_checkpoint(self.output_dir / name, state)
