"""`train.py`: options -> objects -> `fusion.training`."""

import argparse
import dataclasses
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import thfuse_sam
from thfuse_sam.cli import common
from thfuse_sam.datasets.fusion import FusionDataset, MixedPairs, mask_mismatches
from thfuse_sam.datasets.pairs import ImagePair, PairSet, find_pairs, read_pair, require_partners, unusable_pairs
from thfuse_sam.datasets.splits import split_pairs
from thfuse_sam.devices import resolve_device
from thfuse_sam.errors import MaskReadError, PairError, UsageError
from thfuse_sam.files import file_sha256, make_directory, remove_abandoned
from thfuse_sam.fusion.fusing import require_usable
from thfuse_sam.fusion.training import FusionTask
from thfuse_sam.losses import DEFAULT_WEIGHTS, LOSS_PARTS, FusionLoss, load_perceptual_loss
from thfuse_sam.masks.source import MaskSource
from thfuse_sam.metrics import METRICS
from thfuse_sam.models import DEFAULT_NETWORK, NETWORKS, build_network
from thfuse_sam.options.training import FusionSettings
from thfuse_sam.report.page import INDEX, REPORT_FOLDER, require_replaceable
from thfuse_sam.report.run_facts import mask_signature, run_facts
from thfuse_sam.report.training import write_training_report
from thfuse_sam.training.batches import default_num_workers
from thfuse_sam.training.distributed import run_processes
from thfuse_sam.training.epoch_log import LOG_NAME
from thfuse_sam.training.random_state import set_seed
from thfuse_sam.training.trainer import LATEST, Trainer, require_precision

SAMPLE = "datasets/sample/train"
VAL_METRICS = ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM", "Nabf")

log = logging.getLogger(__name__)


def build_parser() -> common.CommandParser:
    parser = common.CommandParser("train.py", "Train a fusion network on pairs of infrared and visible images.")
    common.add_pair_options(parser, SAMPLE, several=True)
    common.add_mask_options(parser, several=True)
    defaults = FusionSettings()
    group = parser.add_argument_group("training")
    add = group.add_argument
    add("--network", choices=sorted(NETWORKS), default=DEFAULT_NETWORK, help="which network")
    add("--epochs", type=common.positive_int, default=defaults.epochs, help="passes over the pairs")
    add("--batch_size", type=common.positive_int, default=defaults.batch_size, help="crops in a batch, of each process")
    add("--accumulate", type=common.positive_int, default=defaults.accumulate, help="batches in a step")
    add("--crop_size", type=common.positive_int, default=128, help="side of the crops, pixels")
    add("--lr", type=common.positive_float, default=defaults.lr, help="learning rate at its peak")
    add("--schedule", choices=("cosine", "plateau"), default=defaults.schedule, help="how the learning rate falls")
    add("--warmup_steps", type=common.natural_int, default=defaults.warmup_steps, help="over which it rises first")
    add("--plateau_patience", type=common.natural_int, default=defaults.plateau_patience, help="epochs, for 'plateau'")
    add("--weight_decay", type=common.not_negative_float, default=defaults.weight_decay, help="of AdamW")
    add("--grad_clip", type=common.positive_float, default=defaults.grad_clip, help="largest norm of the gradient")
    add("--ema_decay", type=common.fraction, default=defaults.ema_decay, help="of averaged weights, as 0.99; 0: none")
    add("--precision", choices=("fp32", "bf16", "fp16"), default=defaults.precision, help="bf16, fp16: mixed precision")
    add("--compile", action="store_true", help="torch.compile: a slow start, then faster steps on a GPU")
    add("--loss_weights", type=_weight, nargs="+", default=[], metavar="NAME=VALUE", help="change parts of the loss")
    add("--vgg_weights", type=Path, metavar="FILE", help="torchvision's vgg16, for the loss part 'perceptual'")
    add("--val_fraction", type=common.fraction, default=0.1, help="part of each folder's pairs kept for validation")
    add("--val_dataset_path", type=Path, help="pairs for validation, in place of --val_fraction")
    add("--val_precomputed_masks_dir", type=Path, help="their mask tree (None: the first --precomputed_masks_dir)")
    add("--val_metrics", nargs="+", default=list(VAL_METRICS), metavar="NAME", help="each epoch; also 'all', 'none'")
    add("--seed", type=common.natural_int, default=defaults.seed, help="of weights, order and crops")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    add("--num_workers", type=common.natural_int, help="processes that make samples (None: 0 on a CPU)")
    add("--skip_bad", action="store_true", help="read all images first, leave out pairs that cannot be used, list them")
    add("--max_steps", type=common.positive_int, help="stop after so many steps (None: after --epochs)")
    group = parser.add_argument_group("output")
    add = group.add_argument
    add("--output_dir", type=Path, default=Path("models"), help="for best.pth, latest.pth and model_epoch{N}.pth")
    add("--log_dir", type=Path, help="for train_log.csv and TensorBoard's files (None: --output_dir)")
    add("--save_interval", type=common.positive_int, default=defaults.save_interval, help="epochs between checkpoints")
    add(
        "--resume",
        nargs="?",
        const=common.AUTO,
        metavar="PATH",
        help="go on from a checkpoint (auto: latest.pth, if any)",
    )
    add("--report", action="store_true", help=f"write LOG_DIR/{REPORT_FOLDER}/{INDEX}: curves, and samples by epoch")
    parser.add_config_option()
    add("--dry_run", action="store_true", help="check everything, print the plan, write nothing")
    return parser


def _weight(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in LOSS_PARTS:
        raise argparse.ArgumentTypeError(f"'{text}': known are {', '.join(f'{key}=VALUE' for key in LOSS_PARTS)}")
    return name, common.not_negative_float(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    return common.run(build_parser(), lambda options: _train(options, given), given)


@dataclasses.dataclass(frozen=True)
class DataPart:
    """One folder of pairs and where their masks come from."""

    name: str  # begins the names of its samples where there are several parts
    found: PairSet
    plan: common.MaskPlan
    pairs: list[ImagePair]  # those of `found` that can be used
    images: str  # the options that name its images


def _train(options: argparse.Namespace, given: Sequence[str]) -> int:
    device = resolve_device(options.device)
    if not run_processes().is_main:
        logging.getLogger(thfuse_sam.__name__).setLevel(logging.WARNING)
    common.require_writable("--output_dir", options.output_dir)
    skipped: dict[str, str] = {}
    parts = _data_parts(options, skipped)
    splits = [split_pairs(part.pairs, _val_fraction(options), options.seed) for part in parts]
    train_parts = [dataclasses.replace(part, pairs=train) for part, (train, _) in zip(parts, splits, strict=True)]
    val_parts = [dataclasses.replace(part, pairs=val) for part, (_, val) in zip(parts, splits, strict=True) if val]
    if options.val_dataset_path is not None:
        val_parts = [_val_part(options, parts[0], skipped)]
    resume = common.checkpoint_to_resume(options.resume, options.output_dir / LATEST)
    modes = sorted({part.plan.mode for part in parts})
    settings = _settings(options, device, live="live" in modes)
    require_precision(settings.precision, device)
    weights = DEFAULT_WEIGHTS | dict(options.loss_weights)
    resolved = {
        **common.plain_options(options),
        "ir_dir": ", ".join(str(part.found.ir_dir) for part in parts),
        "vi_dir": ", ".join(str(part.found.vi_dir) for part in parts),
        "masks": ", ".join(modes),
        "mask_trees": [mask_signature(part.plan.root) for part in parts if part.plan.root is not None],
        "loss_weights": weights,
        "device": str(device),
        "resume": None if resume is None else str(resume),
        **dataclasses.asdict(settings),
    }
    counts = f"{_count(train_parts)} pairs to train on, {_count(val_parts)} to validate on"
    loss = FusionLoss(weights, None if options.vgg_weights is None else load_perceptual_loss(options.vgg_weights))
    set_seed(settings.seed)
    network = build_network(options.network)
    if options.dry_run:
        print(json.dumps({**resolved, "plan": counts}, indent=2))
        return 0
    log.info("%s; %s on %s", counts, options.network, device)
    for part in parts:
        common.warn_if_swapped(part.pairs)
        common.log_mask_plan(part.plan, part.pairs, part.images)
    sources = _Sources(options, device)
    task = FusionTask(
        network,
        options.network,
        loss,
        _dataset(train_parts, sources, crop_size=options.crop_size, augment=True, seed=settings.seed),
        _dataset(val_parts, sources, crop_size=options.crop_size) if val_parts else None,
        settings,
    )
    trainer = Trainer(task, device=device, output_dir=options.output_dir, log_dir=options.log_dir, options=resolved)
    if resume is not None:
        trainer.resume(resume)
    if options.report:
        require_replaceable((options.log_dir or options.output_dir) / REPORT_FOLDER)
    make_directory(options.output_dir)
    remove_abandoned(options.output_dir)
    result = trainer.run()
    if result.interrupted:
        command = f"{_launcher()} train.py {shlex.join(_without_resume(given))}"
        log.info("stopped after step %d; to go on: %s --resume %s", result.step, command, result.latest)
        return common.INTERRUPTED
    if options.report and run_processes().is_main:
        shown = (val_parts or train_parts)[0]
        folder = (options.log_dir or options.output_dir) / REPORT_FOLDER
        page = write_training_report(
            folder,
            folder.parent / LOG_NAME,
            run_facts(
                shlex.join(["python", "train.py", *given]),
                device,
                _report_details(options, parts, network, counts, result.latest),
            ),
            checkpoints=list(options.output_dir.glob("model_epoch*.pth")),
            pairs=shown.pairs,
            masks=sources.of(shown),
            device=device,
        )
        log.info("report: open %s in a browser", page)
    last = options.output_dir / task.kept_file(result.epoch)
    log.info(
        "done after %d steps, %d whole epochs: %s", result.step, result.epoch, last if last.exists() else result.latest
    )
    for name, reason in skipped.items():
        log.warning("skipped %s: %s", name, reason)
    return 0


def _data_parts(options: argparse.Namespace, skipped: dict[str, str]) -> list[DataPart]:
    """The data to train on, checked; with `--skip_bad`, what cannot be used goes into `skipped`."""
    paths: list[Path | None] = options.dataset_path or [None]
    trees: list[Path | None] = options.precomputed_masks_dir or [None]
    if len(paths) > 1 and (options.ir_dir or options.vi_dir):
        raise UsageError("--ir_dir and --vi_dir are given beside several --dataset_path; give one or the other")
    if len(trees) not in (1, len(paths)):
        raise UsageError(
            f"--precomputed_masks_dir names {len(trees)} trees for {len(paths)} --dataset_path; "
            "give one for all, or one for each in the same order"
        )
    names = [path.resolve().name if path is not None else "" for path in paths]
    parts = []
    for index, path in enumerate(paths):
        alone = argparse.Namespace(**{**vars(options), "dataset_path": path})
        folder = common.resolve_dataset_path(alone, SAMPLE)
        found = find_pairs(folder, ir_dir=options.ir_dir, vi_dir=options.vi_dir)
        name = names[index] if names.count(names[index]) == 1 else f"{names[index]}_{index + 1}"
        plan = _mask_plan(options, trees[index if len(trees) > 1 else 0])
        usable = _usable_pairs(found, plan, options.skip_bad, skipped)
        parts.append(DataPart(name, found, plan, usable, common.pair_arguments(options, folder)))
    return parts


def _val_part(options: argparse.Namespace, first: DataPart, skipped: dict[str, str]) -> DataPart:
    found = find_pairs(options.val_dataset_path)
    tree = options.val_precomputed_masks_dir
    plan = first.plan if tree is None else _mask_plan(options, tree)
    usable = _usable_pairs(found, plan, options.skip_bad, skipped)
    return DataPart("val", found, plan, usable, common.pair_arguments(options, options.val_dataset_path))


def _mask_plan(options: argparse.Namespace, tree: Path | None) -> common.MaskPlan:
    return common.plan_masks(argparse.Namespace(**{**vars(options), "precomputed_masks_dir": tree}))


def _usable_pairs(found: PairSet, plan: common.MaskPlan, skip_bad: bool, skipped: dict[str, str]) -> list[ImagePair]:
    """The pairs of `found` that can be used. Without `skip_bad` that has to be all of them."""
    if not skip_bad:
        require_partners(found)
        require_usable(found.pairs)
    bad = unusable_pairs(found.pairs, read_pair) if skip_bad else {}
    mismatches = {} if plan.root is None else mask_mismatches(found.pairs, plan.root)
    if mismatches and not skip_bad:
        raise MaskReadError(next(iter(mismatches.values()))[0])
    pairs = [pair for pair in found.pairs if pair.name not in bad]
    if not pairs:
        raise PairError(f"no pair of {found.ir_dir} and {found.vi_dir} can be used, such as {next(iter(bad.values()))}")
    if skip_bad:
        skipped |= {str(path): "no partner" for path in (*found.unpaired_ir, *found.unpaired_vi)}
        skipped |= bad
        skipped |= {f"the mask of {name}": "; ".join(lines) for name, lines in mismatches.items()}
    return pairs


class _Sources:
    """The mask sources of the parts; a SAM is built once for all of them."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self._options, self._device = options, device
        self._made: dict[object, MaskSource] = {}

    def of(self, part: DataPart) -> MaskSource:
        # A mask tree is read with the folders of the images in view.
        key = "live" if part.plan.mode == "live" else (part.plan.root, part.found.ir_dir, part.found.vi_dir)
        if key not in self._made:
            self._made[key] = common.build_mask_source(part.plan, self._options, self._device, part.found)
        return self._made[key]


def _dataset(
    parts: Sequence[DataPart], sources: _Sources, *, crop_size: int, augment: bool = False, seed: int = 0
) -> FusionDataset | MixedPairs:
    # Parts with one seed would draw the same crops for the same indices.
    made = {
        part.name: FusionDataset(
            part.pairs, sources.of(part), crop_size=crop_size, augment=augment, seed=seed + 1_000_003 * index
        )
        for index, part in enumerate(parts)
    }
    return MixedPairs(made) if len(made) > 1 else next(iter(made.values()))


def _count(parts: Sequence[DataPart]) -> int:
    return sum(len(part.pairs) for part in parts)


def _val_fraction(options: argparse.Namespace) -> float:
    return 0.0 if options.val_dataset_path is not None else float(options.val_fraction)


def _launcher() -> str:
    processes = run_processes()
    return f"torchrun --nproc_per_node={processes.local_count}" if processes.count > 1 else "python"


def _report_details(
    options: argparse.Namespace, parts: Sequence[DataPart], network: torch.nn.Module, counts: str, latest: Path
) -> dict[str, str]:
    parameters = sum(weight.numel() for weight in network.parameters())
    return {
        "network": f"{options.network}, {parameters:,} parameters",
        "weights": f"{latest}, SHA-256 {file_sha256(latest)}",
        "masks": "; ".join(
            f"{plan.mode}; {mask_signature(plan.root) if plan.root is not None else plan.reason}"
            for plan in (part.plan for part in parts)
        ),
        "pairs": counts,
    }


def _settings(options: argparse.Namespace, device: torch.device, live: bool) -> FusionSettings:
    values = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(FusionSettings)
        if hasattr(options, field.name)
    }
    if options.num_workers is None:
        values["num_workers"] = default_num_workers(device)
    if live:
        values["num_workers"] = 0  # SAM is not to be copied into every worker
    values["val_metrics"] = _val_metrics(options.val_metrics)
    return FusionSettings(**values)


def _val_metrics(names: Sequence[str]) -> tuple[str, ...]:
    if list(names) in (["all"], ["none"]):
        return tuple(METRICS) if names[0] == "all" else ()
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise UsageError(f"--val_metrics {unknown[0]}: unknown; use some of {', '.join(METRICS)}, or 'all' or 'none'")
    return tuple(names)


def _without_resume(given: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skip_value = False
    for argument in given:
        is_value = skip_value and not argument.startswith("-")
        skip_value = argument == "--resume"
        if not (skip_value or is_value or argument.startswith("--resume=")):
            kept.append(argument)
    return kept
