"""`test.py`: options -> objects -> `engine.fuse`."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from thfuse_sam.cli import common
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.devices import resolve_device
from thfuse_sam.engine import fuse
from thfuse_sam.engine.checkpoint import load_network
from thfuse_sam.errors import CheckpointError
from thfuse_sam.files import make_directory
from thfuse_sam.metrics import fusion_metrics

SAMPLE = "datasets/sample/test"
SHIPPED_MODEL = "models/thfuse_lite.safetensors"

log = logging.getLogger(__name__)


def build_parser() -> common.CommandParser:
    parser = common.CommandParser("test.py", "Fuse pairs of infrared and visible images with a trained network.")
    parser.add_argument("--model_path", type=Path, help=f"checkpoint of train.py (None: the shipped {SHIPPED_MODEL})")
    common.add_pair_options(parser, SAMPLE)
    common.add_mask_options(parser)
    parser.add_argument("--output_dir", type=Path, default=Path("results"), help="for the fused images")
    parser.add_argument("--gray", action="store_true", help="write the fused luma, without the visible image's colour")
    parser.add_argument("--metrics", action="store_true", help="also write metrics.csv and metrics.json")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--skip_bad", action="store_true", help="go on after a pair that cannot be fused, list it")
    parser.add_config_option()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return common.run(build_parser(), _test, argv)


def _test(options: argparse.Namespace) -> int:
    device = resolve_device(options.device)
    dataset_path = common.resolve_dataset_path(options, SAMPLE)
    pairs = find_pairs(dataset_path, ir_dir=options.ir_dir, vi_dir=options.vi_dir)
    fuse.require_outputs_apart(pairs.pairs, options.output_dir)
    if not options.skip_bad:
        fuse.require_usable(pairs.pairs)
    plan = common.plan_masks(options)
    model_path = _model_path(options)
    network, spec = load_network(model_path)
    make_directory(options.output_dir)
    log.info("%d pairs; %s from %s on %s", len(pairs.pairs), spec.name, model_path, device)
    common.log_mask_plan(plan)
    report = fuse.fuse_pairs(
        network,
        pairs.pairs,
        common.build_mask_source(plan, options, device, pairs),
        options.output_dir,
        device=device,
        gray=options.gray,
        metrics=fusion_metrics if options.metrics else None,
        skip_bad=options.skip_bad,
    )
    if report.metrics:
        mean = fuse.write_metrics(options.output_dir, report.metrics, str(model_path))
        log.info("mean of %d: %s", len(report.metrics), ", ".join(f"{key} {value:.3f}" for key, value in mean.items()))
    log.info(
        "%d images fused to %s in %.1f s, masks found %d, placeholders %d",
        len(report.fused),
        options.output_dir,
        report.seconds,
        report.masks_found,
        report.placeholders,
    )
    for name, reason in report.failures.items():
        log.error("%s: not fused: %s", name, reason)
    return 1 if report.failures else 0


def _model_path(options: argparse.Namespace) -> Path:
    if options.model_path is not None:
        return Path(options.model_path)
    shipped = common.checkout_root() / SHIPPED_MODEL
    if not shipped.is_file():
        raise CheckpointError(
            f"--model_path is not given and {shipped} is missing; train a network with train.py and give its checkpoint"
        )
    return shipped
