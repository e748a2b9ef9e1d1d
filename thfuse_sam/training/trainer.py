"""One training run, whatever it trains: epochs, evaluation, early stopping, checkpoints, resume, the log.

A run that Ctrl-C stopped anywhere and that is resumed computes bit for bit what an uninterrupted one computes (on a
CPU). After `max_steps` that holds for the weights; only the best score so far, and with it the file of the best
weights, may stem from the evaluation that was made inside an epoch when `max_steps` ended it. Under `torchrun` every
process trains on its part of each batch; the first one writes all files.
"""

import contextlib
import functools
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning_fabric
import torch
from tqdm import tqdm

from thfuse_sam.devices import warn_of_slow
from thfuse_sam.errors import TrainingError, UsageError, counted
from thfuse_sam.files import write_atomically, write_json
from thfuse_sam.interrupts import StopRequest
from thfuse_sam.options.shared import Precision
from thfuse_sam.progress import progress_bar
from thfuse_sam.training.batches import EpochBatches, default_num_workers, make_loader
from thfuse_sam.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from thfuse_sam.training.distributed import make_fabric, own_device, run_processes
from thfuse_sam.training.ema import EmaWeights
from thfuse_sam.training.epoch_log import EpochLog
from thfuse_sam.training.loop import TOTAL, Progress, StepParts, StepSettings, is_asked, train_epoch
from thfuse_sam.training.random_state import capture_random_states, restore_random_states
from thfuse_sam.training.resuming import LATEST, check_resumable
from thfuse_sam.training.schedules import Plateau, learning_rate
from thfuse_sam.training.task import Evaluation, TrainingTask

# How many steps in a row may overflow in fp16 while a scale for the loss is found: the loss scale is halved after each.
MAX_OVERFLOWS = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """Where a run has ended."""

    epoch: int  # finished epochs
    step: int
    best: float  # lowest score of an evaluation; without evaluation data the lowest training loss
    best_file: Path
    latest: Path  # checkpoint to resume from, at exactly this step
    interrupted: bool  # whether Ctrl-C ended it

    @property
    def length(self) -> str:
        """How long the training was, for messages."""
        epochs = f", {counted(self.epoch, 'epoch')}" if self.epoch else ""  # 0 in the midst of the first
        return counted(self.step, "step") + epochs


def require_precision(precision: Precision, device: torch.device) -> None:
    """Raise UsageError where `device` cannot train in `precision`."""
    if precision == "fp16" and device.type != "cuda":
        raise UsageError(f"`precision` fp16 on {device.type}: only GPUs train in it; use bf16 or fp32")


class Trainer:
    """Trains the model of a task: `run` does all of it, and `resume` before it continues an earlier run."""

    def __init__(
        self,
        task: TrainingTask,
        *,
        device: torch.device,
        output_dir: Path,
        log_dir: Path | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`options` are recorded as they are (JSON-able). `log_dir` None: the log goes to `output_dir`.

        Raises UsageError for settings that `device` cannot do.
        """
        require_precision(task.settings.precision, device)
        warn_of_slow(task.settings.precision, device)
        if task.settings.num_workers is None:
            task.settings = replace(task.settings, num_workers=default_num_workers(device))
        settings = task.settings
        self.task, self.settings = task, settings
        self.output_dir, self.log_dir = output_dir, log_dir or output_dir
        self.device = own_device(device)
        task.to(self.device)
        self.options = {
            **(options or {}),
            **asdict(settings),
            task.sample_noun: len(task.train_set),
            "processes": run_processes().count,
        }
        self.progress = Progress()
        self.plateau = Plateau(settings.plateau_factor, settings.plateau_patience)
        self.stale = 0  # evaluations since the best one
        self.ema = EmaWeights(task.weights(), settings.ema_decay) if settings.ema_decay > 0 else None
        self.optimizer = task.optimizer()
        self._fabric: lightning_fabric.Fabric | None = None
        self._random_states: Mapping[str, Any] | None = None  # from the checkpoint that is resumed; None: a new run
        self._resumed: Checkpoint | None = None  # a checkpoint of which the run's files are to be written
        self._former_best: Path | None = None  # the best weights of the run that is resumed into another folder
        self._resumed_plan: tuple[int, int] | None = None  # batch size and accumulation of the run that is resumed
        self._scaler: Mapping[str, Any] = {}  # state of the fp16 loss scaler in that checkpoint; empty: none

    @property
    def latest(self) -> Path:
        return self.output_dir / LATEST

    def resume(self, path: Path) -> None:
        """Continue the run in the checkpoint at `path`. Raises CheckpointError and UsageError (`check_resumable`)."""
        saved = load_checkpoint(path)
        check_resumable(path, saved, self.task, self.options)
        self.task.load_weights(saved.raw_weights or saved.weights, path)
        self.task.load_state(saved.task)
        if self.ema is not None:
            self.ema.restart(saved.weights)
        self.optimizer.load_state_dict(saved.optimizer)
        self.progress = Progress(epoch=saved.epoch, step=saved.step, **saved.progress)
        plateau = saved.scheduler.get("plateau", {})
        self.plateau = replace(
            self.plateau, **{key: plateau[key] for key in ("scale", "best", "bad_epochs") if key in plateau}
        )
        self.stale = saved.scheduler.get("stale", 0)
        self._random_states, self._scaler = saved.random_states, saved.scaler
        self._resumed = saved if path.resolve() == self.latest.resolve() else None
        if path.resolve().parent != self.output_dir.resolve():  # the best weights so far come along
            former_best = path.with_name(self.task.best_file)
            if self.task.best_file in self.progress.files:
                self._resumed = saved  # these are the best ones
            elif path.name == LATEST and former_best.is_file():
                self._former_best = former_best
            else:  # they are not there, so the search begins anew
                self.progress.best = math.inf
        former = {**self.options, **saved.training}
        self._resumed_plan = former["batch_size"], former["accumulate"]
        log.info("resumed %s: %s, %s done", path, counted(saved.epoch, "epoch"), counted(saved.step, "step"))

    def run(self) -> RunResult:
        """Train to the last epoch, to `max_steps`, to early stopping or to Ctrl-C.

        Raises TrainingError and OutputError.
        """
        fabric = self._fabric = make_fabric(self.device, self.settings.precision)
        run = self._set_up(fabric)
        epoch_log = None
        if fabric.is_global_zero:
            epoch_log = EpochLog(self.log_dir, self.progress.epoch)
            if self._resumed is not None:  # that run may have ended before it had written all of its files
                self._save_files(self._resumed)
            if self._former_best is not None:
                with self._former_best.open("rb") as former:
                    write_atomically(
                        self.output_dir / self.task.best_file, lambda file: shutil.copyfileobj(former, file)
                    )
        self._resumed = None
        self.task.start(fabric)
        # Last, because setting up may draw from the generators.
        if self._random_states is not None:
            restore_random_states(self._random_states)
        total_steps = min(run.total_steps, self.settings.max_steps or run.total_steps)
        try:
            with (
                StopRequest() as stop,
                progress_bar(total=total_steps, initial=self.progress.step, unit=" steps", leave=True) as bar,
            ):
                while not (self._is_done(run) or is_asked(fabric, stop)):
                    self._run_epoch(run, epoch_log, stop, bar)
        finally:
            if epoch_log is not None:
                epoch_log.close()
        if fabric.world_size > 1:
            fabric.barrier()  # nobody leaves before the last file is written
        if not stop.asked:
            self.task.finish(fabric, self.output_dir)
        progress = self.progress
        best_file = self.output_dir / self.task.best_file
        return RunResult(progress.epoch, progress.step, progress.best, best_file, self.latest, stop.asked)

    def checkpoint(self) -> Checkpoint:
        """The run as it is now."""
        progress = asdict(self.progress)
        weights = self.task.weights()
        return Checkpoint(
            network=self.task.spec,
            weights=weights if self.ema is None else self.ema.weights,
            raw_weights={} if self.ema is None else weights,
            training=self.options,
            epoch=progress.pop("epoch"),
            step=progress.pop("step"),
            optimizer=self.optimizer.state_dict(),
            # The learning rate depends only on the step and on the plateau's state.
            scheduler={"name": self.settings.schedule, "plateau": asdict(self.plateau), "stale": self.stale},
            scaler={} if self._fabric is None else self._fabric.strategy.precision.state_dict(),
            random_states=capture_random_states(),
            progress=progress,
            task=self.task.state(),
        )

    def _set_up(self, fabric: lightning_fabric.Fabric) -> "_Setup":
        """Hand model, optimiser and samples to Fabric. Raises TrainingError where there are too few samples."""
        settings, task = self.settings, self.task
        module = task.compiled() if settings.compile else task.module
        network, optimizer = fabric.setup(module, self.optimizer)
        if self._scaler:
            fabric.strategy.precision.load_state_dict(dict(self._scaler))
        batches = EpochBatches(
            len(task.train_set),
            settings.batch_size,
            settings.seed,
            step_size=settings.batch_size * settings.accumulate * fabric.world_size,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        if not batches.plan:
            raise TrainingError(
                f"{len(task.train_set)} {task.sample_noun} are too few for {fabric.world_size} processes; "
                f"start at most {len(task.train_set)} processes"
            )
        loader = make_loader(
            task.train_set,
            batches,
            num_workers=settings.num_workers or 0,
            pin_memory=self.device.type == "cuda",
            collate=task.collate,
        )
        epochs, total_steps = run_length(settings.epochs, settings.max_steps, batches.steps)
        steps = StepSettings(
            lambda step: learning_rate(settings, step, total_steps, self.plateau.scale),
            settings.grad_clip,
            settings.max_steps,
            overflows=MAX_OVERFLOWS if settings.precision == "fp16" else 0,
            after_step=None if self.ema is None else self._average,
        )
        on_device: Any = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        if self._resumed_plan is not None:
            self._continue_plan(batches, total_steps)
        parts = StepParts(fabric, network, optimizer, on_device, task.loss, task.counts, steps, batches.plan)
        return _Setup(parts, batches, epochs, total_steps)

    def _continue_plan(self, batches: EpochBatches, total_steps: int) -> None:
        """Place a resumed run in its plan of steps, which another batch size changes, and log what will come.

        With another batch size, samples of the step under way are seen again. The schedule keeps its place.
        """
        settings, progress = self.settings, self.progress
        if self._resumed_plan != (settings.batch_size, settings.accumulate):
            steps_done = progress.images // (settings.batch_size * settings.accumulate)
            progress.batch = steps_done * settings.accumulate
            if settings.epochs is not None:
                progress.step = progress.epoch * batches.steps + steps_done
        last_step = min(total_steps, settings.max_steps or total_steps)
        if progress.step >= last_step:
            log.info(
                "nothing is left to train: %d steps of %d are done; to go on, raise `epochs` or `max_steps`",
                progress.step,
                last_step,
            )
            return
        log.info(
            "training goes on at step %d of %d with learning rate %.3g, schedule %s",
            progress.step,
            last_step,
            learning_rate(settings, progress.step, total_steps, self.plateau.scale),
            settings.schedule,
        )

    def _is_done(self, run: "_Setup") -> bool:
        return (
            self.progress.epoch >= run.epochs or run.parts.settings.is_last(self.progress.step) or self._stops_early()
        )

    def _stops_early(self) -> bool:
        return self.settings.early_stopping is not None and self.stale >= self.settings.early_stopping

    def _run_epoch(self, run: "_Setup", epoch_log: EpochLog | None, stop: StopRequest, bar: "tqdm[Any]") -> None:
        progress = self.progress
        run.batches.start_at(progress.epoch, progress.batch)
        label = f"epoch {progress.epoch + 1}/{run.epochs}"
        bar.set_description(label, refresh=False)
        images_before, started = progress.images, time.perf_counter()
        train_epoch(run.parts, progress, stop, bar)
        finished = progress.batch == len(run.batches)
        if stop.asked and not finished:
            self._save([])
            return
        speed = (
            (progress.images - images_before) * run.parts.fabric.world_size / max(time.perf_counter() - started, 1e-9)
        )
        self._end_of_epoch(run, epoch_log, label, speed, finished)

    def _end_of_epoch(
        self, run: "_Setup", epoch_log: EpochLog | None, label: str, speed: float, finished: bool
    ) -> None:
        """Evaluate, log the epoch, write its files. `finished` False: `max_steps` has ended it early."""
        progress, epoch = self.progress, self.progress.epoch + 1
        is_last = not finished or epoch == run.epochs or run.parts.settings.is_last(progress.step)
        train, counts = progress.totals(run.parts.fabric)
        evaluation = None
        if self.task.val_set is None:
            evaluation = Evaluation(train[TOTAL])
        elif is_last or epoch % self.settings.val_interval == 0:
            evaluation = self._evaluate(run, epoch_log)
        if epoch_log is not None:
            row = {"step": progress.step, "lr": self.optimizer.param_groups[0]["lr"], **counts}
            row |= {f"train/{key}": value for key, value in train.items()}
            row |= {f"val/{key}": value for key, value in (evaluation.values if evaluation else {}).items()}
            epoch_log.write(epoch, {**row, "images_per_second": speed})
            if epoch % (self.settings.log_every or 1) == 0 or is_last:
                _log_epoch(label, train, counts, evaluation, speed, as_table=self.settings.log_every is not None)
        names = self._record_score(evaluation, label, finished) if evaluation else []
        if finished:
            progress.close_epoch()
            if self._is_kept(run, epoch):
                names.append(self.task.kept_file(epoch))
        self._save(names)

    @torch.no_grad()
    def _evaluate(self, run: "_Setup", epoch_log: EpochLog | None) -> Evaluation:
        epoch = self.progress.epoch + 1
        show = None
        if epoch_log is not None and (epoch == 1 or self._is_kept(run, epoch)):
            show = functools.partial(epoch_log.write_picture, epoch)
        self.task.module.eval()
        with self._averaged(), run.parts.fabric.autocast():
            return self.task.evaluate(run.parts.fabric, show)

    def _record_score(self, evaluation: Evaluation, label: str, finished: bool) -> list[str]:
        """Record a score; returns the files to write because of it. Raises TrainingError if it is not finite."""
        score, progress = evaluation.score, self.progress
        if not math.isfinite(score):
            raise TrainingError(
                f"epoch {progress.epoch + 1}: the score is {score}; lower `lr`; "
                "checkpoints written before this epoch are kept"
            )
        is_best = score < progress.best
        progress.best = min(score, progress.best)
        # If `max_steps` cut the epoch short, it is scored after the run is resumed.
        if finished:
            self.plateau.update(score)
            self.stale = 0 if is_best else self.stale + 1
            if self._stops_early():
                log.info("%s: early stopping: no better score in %d evaluations", label, self.stale)
        return [self.task.best_file] if is_best else []

    def _save(self, names: Sequence[str]) -> None:
        """Write options and checkpoint, then the weights to the files `names` and to that of the latest weights."""
        if self._fabric is not None and not self._fabric.is_global_zero:
            return
        self.progress.files = [*names, *([self.task.latest_file] if self.task.latest_file else [])]
        checkpoint = self.checkpoint()
        options = {**self.options, "network": asdict(self.task.spec)}
        write_json(self.output_dir / self.task.options_file, options)
        save_checkpoint(self.latest, checkpoint)
        self._save_files(checkpoint)

    def _save_files(self, checkpoint: Checkpoint) -> None:
        for name in self.progress.files:
            self.task.save(self.output_dir / name, checkpoint)

    def _is_kept(self, run: "_Setup", epoch: int) -> bool:
        """Whether the weights after `epoch` epochs get a file of their own."""
        return epoch % self.settings.save_interval == 0 or epoch == run.epochs

    def _average(self, step: int) -> None:
        assert self.ema is not None
        self.ema.update(self.task.weights(), step)

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the model has the averaged weights, if the run averages them."""
        if self.ema is None:
            return contextlib.nullcontext()
        return self.ema.in_place_of(self.task.weights(), lambda weights: self.task.load_weights(weights, self.latest))


@dataclass(frozen=True)
class _Setup:
    """What Fabric has set up for a run, and the plan of its steps."""

    parts: StepParts
    batches: EpochBatches
    epochs: int  # passes over the training samples in the whole run
    total_steps: int  # optimiser steps that the learning rate's schedule spans


def run_length(epochs: int | None, max_steps: int | None, epoch_steps: int) -> tuple[int, int]:
    """Epochs of a run, and the steps that the learning rate's schedule spans, see `RunSettings`. Raises UsageError."""
    if epochs is not None:
        return epochs, epochs * epoch_steps
    if max_steps is None:
        raise UsageError("neither `epochs` nor `max_steps` is given; give one of them")
    return -(-max_steps // epoch_steps), max_steps


def _log_epoch(
    label: str,
    train: Mapping[str, float],
    counts: Mapping[str, int],
    evaluation: Evaluation | None,
    speed: float,
    *,
    as_table: bool,
) -> None:
    """One line for an epoch; `as_table`: below it, each part of the loss and each metric in a line of its own."""
    figures = [
        f"loss {train[TOTAL]:.4f}",
        *([evaluation.summary] if evaluation and evaluation.summary else []),
        *(f"{key.replace('_', ' ')} {number}" for key, number in counts.items()),
        f"{speed:.1f} images/s" if speed >= 10 else f"{speed:.2f} images/s",
    ]
    log.info("%s: %s", label, ", ".join(figures))
    if as_table:
        measured = evaluation.values if evaluation else {}
        names = list(dict.fromkeys((*train, *measured)))
        width = max(map(len, names))
        rows = [f"  {name:{width}}{_cell(train.get(name))}{_cell(measured.get(name))}" for name in names]
        log.info("%s", "\n".join([f"  {'':{width}}{'training':>12}{'validation':>12}", *rows]))


def _cell(value: float | None) -> str:
    return f"{'' if value is None else f'{value:.4f}':>12}"
