"""Fine-tuning a Segment Anything model, and exporting a tuned one, according to `FinetuneOptions`."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import Sam

from thfuse_sam.commands.runs import build_trainer, find_checkpoint, run_device
from thfuse_sam.datasets.prompts import PromptMix
from thfuse_sam.datasets.segmentation import (
    OneSample,
    SegmentationDataset,
    open_segmentation_dataset,
    open_train_and_val,
)
from thfuse_sam.datasets.segmentation.annotated import counts_text
from thfuse_sam.devices import is_out_of_memory
from thfuse_sam.downloads import cache_folder
from thfuse_sam.errors import OptionError, TrainingError, UsageError, counted, naming
from thfuse_sam.files import file_sha256, require_writable
from thfuse_sam.finetune.embedding_cache import EmbeddingCache, encoder_signature
from thfuse_sam.finetune.evaluation import ESTIMATE, Results, fitting_threshold, mean_iou
from thfuse_sam.finetune.training import FinetuneTask
from thfuse_sam.losses.segmentation import SegmentationLoss
from thfuse_sam.models import count_parameters
from thfuse_sam.options.fields import AUTO
from thfuse_sam.options.finetune import DEFAULT_PROMPTS, LOSS_WEIGHTS, OFF, FinetuneOptions, LoraSettings
from thfuse_sam.options.generator import GENERATOR_DEFAULTS, HUGGING_FACE, GeneratorSettings
from thfuse_sam.options.training import FinetuneSettings
from thfuse_sam.report.finetune import write_finetune_report
from thfuse_sam.report.run_facts import run_facts
from thfuse_sam.sam.adapt import PARTS, Adaptation
from thfuse_sam.sam.checkpoints import ResolvedSam, resolve_sam, resolve_tuned
from thfuse_sam.sam.export import export_sam, require_export_name
from thfuse_sam.sam.loading import load_sam
from thfuse_sam.sam.registry import build_sam, own_settings
from thfuse_sam.sam.weights import trained_metadata
from thfuse_sam.training.distributed import run_processes
from thfuse_sam.training.epoch_log import LOG_NAME
from thfuse_sam.training.random_state import set_seed
from thfuse_sam.training.resuming import EVALUATION, open_run_folder
from thfuse_sam.training.trainer import RunResult, Trainer, require_precision

SPARE_BYTES = 2**30  # left free on the disk by an embedding cache that was not asked for by name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuning:
    """How a fine-tuning ended, and how good the model is. Without validation images both `Results` are empty."""

    run: RunResult
    zero_shot: Results  # before training
    fine_tuned: Results  # with the best weights


def finetune(options: FinetuneOptions, command: str = "") -> Tuning:
    """Fine-tune on `data_dir`. `command` is the typed command line, for the report. Raises ThFuseError."""
    run = _prepare(options, fetch=True)
    log.info("%s; %s from %s on %s", run.counts, run.base.model_type, run.base.checkpoint, run.device)
    trainer, task = _trainer(run)
    open_run_folder(options.run_dir, options.log_dir, run.resume, overwrite=options.overwrite)
    result = _run(trainer)
    tuning = Tuning(result, task.zero_shot, task.fine_tuned)
    if not run_processes().is_main:
        return tuning
    if not result.interrupted:
        log.info("training done: %s; weights in %s", result.length, result.best_file)
        _log_advice(tuning)
        if options.export is not None:
            generator = _tuned_generator(own_settings(task.sam), tuning.zero_shot, tuning.fine_tuned)
            with naming("export", options.export):
                _export(options.export, task.sam, run.base.model_type, generator, is_tuned=True)
            log.info("exported to %s, for `precompute()` with `sam_checkpoint`", options.export)
    if options.report and (result.epoch > 0 or not result.interrupted):
        log.info("report: open %s in a browser", _write_report(run, task, tuning, command))
    return tuning


def plan_finetuning(options: FinetuneOptions) -> dict[str, Any]:
    """The options and counts of what `finetune` would do; nothing is written or downloaded. Raises ThFuseError."""
    if options.data_dir is None:
        raise UsageError("`data_dir` is not given; name annotated images, for an export there is no plan to print")
    run = _prepare(options, fetch=False)
    return {**run.record, **dataclasses.asdict(run.settings), "plan": run.counts}


def export_trained(options: FinetuneOptions) -> None:
    """Write a file of trained weights as a whole SAM checkpoint. Raises ThFuseError."""
    if options.export is None or options.sam_checkpoint is None:
        raise UsageError(
            "`data_dir` is not given; name annotated images, or export trained weights with `sam_checkpoint` "
            "and `export`"
        )
    require_export_name(options.export)
    with naming("sam_checkpoint", options.sam_checkpoint):
        tuned = resolve_tuned(options.sam_model_type, options.sam_checkpoint, base=options.base_checkpoint)
        _require_tunable(tuned.model_type)
        _require_apart(options.export, tuned)
        sam = load_sam(tuned, torch.device("cpu"))
    is_tuned = trained_metadata(options.sam_checkpoint) is not None
    _export(options.export, sam, tuned.model_type, _evaluated_generator(options.sam_checkpoint, sam), is_tuned=is_tuned)
    log.info("exported to %s", options.export)


# From options to objects


@dataclass(frozen=True)
class _PreparedTuning:
    """Everything that a fine-tuning needs, checked and built before anything is written."""

    options: FinetuneOptions
    settings: FinetuneSettings
    device: torch.device
    base: ResolvedSam
    adaptation: Adaptation
    loss: SegmentationLoss
    mix: PromptMix
    train_set: SegmentationDataset
    val_set: SegmentationDataset | None
    resume: Path | None

    @property
    def counts(self) -> str:
        """How many images there are, for people."""
        val = len(self.val_set) if self.val_set is not None else 0
        return f"{counted(len(self.train_set), 'image')} to train on, {val} to validate on"

    @property
    def record(self) -> dict[str, Any]:
        """The options with the values that were decided for this run (model, loss, device), for the checkpoint."""
        return {
            **self.options.plain(),
            "sam_model_type": self.base.model_type,
            "sam_checkpoint": str(self.base.checkpoint),
            "checkpoint_sha256": self.base.sha256,
            "device": str(self.device),
            "loss": dict(self.loss.weights),
            "prompts": self.mix.weights(),
            "resume": None if self.resume is None else str(self.resume),
        }


def _prepare(options: FinetuneOptions, *, fetch: bool) -> _PreparedTuning:
    """Check the options and open model file and data; `fetch`: weights may be downloaded. Raises ThFuseError."""
    if options.export is not None:
        require_export_name(options.export)
        require_writable("export", options.export.parent)
    resume = find_checkpoint(options, "exp_name")
    device = run_device(options.device)
    require_precision(options.precision, device)
    adaptation = _adaptation(options)
    loss = SegmentationLoss({**LOSS_WEIGHTS, **options.loss}, options.alpha, options.gamma)
    mix = prompt_mix(options)
    with naming("sam_checkpoint", options.sam_checkpoint):
        base = resolve_sam(options.sam_model_type, options.sam_checkpoint, fetch=fetch)
    _require_tunable(base.model_type)
    if options.export is not None:
        _require_apart(options.export, base)
    assert options.data_dir is not None  # without it a command exports, see `export_trained`
    with naming("data_dir", options.data_dir):
        train_set, val_set = _open_data(options, options.data_dir)
    settings = finetune_settings(options, adaptation)
    return _PreparedTuning(options, settings, device, base, adaptation, loss, mix, train_set, val_set, resume)


def finetune_settings(options: FinetuneOptions, adaptation: Adaptation) -> FinetuneSettings:
    """The settings of the run, with values for the options that are None."""
    settings = options.part(FinetuneSettings)
    if options.epochs is None and options.max_steps is None:
        settings = dataclasses.replace(settings, epochs=FinetuneSettings().epochs)
    if options.flip is None:
        keeps_embeddings = adaptation.encoder_is_fixed and options.cache_embeddings != OFF
        flip = 0.0 if keeps_embeddings or options.debug_with_one_example else 0.5
        settings = dataclasses.replace(settings, flip=flip)
    return settings


def _require_apart(export: Path, used: ResolvedSam) -> None:
    """Raise OptionError for an export over weights that it is made of; a run's own files hold only what it trained."""
    if export.resolve() in {path.resolve() for path in (used.checkpoint, used.base) if path is not None}:
        raise OptionError("export", export, "is the model that was tuned, which would be lost; give another name")


def _require_tunable(model_type: str) -> None:
    if model_type == HUGGING_FACE:
        raise UsageError(
            "`sam_model_type` hf: `finetune()` cannot train or export this model yet, only Segment Anything of 2023 "
            "and MobileSAM; `predict()` and `precompute()` use it as it is"
        )


def _adaptation(options: FinetuneOptions) -> Adaptation:
    frozen = tuple(part for part in PARTS if getattr(options, f"freeze_{part}"))
    lora = None
    if options.lora_rank is not None:
        lora = LoraSettings(options.lora_rank, options.lora_alpha, options.lora_dropout)
    return Adaptation(frozen, lora)


def prompt_mix(options: FinetuneOptions) -> PromptMix:
    """How often an object gets each kind of prompt. Raises UsageError."""
    if options.point_selection is not None:
        if options.prompts is not None:
            raise UsageError("`prompts` and `point_selection` are both given; give one")
        return PromptMix.from_selection(options.point_selection, options.num_points)
    weights = DEFAULT_PROMPTS if options.prompts is None else options.prompts
    return PromptMix(**weights, num_points=options.num_points)


def _open_data(options: FinetuneOptions, data_dir: Path) -> tuple[SegmentationDataset, SegmentationDataset | None]:
    choices = {**options.choices, "seed": options.seed}
    if options.debug_with_one_example:
        one = OneSample(open_segmentation_dataset(data_dir, **choices))
        return one, one
    return open_train_and_val(data_dir, val_path=options.val_dir, val_fraction=options.val_fraction, **choices)


def _trainer(run: _PreparedTuning) -> tuple[Trainer, FinetuneTask]:
    sam = build_sam(run.base.model_type, run.base.checkpoint, run.device)
    cache = _cache(run, sam)
    set_seed(run.settings.seed)
    task = FinetuneTask(
        sam, run.base, run.adaptation, run.loss, run.mix, run.train_set, run.val_set, run.settings, cache=cache
    )
    return build_trainer(task, run.device, run.options, run.record, run.resume), task


def _cache(run: _PreparedTuning, sam: Sam) -> EmbeddingCache | None:
    """The cache for the embeddings of an image encoder that is not trained; None: no cache. Raises OptionError."""
    asked = run.options.cache_embeddings
    if asked == OFF:
        return None
    if not run.adaptation.encoder_is_fixed:
        if asked != AUTO:
            remedy = "give `freeze_image_encoder`, or leave it out"
            reason = f"the image encoder is trained, so embeddings change; {remedy}"
            raise OptionError("cache_embeddings", asked, reason)
        return None
    root = cache_folder() / "embeddings" if asked == AUTO else Path(asked)
    parts = [part for part in (run.train_set, run.val_set) if part is not None]
    if asked == AUTO and not _has_space(root, sam, parts):
        log.info("embeddings are not kept: too little space in %s; name a folder by `cache_embeddings`", root)
        return None
    log.info("embeddings%s are kept in %s", " of images to validate on" if run.settings.flip else "", root)
    return EmbeddingCache(root, encoder_signature(sam, run.settings.precision))


def _has_space(root: Path, sam: Sam, parts: Sequence[SegmentationDataset]) -> bool:
    rows, columns = sam.prompt_encoder.image_embedding_size
    needed = sum(len(part) for part in parts) * sam.prompt_encoder.embed_dim * rows * columns * 2
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free > needed + SPARE_BYTES


# The run


def _run(trainer: Trainer) -> RunResult:
    """Train. If the memory is not enough, raises TrainingError, which names the options that help."""
    try:
        return trainer.run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            "out of memory; use a smaller `n_objects` or `batch_size`, `sub_iterations` 1, "
            "or `freeze_image_encoder`; checkpoints written before this epoch are kept"
        ) from error


def _log_advice(tuning: Tuning) -> None:
    """Log if fine-tuning did not help."""
    if not tuning.fine_tuned:
        return
    before, after = mean_iou(tuning.zero_shot), mean_iou(tuning.fine_tuned)
    if after <= before:
        log.warning(
            "fine-tuning did not help: mean IoU on the validation images is %.3f, was %.3f before; "
            "keep the former checkpoint, or train longer, with another `lr`, or on more images",
            after,
            before,
        )


def _export(path: Path, sam: Sam, model_type: str, generator: Mapping[str, float], *, is_tuned: bool) -> None:
    """Write the whole model, with the settings of the mask generator that suit it, else those that it was opened with.

    A warning says if those are of the model before tuning.
    """
    export_sam(path, sam, {**_own_changes(sam, model_type), **generator})
    if is_tuned and not generator:
        log.warning(
            "%s: has the `pred_iou_thresh` of the model before tuning, because no %s beside these weights is theirs",
            path,
            EVALUATION,
        )


def _own_changes(sam: Sam, model_type: str) -> dict[str, Any]:
    """The settings of the mask generator that a checkpoint brought with it."""
    usual = dataclasses.asdict(GENERATOR_DEFAULTS[model_type])
    return {name: value for name, value in dataclasses.asdict(own_settings(sam)).items() if value != usual[name]}


def _evaluated_generator(trained: Path, sam: Sam) -> dict[str, float]:
    """`_tuned_generator` of the weights in the file `trained`, by their evaluation beside it, if there is one."""
    try:
        results = json.loads((trained.parent / EVALUATION).read_text(encoding="utf-8"))
        # It is of the best weights; other files of the run, and those of a later run, lie beside it, too.
        if results["weights_sha256"] == file_sha256(trained):
            return _tuned_generator(own_settings(sam), results["zero_shot"], results["fine_tuned"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}


def _tuned_generator(defaults: GeneratorSettings, zero_shot: Results, fine_tuned: Results) -> dict[str, float]:
    """Settings of the mask generator that suit the tuned model's own estimates of IoU; empty without an evaluation.

    `defaults` are those of the model before tuning.
    """
    if not all(ESTIMATE in results.get("point", {}) for results in (zero_shot, fine_tuned)):
        return {}
    usual = defaults.pred_iou_thresh
    return {"pred_iou_thresh": round(fitting_threshold(usual, zero_shot, fine_tuned), 2)}


def _write_report(run: _PreparedTuning, task: FinetuneTask, tuning: Tuning, command: str) -> Path:
    trained, total = count_parameters(task.sam), sum(value.numel() for value in task.sam.parameters())
    best_file = tuning.run.best_file
    details = {
        "network": f"{run.base.model_type}, {trained:,} of {total:,} parameters trained",
        "tuned from": f"{run.base.checkpoint}, SHA-256 {run.base.sha256}",
        "weights": f"{best_file}, SHA-256 {file_sha256(best_file)}",
        "images": run.counts,
        "annotations": counts_text(run.train_set.flaws) or "all used as they are",
        "prompts": _weights_text(run.mix.weights()),
        "loss": _weights_text(run.loss.weights),
    }
    folder = run.options.report_dir
    return write_finetune_report(folder, folder.parent / LOG_NAME, run_facts(command, run.device, details), task)


def _weights_text(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in weights.items() if value > 0)
