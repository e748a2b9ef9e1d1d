"""`train.py`: options -> objects -> `engine.train_fusion`."""

import argparse
import dataclasses
import functools
import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from thfuse_sam.cli import common
from thfuse_sam.datasets.fusion import FusionDataset
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.devices import resolve_device
from thfuse_sam.engine.fuse import require_usable
from thfuse_sam.engine.loop import set_seed
from thfuse_sam.engine.train_fusion import LATEST, FusionTrainer, TrainingSettings, epoch_file, split_pairs
from thfuse_sam.errors import UsageError
from thfuse_sam.files import make_directory
from thfuse_sam.losses import DEFAULT_WEIGHTS, FusionLoss
from thfuse_sam.models import DEFAULT_NETWORK, NETWORKS, build_network

SAMPLE = "datasets/sample/train"
AUTO = "auto"  # value of --resume: latest.pth in --output_dir where there is one

log = logging.getLogger(__name__)


def build_parser() -> common.CommandParser:
    parser = common.CommandParser("train.py", "Train a fusion network on pairs of infrared and visible images.")
    common.add_pair_options(parser, SAMPLE)
    common.add_mask_options(parser)
    defaults = TrainingSettings()
    group = parser.add_argument_group("training")
    add = group.add_argument
    add("--network", choices=sorted(NETWORKS), default=DEFAULT_NETWORK, help="which network")
    add("--epochs", type=common.positive_int, default=defaults.epochs, help="passes over the pairs")
    add("--batch_size", type=common.positive_int, default=defaults.batch_size, help="crops in a step")
    add("--crop_size", type=common.positive_int, default=128, help="side of the crops, pixels")
    add("--lr", type=common.positive_float, default=defaults.lr, help="learning rate at its peak")
    add("--loss_weights", type=_weight, nargs="+", default=[], metavar="NAME=VALUE", help="change parts of the loss")
    add("--val_fraction", type=common.fraction, default=0.1, help="part of the pairs kept for validation")
    add("--val_dataset_path", type=Path, help="pairs for validation, in place of --val_fraction")
    add("--seed", type=common.natural_int, default=defaults.seed, help="of weights, order and crops")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    add("--num_workers", type=common.natural_int, help="processes that make samples (None: 0 on a CPU)")
    add("--max_steps", type=common.positive_int, help="stop after so many steps (None: after --epochs)")
    group = parser.add_argument_group("output")
    add = group.add_argument
    add("--output_dir", type=Path, default=Path("models"), help="for best.pth, latest.pth and model_epoch{N}.pth")
    add("--log_dir", type=Path, help="for train_log.csv and TensorBoard's files (None: --output_dir)")
    add("--save_interval", type=common.positive_int, default=defaults.save_interval, help="epochs between checkpoints")
    add("--resume", nargs="?", const=AUTO, metavar="PATH", help="go on from a checkpoint (auto: latest.pth, if any)")
    parser.add_config_option()
    add("--dry_run", action="store_true", help="check everything, print the plan, write nothing")
    return parser


def _weight(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in DEFAULT_WEIGHTS:
        raise argparse.ArgumentTypeError(f"'{text}': known are {', '.join(f'{key}=VALUE' for key in DEFAULT_WEIGHTS)}")
    return name, common.not_negative_float(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    return common.run(build_parser(), lambda options: _train(options, given), given)


def _train(options: argparse.Namespace, given: Sequence[str]) -> int:
    device = resolve_device(options.device)
    dataset_path = common.resolve_dataset_path(options, SAMPLE)
    pairs = find_pairs(dataset_path, ir_dir=options.ir_dir, vi_dir=options.vi_dir)
    other = find_pairs(options.val_dataset_path) if options.val_dataset_path is not None else None
    train_pairs, val_pairs = split_pairs(pairs.pairs, 0.0 if other else options.val_fraction, options.seed)
    val_pairs = other.pairs if other else val_pairs
    require_usable([*train_pairs, *val_pairs])
    resume = _checkpoint_to_resume(options)
    plan = common.plan_masks(options)
    settings = _settings(options, device.type, plan.mode)
    weights = DEFAULT_WEIGHTS | dict(options.loss_weights)
    resolved = {
        **{key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
        **{"ir_dir": str(pairs.ir_dir), "vi_dir": str(pairs.vi_dir), "masks": plan.mode, "loss_weights": weights},
        **{"device": str(device), "resume": None if resume is None else str(resume), **dataclasses.asdict(settings)},
    }
    counts = f"{len(train_pairs)} pairs to train on, {len(val_pairs)} to validate on"
    loss = FusionLoss(weights)
    set_seed(settings.seed)
    network = build_network(options.network)
    if options.dry_run:
        print(json.dumps({**resolved, "plan": counts}, indent=2))
        return 0
    log.info("%s; %s on %s", counts, options.network, device)
    common.log_mask_plan(plan)
    build = functools.partial(common.build_mask_source, plan, options, device)
    masks = build(pairs)
    # A mask tree is read with the folders of the images in view; a SAM is built once.
    val_masks = masks if other is None or plan.mode != "precomputed" else build(other)
    trainer = FusionTrainer(
        network,
        options.network,
        loss,
        FusionDataset(train_pairs, masks, crop_size=options.crop_size, augment=True, seed=settings.seed),
        FusionDataset(val_pairs, val_masks, crop_size=options.crop_size) if val_pairs else None,
        settings,
        device=device,
        output_dir=options.output_dir,
        log_dir=options.log_dir,
        options=resolved,
    )
    if resume is not None:
        trainer.resume(resume)
    make_directory(options.output_dir)
    result = trainer.run()
    if result.interrupted:
        command = shlex.join(_without_resume(given))
        log.info("stopped after step %d; to go on: python train.py %s --resume %s", result.step, command, result.latest)
        return common.INTERRUPTED
    last = options.output_dir / epoch_file(result.epoch)
    log.info("done after %d epochs, %d steps: %s", result.epoch, result.step, last if last.exists() else result.latest)
    return 0


def _settings(options: argparse.Namespace, device_type: str, mask_mode: str) -> TrainingSettings:
    values = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(TrainingSettings)
        if hasattr(options, field.name)
    }
    if options.num_workers is None:
        # On a CPU the workers would take the cores from the training.
        values["num_workers"] = min(8, max((os.cpu_count() or 1) - 1, 0)) if device_type == "cuda" else 0
    if mask_mode == "live":
        values["num_workers"] = 0  # SAM is not to be copied into every worker
    return TrainingSettings(**values)


def _checkpoint_to_resume(options: argparse.Namespace) -> Path | None:
    if options.resume is None:
        return None
    latest: Path = options.output_dir / LATEST
    if options.resume == AUTO:
        return latest if latest.exists() else None
    if not Path(options.resume).is_file():
        raise UsageError(f"--resume {options.resume}: no such file; give a checkpoint, or '{AUTO}' for {latest} if any")
    return Path(options.resume)


def _without_resume(given: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skip_value = False
    for argument in given:
        is_value = skip_value and not argument.startswith("-")
        skip_value = argument == "--resume"
        if not (skip_value or is_value or argument.startswith("--resume=")):
            kept.append(argument)
    return kept
