"""`finetune.py`: options -> objects -> `finetune.training`."""

import argparse
import dataclasses
import json
import logging
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from segment_anything.modeling import Sam

import thfuse_sam
from thfuse_sam.cli import common
from thfuse_sam.datasets.prompts import PromptMix
from thfuse_sam.datasets.segmentation import (
    OneSample,
    SegmentationDataset,
    open_segmentation_dataset,
    open_train_and_val,
)
from thfuse_sam.datasets.segmentation.mixture import is_mixture
from thfuse_sam.datasets.segmentation.opening import MIXTURE_SUFFIXES
from thfuse_sam.devices import is_out_of_memory, resolve_device
from thfuse_sam.downloads import cache_folder
from thfuse_sam.errors import TrainingError, UsageError
from thfuse_sam.files import file_sha256, make_directory, remove_abandoned
from thfuse_sam.finetune.embedding_cache import EmbeddingCache, encoder_signature
from thfuse_sam.finetune.evaluation import ESTIMATE, fitting_threshold, mean_iou, result_table
from thfuse_sam.finetune.training import FinetuneTask
from thfuse_sam.losses.segmentation import DEFAULT_SEGMENTATION_WEIGHTS, SegmentationLoss
from thfuse_sam.options.training import FinetuneSettings, Schedule
from thfuse_sam.report.finetune import write_finetune_report
from thfuse_sam.report.page import INDEX, REPORT_FOLDER, require_replaceable
from thfuse_sam.report.run_facts import run_facts
from thfuse_sam.sam.adapt import PARTS, Adaptation
from thfuse_sam.sam.checkpoints import AUTO, resolve_sam
from thfuse_sam.sam.export import export_sam, load_trained, require_export_name
from thfuse_sam.sam.lora import LoraSettings
from thfuse_sam.sam.registry import MODEL_TYPES, build_sam
from thfuse_sam.sam.weights import CHECKPOINT_SUFFIXES
from thfuse_sam.training.batches import default_num_workers
from thfuse_sam.training.distributed import own_device, run_processes
from thfuse_sam.training.epoch_log import LOG_NAME
from thfuse_sam.training.random_state import set_seed
from thfuse_sam.training.trainer import LATEST, RunResult, Trainer, require_precision

OFF = "off"  # value of --cache_embeddings
PROMPT_KINDS = ("box", "point", "random", "points", "negative", "mask")
DEFAULT_PROMPTS = {"box": 1.0, "point": 1.0}
SPARE_BYTES = 2**30  # what an embedding cache that nobody asked for leaves free on the disk

log = logging.getLogger(__name__)


class _DebugOrData(argparse.Action):
    """`-d` alone switches --debug_with_one_example on; `-d DIR` is --data_dir. Earlier tools use it for either."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if values is None:
            namespace.debug_with_one_example = True
        else:
            namespace.data_dir = Path(values)


class _ByItsValue(argparse.Action):
    """`-c`: earlier tools use it for weights (--checkpoint), options (--config), a mixture (--data_dir), --exp_name."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        suffix = Path(values).suffix.lower()
        if suffix in CHECKPOINT_SUFFIXES:
            namespace.checkpoint = Path(values)
        elif suffix in MIXTURE_SUFFIXES and is_mixture(Path(values)):
            namespace.data_dir = Path(values)
        elif suffix in MIXTURE_SUFFIXES:
            namespace.config = Path(values)
        else:
            namespace.exp_name = values


def build_parser() -> common.CommandParser:
    parser = common.CommandParser(
        "finetune.py",
        "Fine-tune a Segment Anything model on annotated images (formats: docs/finetuning_data.md). Trained weights, "
        "logs and what --resume needs go to OUTPUT_DIR/EXP_NAME. docs/finetuning.md explains the options.",
    )
    defaults = FinetuneSettings()
    _add_data_options(parser)
    group = parser.add_argument_group("model")
    add = group.add_argument
    add(
        "--checkpoint",
        "--sam_checkpoint",
        "--checkpoint_path",
        type=Path,
        help="SAM weights to start from (None: those of the model type, see the README)",
    )
    add("--model_type", "--sam_model_type", "-m", choices=(AUTO, *MODEL_TYPES), default=AUTO, help="which SAM")
    for part in PARTS:
        add(f"--freeze_{part}", action="store_true", help=f"do not train the {part.replace('_', ' ')}")
    add("--lora_rank", type=common.positive_int, help="train adapters of this rank on the image encoder (None: none)")
    add("--lora_alpha", type=common.positive_float, default=LoraSettings.alpha, help="adapters count alpha / rank")
    add("--lora_dropout", type=common.fraction, default=LoraSettings.dropout, help="on the adapters' input")
    add(
        "--cache_embeddings",
        default=AUTO,
        metavar="auto|off|DIR",
        help="keep embeddings of a frozen image encoder in DIR; auto: in the cache folder, where there is space",
    )

    group = parser.add_argument_group("prompts and loss")
    add = group.add_argument
    add("--prompts", type=_prompt_weight, nargs="+", metavar="KIND=WEIGHT", help=f"mix of {', '.join(PROMPT_KINDS)}")
    add("--point_selection", choices=("center", "random", "bbox"), help="one kind of prompt, in place of --prompts")
    add("--num_points", type=common.positive_int, default=1, help="points of a prompt that has several")
    add("--n_objects_per_batch", "-n", type=common.positive_int, default=defaults.n_objects, help="objects an image")
    add(
        "--n_sub_iteration",
        "-s",
        type=common.positive_int,
        default=defaults.sub_iterations,
        help="passes for each object: a prompt, then points where the mask is wrong",
    )
    add("--loss", type=_loss_weight, nargs="+", default=[], metavar="NAME=WEIGHT", help="change parts of the loss")
    add("--alpha", type=float, default=0.25, help="focal loss: weight of the inside, 0 to 1; -1: no weighting")
    add("--gamma", type=common.not_negative_float, default=2.0, help="focal loss: exponent")

    group = parser.add_argument_group("training")
    add = group.add_argument
    add(
        "--num_epochs",
        "--epoch_num",
        "--epochs",
        "-e",
        type=common.positive_int,
        help=f"passes over the images (None: {defaults.epochs}, or as many as --n_iterations takes)",
    )
    add("--n_iterations", "--steps", "-i", type=common.positive_int, help="optimiser steps in all (None: no limit)")
    add("--batch_size", "-b", type=common.positive_int, default=defaults.batch_size, help="images at once on a device")
    add(
        "--virtual_batch_size",
        type=common.positive_int,
        default=defaults.accumulate,
        help="batches whose gradients make one step",
    )
    add("--lr", "--learning_rate", type=common.positive_float, default=defaults.lr, help="learning rate at its peak")
    add("--weight_decay", type=common.not_negative_float, default=defaults.weight_decay, help="of AdamW")
    add(
        "--schedule",
        choices=get_args(Schedule),
        default=defaults.schedule,
        help="of the learning rate, after the warm-up",
    )
    add("--warmup_steps", type=common.natural_int, default=defaults.warmup_steps, help="optimiser steps")
    add("--patience", type=common.natural_int, default=defaults.plateau_patience, help="of plateau, epochs")
    add("--early_stopping", type=common.positive_int, help="evaluations without a better one before the end")
    add("--precision", choices=("fp32", "bf16", "fp16"), default=defaults.precision, help="fp16 needs a GPU")
    add(
        "--flip",
        type=common.fraction,
        metavar="P",
        help="probability of a mirror image in training (None: 0.5; with one example, and where embeddings of a frozen "
        "image encoder are kept, which cannot be mirrored: 0. With P above 0 none are kept of training images)",
    )
    add("--seed", type=common.natural_int, default=defaults.seed, help="of the split, the order, the prompts")
    add("--device", "-g", default="auto", help="auto, cpu, cuda or cuda:1; several by torchrun")
    add("--num_workers", type=common.natural_int, help="processes that make samples (None: 0 on a CPU)")

    group = parser.add_argument_group("output")
    add = group.add_argument
    add("--output_dir", type=Path, default=Path("runs"), help="folder of experiments")
    add("--exp_name", "--checkpoint_name", default="finetune", help="folder of this one in it")
    add(
        "-c",
        action=_ByItsValue,
        metavar="NAME|FILE",
        default=argparse.SUPPRESS,
        help="exp_name; FILE.pth and the like: checkpoint; FILE.yaml: config, or data_dir where it is a mixture",
    )
    add("--save_interval", type=common.positive_int, default=defaults.save_interval, help="epochs between kept weights")
    add(
        "--test_interval",
        "--eval_interval",
        type=common.positive_int,
        default=defaults.val_interval,
        help="epochs between evaluations",
    )
    add("--export", type=Path, metavar="FILE", help="also write the best model whole, for --sam_checkpoint elsewhere")
    add(
        "--report",
        action="store_true",
        help=f"write OUTPUT_DIR/EXP_NAME/{REPORT_FOLDER}/{INDEX}: masks before and after",
    )
    add("--base_checkpoint", type=Path, help="to export trained weights later: what they were tuned from")
    add("--resume", nargs="?", const=common.AUTO, metavar="PATH", help=f"go on from a state (auto: {LATEST}, if any)")
    parser.add_config_option()
    add("--dry_run", action="store_true", help="check everything, print the plan, write nothing")
    return parser


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("data").add_argument
    add("--data_dir", "--data_root", type=Path, help="annotated images: a folder, a COCO .json or a mixture .yaml")
    add("--val_dir", type=Path, help="for validation (None: DATA_DIR/val, else a part of the images)")
    add("--val_ratio", type=common.fraction, default=0.2, help="that part; 0: none, the training loss decides")
    add("--labels", nargs="+", metavar="LABEL", help="only objects of these classes (None: all)")
    add("--merge", action="store_true", help="make all objects of an image one")
    add("--skip_bad", action="store_true", help="leave bad samples out and count them")
    add("--debug_with_one_example", action="store_true", help="train and evaluate on one image: it must be learnt")
    add("-d", action=_DebugOrData, nargs="?", metavar="DIR", default=argparse.SUPPRESS, help="with DIR: data_dir")


def _prompt_weight(text: str) -> tuple[str, float]:
    return _weight(text, PROMPT_KINDS)


def _loss_weight(text: str) -> tuple[str, float]:
    return _weight(text, DEFAULT_SEGMENTATION_WEIGHTS)


def _weight(text: str, known: Collection[str]) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in known:
        raise argparse.ArgumentTypeError(f"'{text}': known are {', '.join(f'{key}=WEIGHT' for key in known)}")
    return name, common.not_negative_float(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    return common.run(build_parser(), lambda options: _finetune(options, given), given)


def _finetune(options: argparse.Namespace, given: Sequence[str]) -> int:
    if not run_processes().is_main:
        logging.getLogger(thfuse_sam.__name__).setLevel(logging.ERROR)
    if options.export is not None:
        require_export_name(options.export)
    if options.data_dir is None:
        return _export_only(options)
    folder: Path = options.output_dir / options.exp_name
    common.require_writable("--output_dir", folder)
    if options.report:
        require_replaceable(folder / REPORT_FOLDER)
    device = _device(options)
    adaptation, loss, mix = _adaptation(options), _loss(options), _mix(options)
    settings = _settings(options, device, adaptation)
    resume = common.checkpoint_to_resume(options.resume, folder / LATEST)
    base = resolve_sam(options.model_type, options.checkpoint, fetch=not options.dry_run)
    train_set, val_set = _open_data(options)
    resolved = {
        **common.plain_options(options),
        **{"model_type": base.model_type, "checkpoint": str(base.checkpoint), "checkpoint_sha256": base.sha256},
        **{"device": str(device), "loss": dict(loss.weights)},
        **{"prompts": mix.weights(), "resume": None if resume is None else str(resume)},
    }
    counts = f"{len(train_set)} images to train on, {len(val_set) if val_set is not None else 0} to validate on"
    if options.dry_run:
        print(json.dumps({**resolved, **dataclasses.asdict(settings), "plan": counts}, indent=2))
        return 0
    log.info("%s; %s from %s on %s", counts, base.model_type, base.checkpoint, device)
    sam = build_sam(base.model_type, base.checkpoint, device)
    parts = [part for part in (train_set, val_set) if part is not None]
    cache = _cache(options, adaptation, sam, parts, settings.flip or 0.0)
    set_seed(settings.seed)
    task = FinetuneTask(sam, base, adaptation, loss, mix, train_set, val_set, settings, cache=cache)
    trainer = Trainer(task, device=device, output_dir=folder, options=resolved)
    if resume is not None:
        trainer.resume(resume)
    make_directory(folder)
    remove_abandoned(folder)
    result = _naming_memory(trainer.run)
    if result.interrupted:
        log.info("stopped after step %d; to go on: the same command with --resume", result.step)
        return common.INTERRUPTED
    if not run_processes().is_main:
        return 0
    if task.fine_tuned:
        print(result_table({"zero-shot": task.zero_shot, "fine-tuned": task.fine_tuned}))
        before, after = mean_iou(task.zero_shot), mean_iou(task.fine_tuned)
        if after <= before:
            log.warning(
                "fine-tuning did not help: mean IoU on the validation images is %.3f, was %.3f before; "
                "keep the former checkpoint, or train longer, with another --lr or more images",
                after,
                before,
            )
    log.info("done after %d steps, %d whole epochs: %s", result.step, result.epoch, result.best_file)
    if options.export is not None:
        export_sam(options.export, sam)
        log.info("exported to %s, for precompute_masks.py --sam_checkpoint", options.export)
    if ESTIMATE in task.zero_shot.get("point", {}) and ESTIMATE in task.fine_tuned.get("point", {}):
        usual = MODEL_TYPES[base.model_type].defaults.pred_iou_thresh
        log.info(
            "for automatic masks begin with --pred_iou_thresh %.2f: it is to the tuned model's own estimates what %.2f "
            "was before",
            fitting_threshold(usual, task.zero_shot, task.fine_tuned),
            usual,
        )
    if options.report:
        page = write_finetune_report(
            folder / REPORT_FOLDER,
            folder / LOG_NAME,
            run_facts(
                shlex.join(["python", "finetune.py", *given]),
                device,
                _report_details(task, mix, loss, counts, result),
            ),
            base,
            sam,
            val_set or train_set,
            zero_shot=task.zero_shot,
            fine_tuned=task.fine_tuned,
            n_objects=settings.n_objects,
            seed=settings.seed,
        )
        log.info("report: open %s in a browser", page)
    return 0


def _report_details(
    task: FinetuneTask, mix: PromptMix, loss: SegmentationLoss, counts: str, result: RunResult
) -> dict[str, str]:
    trained, total = (
        sum(value.numel() for value in task.sam.parameters() if value.requires_grad or not only)
        for only in (True, False)
    )
    return {
        "network": f"{task.base.model_type}, {trained:,} of {total:,} parameters trained",
        "tuned from": f"{task.base.checkpoint}, SHA-256 {task.base.sha256}",
        "weights": f"{result.best_file}, SHA-256 {file_sha256(result.best_file)}",
        "images": counts,
        "prompts": _weights_text(mix.weights()),
        "loss": _weights_text(loss.weights),
    }


def _weights_text(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in weights.items() if value > 0)


def _export_only(options: argparse.Namespace) -> int:
    if options.export is None or options.checkpoint is None:
        raise UsageError(
            "--data_dir is not given; name annotated images, or export trained weights with --checkpoint and --export"
        )
    export_sam(options.export, load_trained(options.checkpoint, options.base_checkpoint))
    log.info("exported to %s", options.export)
    return 0


def _device(options: argparse.Namespace) -> torch.device:
    device = resolve_device(str(own_device(resolve_device(options.device))))
    require_precision(options.precision, device)
    return device


def _settings(options: argparse.Namespace, device: torch.device, adaptation: Adaptation) -> FinetuneSettings:
    own = {field.name for field in dataclasses.fields(FinetuneSettings)}
    values = {name: value for name, value in vars(options).items() if name in own}
    values |= {"n_objects": options.n_objects_per_batch, "sub_iterations": options.n_sub_iteration}
    values |= {"accumulate": options.virtual_batch_size, "val_interval": options.test_interval}
    values |= {"max_steps": options.n_iterations, "plateau_patience": options.patience}
    if options.num_epochs is not None or options.n_iterations is not None:
        values["epochs"] = options.num_epochs
    if options.flip is None:
        keeps_embeddings = adaptation.encoder_is_fixed and options.cache_embeddings != OFF
        values["flip"] = 0.0 if keeps_embeddings or options.debug_with_one_example else 0.5
    if options.num_workers is None:
        values["num_workers"] = default_num_workers(device)
    return FinetuneSettings(**values)


def _adaptation(options: argparse.Namespace) -> Adaptation:
    frozen = tuple(part for part in PARTS if getattr(options, f"freeze_{part}"))
    lora = None
    if options.lora_rank is not None:
        lora = LoraSettings(options.lora_rank, options.lora_alpha, options.lora_dropout)
    return Adaptation(frozen, lora)


def _loss(options: argparse.Namespace) -> SegmentationLoss:
    return SegmentationLoss({**DEFAULT_SEGMENTATION_WEIGHTS, **dict(options.loss)}, options.alpha, options.gamma)


def _mix(options: argparse.Namespace) -> PromptMix:
    if options.point_selection is not None:
        if options.prompts is not None:
            raise UsageError("--prompts and --point_selection are both given; give one")
        return PromptMix.from_selection(options.point_selection, options.num_points)
    weights = DEFAULT_PROMPTS if options.prompts is None else dict(options.prompts)
    return PromptMix(**weights, num_points=options.num_points)


def _open_data(options: argparse.Namespace) -> tuple[SegmentationDataset, SegmentationDataset | None]:
    choices = {"labels": options.labels, "merge": options.merge, "skip_bad": options.skip_bad, "seed": options.seed}
    if options.debug_with_one_example:
        one = OneSample(open_segmentation_dataset(options.data_dir, **choices))
        return one, one
    if options.val_dir is None and options.val_ratio == 0:
        return open_segmentation_dataset(options.data_dir, **choices), None
    return open_train_and_val(options.data_dir, val_path=options.val_dir, val_ratio=options.val_ratio, **choices)


def _cache(
    options: argparse.Namespace, adaptation: Adaptation, sam: Sam, parts: Sequence[SegmentationDataset], flip: float
) -> EmbeddingCache | None:
    asked = options.cache_embeddings
    if asked == OFF:
        return None
    if not adaptation.encoder_is_fixed:
        if asked != AUTO:
            raise UsageError(
                f"--cache_embeddings {asked}: the image encoder is trained, so embeddings change; "
                "give --freeze_image_encoder, or leave it out"
            )
        return None
    root = cache_folder() / "embeddings" if asked == AUTO else Path(asked)
    images = sum(len(part) for part in parts)
    if asked == AUTO and not _has_space(root, sam, images):
        log.info("embeddings are not kept: too little space in %s; name a folder by --cache_embeddings", root)
        return None
    log.info("embeddings%s are kept in %s", " of images to validate on" if flip else "", root)
    return EmbeddingCache(root, encoder_signature(sam, options.precision))


def _has_space(root: Path, sam: Sam, images: int) -> bool:
    rows, columns = sam.prompt_encoder.image_embedding_size
    needed = images * sam.prompt_encoder.embed_dim * rows * columns * 2
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free > needed + SPARE_BYTES


def _naming_memory(work: Callable[[], RunResult]) -> RunResult:
    """Do `work`; where the memory is not enough, say which option helps. Raises TrainingError."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            "out of memory; use a smaller --n_objects_per_batch or --batch_size, --n_sub_iteration 1, "
            "or --freeze_image_encoder; the checkpoints from before are kept"
        ) from error
