"""Training a fusion network according to `TrainOptions`."""

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thfuse_sam.commands.infrared import Range, trained_range
from thfuse_sam.commands.inputs import log_mask_choice, warn_if_odd
from thfuse_sam.commands.runs import build_trainer, find_checkpoint, run_device
from thfuse_sam.commands.train_pairs import MaskSources, TrainPairs, find_train_pairs, fusion_dataset
from thfuse_sam.datasets.fusion import FusionDataset
from thfuse_sam.errors import OptionError, UsageError, naming, shown
from thfuse_sam.files import file_sha256
from thfuse_sam.fusion.loading import load_network
from thfuse_sam.fusion.training import FusionTask
from thfuse_sam.images import image_size, size_text
from thfuse_sam.losses import DEFAULT_WEIGHTS, FusionLoss, load_perceptual_loss
from thfuse_sam.metrics import METRICS
from thfuse_sam.models import FusionNetwork, build_network, count_parameters
from thfuse_sam.options.shared import DATASET, TRAIN_SAMPLE
from thfuse_sam.options.train import TrainOptions
from thfuse_sam.options.training import FusionSettings
from thfuse_sam.report.run_facts import mask_signature, run_facts
from thfuse_sam.report.training import write_training_report
from thfuse_sam.shipped import find_network, find_shipped
from thfuse_sam.training.checkpoint import load_checkpoint
from thfuse_sam.training.distributed import run_processes
from thfuse_sam.training.epoch_log import LOG_NAME
from thfuse_sam.training.random_state import set_seed
from thfuse_sam.training.resuming import open_run_folder
from thfuse_sam.training.trainer import RunResult, Trainer, require_precision

ENOUGH_STEPS = 1000  # optimiser steps after which a network that started from random weights fuses well

log = logging.getLogger(__name__)


def train(options: TrainOptions, command: str = "") -> RunResult:
    """Train a fusion network. `command` is the typed command line, for the report. Raises ThFuseError."""
    run = _prepare(options)
    log.info("%s; %s on %s", run.data.counts, options.network, run.device)
    if options.init is not None and run.resume is None:
        log.info("starting from %s with a learning rate of %g", options.init, run.options.lr)
    for part in run.data.parts:
        warn_if_odd(part.pairs)
    for part in [part for part in run.data.parts if part.masks.root is not None] or run.data.parts[:1]:
        log_mask_choice(part.masks, part.found)
    sources = MaskSources(options, run.device)
    trainer = _trainer(run, sources)
    _log_if_short(run)
    _log_if_padded(run)
    open_run_folder(options.output_dir, options.log_dir, run.resume, overwrite=options.overwrite)
    result = trainer.run()
    if options.report and run_processes().is_main and result.epoch > 0:
        _write_report(run, sources, result, command)
    if result.interrupted:
        return result
    last = options.output_dir / trainer.task.kept_file(result.epoch)
    others = f", the last ones in {last}" if last.exists() else ""
    log.info("training done: %s; the best weights are in %s%s", result.length, result.best_file, others)
    for name, reason in run.data.skipped.items():
        log.warning("skipped %s: %s", name, reason)
    return result


def plan_training(options: TrainOptions) -> dict[str, Any]:
    """The options and counts of what `train` would do, by name; nothing is written. Raises ThFuseError."""
    run = _prepare(options)
    return {**run.record, **dataclasses.asdict(run.settings), "plan": run.data.counts}


@dataclass(frozen=True)
class _PreparedTraining:
    """Everything that a training needs, checked and built before anything is written."""

    options: TrainOptions
    settings: FusionSettings
    device: torch.device
    data: TrainPairs
    loss: FusionLoss
    network: FusionNetwork
    resume: Path | None

    @property
    def record(self) -> dict[str, Any]:
        """The options with the values that were decided for this run (folders, masks, device), for the checkpoint."""
        parts = self.data.parts
        return {
            **self.options.plain(),
            "ir_dir": ", ".join(str(part.found.ir_dir) for part in parts),
            "vi_dir": ", ".join(str(part.found.vi_dir) for part in parts),
            "masks": ", ".join(self.data.mask_modes),
            "mask_trees": [mask_signature(part.masks.root) for part in parts if part.masks.root is not None],
            "loss_weights": self.loss.weights,
            "device": str(self.device),
            "ir_range": list(parts[0].found.reading.value_range or ()) or None,
            "resume": None if self.resume is None else str(self.resume),
        }


def _prepare(options: TrainOptions) -> _PreparedTraining:
    """Check the options, seed the random generators, build network and loss; write nothing. Raises ThFuseError."""
    device = run_device(options.device)
    resume = find_checkpoint(options)
    former = {} if resume is None else load_checkpoint(resume).training
    if options.lr is None:  # `resume` without it
        options = dataclasses.replace(options, resume=None, lr=former.get("lr"))
    _require_named_pairs(options, resume, former)
    settings = dataclasses.replace(options.part(FusionSettings), val_metrics=_val_metrics(options.val_metrics))
    require_precision(settings.precision, device)
    perceptual = None if options.vgg_weights is None else load_perceptual_loss(options.vgg_weights)
    loss = FusionLoss(DEFAULT_WEIGHTS | dict(options.loss_weights), perceptual)
    set_seed(settings.seed)
    network, kept = _network(options)
    if resume is not None:
        kept = trained_range(resume, former)
    elif options.ir_range == (DATASET,):  # the weights of `init` may be of another camera
        kept = {}
    data = find_train_pairs(options, kept)
    if "live" in data.mask_modes:
        settings = dataclasses.replace(settings, num_workers=0)  # every worker process would get its own copy of SAM
    return _PreparedTraining(options, settings, device, data, loss, network, resume)


def _require_named_pairs(options: TrainOptions, resume: Path | None, former: Mapping[str, Any]) -> None:
    """Raise UsageError where no folder is named, and the run that goes on was not trained on the sample pairs.

    `former` are its options, as the checkpoint `resume` records them.
    """
    is_named = options.dataset_path or options.ir_dir or options.vi_dir
    ir_dir = former.get("ir_dir")
    if not (is_named or ir_dir is None or Path(ir_dir).resolve() == find_shipped(TRAIN_SAMPLE).resolve() / "ir"):
        raise UsageError(
            f"`resume` {resume}: the run was trained on {shown(ir_dir)} and {shown(former['vi_dir'])}; "
            "give `dataset_path`, or `ir_dir` and `vi_dir`"
        )


def _network(options: TrainOptions) -> tuple[FusionNetwork, dict[str, Range | None]]:
    """The network before its training, and the range with which `init` was trained, see `trained_range`."""
    stages = {"contrast_gain": options.contrast_gain, "sky": options.sky, "selection": options.selection}
    if options.init is None:
        return build_network(options.network, **stages), {}
    with naming("init", options.init):
        initial, training = load_network(find_network(options.init))
    if initial.name != options.network:
        raise OptionError("init", options.init, f"holds {initial.name}; give `network` {initial.name} or other weights")
    network = build_network(initial.name, **{**initial.options, **stages})
    network.load_state_dict(initial.state_dict())
    return network, trained_range(options.init, training)


def _val_metrics(names: tuple[str, ...]) -> tuple[str, ...]:
    if names in (("all",), ("none",)):
        return tuple(METRICS) if names == ("all",) else ()
    for name in names:
        if name not in METRICS:
            raise OptionError("val_metrics", name, "'all' and 'none' cannot be combined with other names")
    return names


def _trainer(run: _PreparedTraining, sources: MaskSources) -> Trainer:
    options, seed = run.options, run.settings.seed
    task = FusionTask(
        run.network,
        run.loss,
        fusion_dataset(
            run.data.train, sources, crop_size=options.crop_size, augment=True, seed=seed, jitter=options.jitter
        ),
        fusion_dataset(run.data.val, sources, crop_size=options.crop_size) if run.data.val else None,
        run.settings,
        counts_masks=run.data.mask_modes != ["none"],
    )
    return build_trainer(task, run.device, options, run.record, run.resume)


def _log_if_short(run: _PreparedTraining) -> None:
    """Say so if a network that starts from random weights gets too few steps to become good."""
    settings = run.settings
    pairs = sum(len(part.pairs) for part in run.data.train)
    per_epoch = -(-pairs // (settings.batch_size * settings.accumulate))
    steps = min(per_epoch * (settings.epochs or math.inf), settings.max_steps or math.inf)
    if run.options.init is None and run.resume is None and steps < ENOUGH_STEPS:
        log.info(
            "random weights need about %d steps to fuse well, not %d: raise `%s`, or start from `init` thfuse_lite",
            ENOUGH_STEPS,
            steps,
            "max_steps" if steps == settings.max_steps else "epochs",
        )


def _log_if_padded(run: _PreparedTraining) -> None:
    """Say so if crops are larger than the first image of a part."""
    for path in (part.pairs[0].vi for part in run.data.train):
        if min(size := image_size(path)) < run.options.crop_size:
            text = "%s is %s, smaller than `crop_size` %d: it is mirrored at its borders"
            log.info(text, path, size_text(size), run.options.crop_size)
            return


def _write_report(run: _PreparedTraining, sources: MaskSources, result: RunResult, command: str) -> None:
    shown = (run.data.val or run.data.train)[0]
    masks = [part.masks for part in run.data.parts]
    details = {
        "network": f"{run.options.network}, {count_parameters(run.network):,} parameters",
        "weights": f"{result.latest}, SHA-256 {file_sha256(result.latest)}",
        "masks": "; ".join(
            f"{choice.mode}; {mask_signature(choice.root) if choice.root is not None else choice.reason}"
            for choice in masks
        ),
        "pairs": run.data.counts,
    }
    page = write_training_report(
        run.options.report_dir,
        run.options.report_dir.parent / LOG_NAME,
        run_facts(command, run.device, details),
        checkpoints=list(run.options.output_dir.glob("model_epoch*.pth")),
        dataset=FusionDataset(shown.pairs, sources.of(shown)),
        device=run.device,
    )
    log.info("report: open %s in a browser", page)
