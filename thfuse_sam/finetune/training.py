"""Fine-tuning of a Segment Anything model: epochs, evaluation, checkpoints, resume, logs. The plumbing is in `loop`."""

import dataclasses
import functools
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning_fabric
import torch
from segment_anything.modeling import Sam

from thfuse_sam.datasets.prompts import PromptMix
from thfuse_sam.datasets.segmentation import SegmentationDataset
from thfuse_sam.datasets.segmentation.augment import FlippedDataset
from thfuse_sam.errors import TrainingError, UsageError
from thfuse_sam.files import write_json
from thfuse_sam.finetune.embedding_cache import EmbeddingCache
from thfuse_sam.finetune.evaluation import Results, evaluate_sam, mean_iou
from thfuse_sam.finetune.model import PromptedSam
from thfuse_sam.finetune.samples import PromptedSamples, collate
from thfuse_sam.interrupts import StopRequest
from thfuse_sam.losses.segmentation import SegmentationLoss
from thfuse_sam.precision import Precision
from thfuse_sam.sam.adapt import Adaptation, load_trained_state, prepare, trained_state
from thfuse_sam.sam.checkpoints import ResolvedSam
from thfuse_sam.sam.export import save_trained
from thfuse_sam.sam.weights import read_weights
from thfuse_sam.training import checkpoint as checkpoints
from thfuse_sam.training import loop

STATE = "latest.pth"  # what `resume` goes on from
LATEST = "latest.safetensors"
BEST = "best.safetensors"
OPTIONS = "finetune_options.json"
EVALUATION = "evaluation.json"
FP16_OVERFLOWS = 20  # steps in a row; the loss scale is halved each time

Schedule = Literal["cosine", "polynomial", "plateau", "constant"]
SCHEDULES: tuple[Schedule, ...] = ("cosine", "polynomial", "plateau", "constant")

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """What the loop needs to know; the model, the loss and the data come as objects."""

    epochs: int = 10
    batch_size: int = 1  # images at once on one device
    virtual_batch_size: int = 1  # batches on each device whose gradients make one optimiser step
    n_objects: int = 16  # most objects of an image in one step
    sub_iterations: int = 1  # passes of the decoder for an object; further ones correct the first
    lr: float = 1e-4  # at the peak, after the warm-up
    weight_decay: float = 1e-2
    grad_clip: float = 1.0  # largest norm of the gradient
    schedule: Schedule = "cosine"
    warmup_steps: int = 20  # optimiser steps
    patience: int = 3  # epochs without a better score before "plateau" lowers the learning rate to a tenth
    early_stopping: int | None = None  # evaluations without a better score before training ends; None: never
    flip: float = 0.0  # probability of a mirror image in training, in [0, 1]; mirrored sets have no kept embeddings
    seed: int = 0
    num_workers: int = 0  # 0: samples are made in the training process
    save_interval: int = 10  # epochs between epoch{N}.safetensors
    test_interval: int = 1  # epochs between evaluations
    max_steps: int | None = None  # stop after this many optimiser steps; None: no limit
    precision: Precision = "fp32"


@dataclasses.dataclass
class ScheduleState:
    """What decides about learning rate and end of training besides the step; part of a checkpoint."""

    plateau: loop.Plateau
    stale: int = 0  # evaluations since the best one
    zero_shot: Results = dataclasses.field(default_factory=dict)  # of the model before training


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """Where a run has ended."""

    epoch: int  # finished epochs
    step: int
    best: float  # 1 - mean IoU on the validation set; without one the lowest training loss
    best_file: Path
    state_file: Path
    interrupted: bool  # by Ctrl-C; `state_file` then goes on from the very step
    zero_shot: Results  # empty without a validation set
    fine_tuned: Results  # of `best_file`


def epoch_file(epoch: int) -> str:
    """Name of the weights kept after `epoch` epochs."""
    return f"epoch{epoch}.safetensors"


class SamTrainer:
    """Fine-tunes one model; `run` does all of it."""

    def __init__(
        self,
        sam: Sam,
        base: ResolvedSam,
        adaptation: Adaptation,
        loss: SegmentationLoss,
        mix: PromptMix,
        train_set: SegmentationDataset,
        val_set: SegmentationDataset | None,
        settings: FinetuneSettings,
        *,
        device: torch.device,
        output_dir: Path,
        cache: EmbeddingCache | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`sam` holds the weights of `base` and is adapted in place. `cache` needs a fixed encoder.

        `options` are recorded as they are (JSON-able).
        """
        if cache is not None and not adaptation.encoder_is_fixed:
            raise ValueError("embeddings of an encoder in training cannot be kept")
        self.settings, self.output_dir, self.base, self.adaptation = settings, output_dir, base, adaptation
        self.options = {**(options or {}), **dataclasses.asdict(settings), "images": len(train_set)}
        self.progress = loop.Progress()
        self.state = ScheduleState(loop.Plateau(patience=settings.patience))
        self.sam = sam.to(device)
        prepare(sam, adaptation)
        self.model = PromptedSam(sam, adaptation, loss, sub_iterations=settings.sub_iterations, cache=cache)
        trained = [value for value in sam.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
        if settings.flip:
            train_set = FlippedDataset(train_set, settings.flip, settings.seed)
        self._samples = PromptedSamples(
            train_set, sam.image_encoder.img_size, mix, n_objects=settings.n_objects, seed=settings.seed, cache=cache
        )
        self._val_set, self._cache, self._device = val_set, cache, device
        self._random_states: Mapping[str, Any] | None = None  # of the run to go on with

    @property
    def state_file(self) -> Path:
        return self.output_dir / STATE

    def resume(self, path: Path) -> None:
        """Go on from the state at `path`. Raises CheckpointError, and UsageError where the runs do not fit."""
        saved = checkpoints.load_checkpoint(path)
        if saved.network != self._spec():
            raise UsageError(
                f"`resume` {path}: tunes another checkpoint or other parts of it ({saved.network.options}); "
                "give the same `checkpoint`, `freeze_...` and `lora_rank`, or start without `resume`"
            )
        # These decide what a step sees; with others, "going on" would repeat some images and leave out some.
        for key in ("batch_size", "virtual_batch_size", "seed", "images", "n_objects", "sub_iterations", "flip"):
            there, here = saved.training.get(key), self.options[key]
            if there != here:
                raise UsageError(
                    f"`resume` {path}: was trained with {key} {there}, now it is {here}; "
                    "give the same one or start without `resume`"
                )
        load_trained_state(self.sam, self.adaptation, saved.weights, path)
        self.optimizer.load_state_dict(saved.optimizer)
        self.progress = loop.Progress(epoch=saved.epoch, step=saved.step, **saved.progress)
        state = dict(saved.scheduler)
        self.state = ScheduleState(loop.Plateau(**state.pop("plateau")), **state)
        self._random_states = saved.random_states
        log.info("resumed %s: %d epochs, %d steps done", path, saved.epoch, saved.step)

    def run(self) -> FinetuneResult:
        """Train to the last epoch, to `max_steps`, to early stopping or to Ctrl-C. Raises TrainingError, OutputError.

        Several processes that `torchrun` started share the work; the first one writes the files.
        """
        settings, progress = self.settings, self.progress
        make = loop.make_distributed_fabric if loop.is_distributed() else loop.make_fabric
        fabric = make(self._device, settings.precision)
        network, optimizer = fabric.setup(self.model, self.optimizer)
        loader, batches = loop.make_loader(
            self._samples,
            settings.batch_size,
            seed=settings.seed,
            num_workers=settings.num_workers,
            step_size=settings.batch_size * settings.virtual_batch_size * fabric.world_size,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            collate=collate,
        )
        if not batches.steps:
            raise UsageError(f"{len(self._samples)} images are fewer than processes; start fewer")
        # The samples are moved by the model: they are no plain tensors.
        data: Any = fabric.setup_dataloaders(loader, use_distributed_sampler=False, move_to_device=False)
        total_steps = min(settings.epochs * batches.steps, settings.max_steps or math.inf)
        steps = loop.StepSettings(
            functools.partial(self.learning_rate, int(total_steps)),
            settings.grad_clip,
            settings.max_steps,
            FP16_OVERFLOWS if settings.precision == "fp16" else 0,
        )
        if fabric.is_global_zero:
            write_json(self.output_dir / OPTIONS, {**self.options, "model": dataclasses.asdict(self._spec())})
        epoch_log = loop.EpochLog(self.output_dir, progress.epoch) if fabric.is_global_zero else None
        if self._val_set is not None and not self.state.zero_shot:
            self.state.zero_shot = self._evaluate(fabric, full=True)
            log.info("before training: mean IoU %.4f", mean_iou(self.state.zero_shot))
        # Last, because setting up may draw from the generators.
        if self._random_states is not None:
            checkpoints.restore_random_states(self._random_states)
        try:
            with StopRequest() as stop:
                while not (self._is_done() or stop.asked):
                    batches.start_at(progress.epoch, progress.batch)
                    label = f"epoch {progress.epoch + 1}/{settings.epochs}"
                    watch = loop.Stopwatch(progress.images)
                    with loop.progress_bar(len(self._samples) // fabric.world_size, progress.images, label) as bar:
                        loop.train_epoch(
                            fabric, network, optimizer, data, _call, _count, steps, progress, stop, bar, batches.plan
                        )
                    finished = progress.batch == len(batches)
                    if stop.asked and not finished:
                        self._save(fabric, [])
                        break
                    speed = watch.images_per_second(progress.images)
                    self._end_of_epoch(fabric, epoch_log, label, speed, finished)
        finally:
            if epoch_log is not None:
                epoch_log.close()
        tuned = self._evaluate_best(fabric) if not stop.asked else {}
        best = self.output_dir / BEST
        return FinetuneResult(
            progress.epoch,
            progress.step,
            progress.best,
            best,
            self.state_file,
            stop.asked,
            self.state.zero_shot,
            tuned,
        )

    def learning_rate(self, total_steps: int, step: int) -> float:
        """The learning rate at optimiser step `step` of `total_steps`."""
        settings = self.settings
        warmup = min(settings.warmup_steps, total_steps)
        if settings.schedule == "cosine":
            return settings.lr * loop.warmup_cosine(step, total_steps, warmup)
        if settings.schedule == "polynomial":
            return settings.lr * loop.warmup_polynomial(step, total_steps, warmup)
        scale = self.state.plateau.scale if settings.schedule == "plateau" else 1.0
        return settings.lr * scale * (min((step + 1) / warmup, 1.0) if warmup else 1.0)

    def checkpoint(self) -> checkpoints.Checkpoint:
        """The run as it is now."""
        progress = dataclasses.asdict(self.progress)
        return checkpoints.Checkpoint(
            network=self._spec(),
            weights=trained_state(self.sam, self.adaptation),
            training=self.options,
            epoch=progress.pop("epoch"),
            step=progress.pop("step"),
            optimizer=self.optimizer.state_dict(),
            scheduler=dataclasses.asdict(self.state),
            random_states=checkpoints.capture_random_states(),
            progress=progress,
        )

    def _spec(self) -> checkpoints.NetworkSpec:
        lora = None if self.adaptation.lora is None else dataclasses.asdict(self.adaptation.lora)
        return checkpoints.NetworkSpec(
            self.base.model_type,
            {"base_sha256": self.base.sha256, "frozen": list(self.adaptation.frozen), "lora": lora},
        )

    def _is_done(self) -> bool:
        progress, settings = self.progress, self.settings
        if settings.max_steps is not None and progress.step >= settings.max_steps:
            return True
        return progress.epoch >= settings.epochs or self._stops_early()

    def _stops_early(self) -> bool:
        return self.settings.early_stopping is not None and self.state.stale >= self.settings.early_stopping

    def _evaluate(self, fabric: lightning_fabric.Fabric, *, full: bool) -> Results:
        assert self._val_set is not None
        self.model.eval()
        with fabric.autocast():
            return evaluate_sam(
                self.sam,
                self._val_set,
                n_objects=self.settings.n_objects,
                seed=self.settings.seed,
                cache=self._cache,
                full=full,
                rank=fabric.global_rank,
                world_size=fabric.world_size,
            )

    def _evaluate_best(self, fabric: lightning_fabric.Fabric) -> Results:
        """Figures of the best weights, which the model then holds; written beside those from before training."""
        fabric.barrier()  # the file is the first process's
        path = self.output_dir / BEST
        if not path.is_file():
            return {}
        load_trained_state(self.sam, self.adaptation, read_weights(path), path)
        if self._val_set is None:
            return {}
        tuned = self._evaluate(fabric, full=True)
        if fabric.is_global_zero:
            write_json(self.output_dir / EVALUATION, {"zero_shot": self.state.zero_shot, "fine_tuned": tuned})
        return tuned

    def _end_of_epoch(
        self,
        fabric: lightning_fabric.Fabric,
        epoch_log: loop.EpochLog | None,
        label: str,
        speed: float,
        finished: bool,
    ) -> None:
        """Evaluate, log and write checkpoints. `finished` False: `max_steps` has ended the epoch early."""
        progress, settings, state = self.progress, self.settings, self.state
        train = _mean_over_processes(fabric, progress.means(), progress.images)
        is_last = (finished and progress.epoch + 1 >= settings.epochs) or not finished
        is_tested = self._val_set is not None and (is_last or (progress.epoch + 1) % settings.test_interval == 0)
        results = self._evaluate(fabric, full=False) if is_tested else {}
        row: dict[str, float] = {"step": progress.step, "lr": self.optimizer.param_groups[0]["lr"]}
        row |= {f"train/{key}": value for key, value in train.items()}
        for kind, figures in results.items():
            row |= {f"val/{kind}_{name}": value for name, value in figures.items() if name != "objects"}
        if epoch_log is not None:
            epoch_log.write(progress.epoch + 1, {**row, "images_per_second": speed * fabric.world_size})
        log.info(
            "%s: loss %.4f%s, %.2f images/s",
            label,
            train["total"],
            "".join(f", {kind} IoU {figures['iou']:.4f}" for kind, figures in results.items()),
            speed * fabric.world_size,
        )
        names = []
        if results or self._val_set is None:
            score = 1 - mean_iou(results) if results else train["total"]
            if not math.isfinite(score):
                raise TrainingError(
                    f"epoch {progress.epoch + 1}: the score is {score}; lower `lr`; earlier checkpoints are kept"
                )
            state.plateau.update(score)
            is_best = score < progress.best
            state.stale = 0 if is_best else state.stale + 1
            progress.best = min(score, progress.best)
            names = [BEST] if is_best else []
            if self._stops_early():
                log.info("%s: no better for %d evaluations: training ends", label, state.stale)
        if finished:
            progress.close_epoch()
            if progress.epoch % settings.save_interval == 0:
                names.append(epoch_file(progress.epoch))
        self._save(fabric, names)

    def _save(self, fabric: lightning_fabric.Fabric, names: list[str]) -> None:
        if not fabric.is_global_zero:
            return
        # The state comes last: what it says is done is on the disk by then.
        for name in [*names, LATEST]:
            save_trained(self.output_dir / name, self.sam, self.adaptation, self.base)
        checkpoints.save_checkpoint(self.state_file, self.checkpoint())


def _call(network: torch.nn.Module, batch: loop.Batch) -> Mapping[str, torch.Tensor]:
    parts: Mapping[str, torch.Tensor] = network(batch)
    return parts


def _count(batch: loop.Batch) -> dict[str, int]:
    return {"objects": sum(len(sample.targets) for sample in batch["samples"].items)}


def _mean_over_processes(fabric: lightning_fabric.Fabric, means: Mapping[str, float], images: int) -> dict[str, float]:
    """Loss parts averaged over the images of all processes."""
    if fabric.world_size == 1:
        return dict(means)
    sums = torch.tensor([*(value * images for value in means.values()), float(images)], device=fabric.device)
    total = fabric.all_reduce(sums, reduce_op="sum")
    assert isinstance(total, torch.Tensor)
    values = (total[:-1] / total[-1]).tolist()
    return dict(zip(means, values, strict=True))
