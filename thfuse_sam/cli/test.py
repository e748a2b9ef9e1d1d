"""`test.py`: options -> objects -> `fusion.fusing`."""

import argparse
import contextlib
import json
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from thfuse_sam.cli import common
from thfuse_sam.datasets.fusion import mask_mismatches
from thfuse_sam.datasets.pairs import find_pairs, require_partners
from thfuse_sam.devices import resolve_device
from thfuse_sam.errors import CheckpointError, MaskReadError
from thfuse_sam.files import file_sha256, make_directory, remove_abandoned
from thfuse_sam.fusion import fusing as fuse
from thfuse_sam.fusion.inference import InferenceSettings
from thfuse_sam.fusion.metric_files import write_metrics
from thfuse_sam.fusion.onnx import export_onnx
from thfuse_sam.fusion.opening import load_network
from thfuse_sam.metrics import METRICS, fusion_metrics
from thfuse_sam.report.compare import COMPARISON_CSV, Comparison, find_methods, write_comparison
from thfuse_sam.report.fusion import FusionReport
from thfuse_sam.report.page import INDEX, REPORT_FOLDER, replacing
from thfuse_sam.report.run_facts import mask_signature, run_facts

SAMPLE = "datasets/sample/test"
SHIPPED_MODEL = "models/thfuse_lite.safetensors"

log = logging.getLogger(__name__)


def build_parser() -> common.CommandParser:
    parser = common.CommandParser("test.py", "Fuse pairs of infrared and visible images with a trained network.")
    parser.add_argument(
        "--model_path",
        type=Path,
        help=f"checkpoint of train.py (None: the shipped {SHIPPED_MODEL})",
    )
    common.add_pair_options(parser, SAMPLE)
    common.add_mask_options(parser)
    parser.add_argument("--output_dir", type=Path, default=Path("results"), help="for the fused images")
    parser.add_argument("--gray", action="store_true", help="write the fused luma, without the visible image's colour")
    parser.add_argument("--metrics", action="store_true", help="also write metrics.csv and metrics.json")
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="[NAME=]DIR",
        help="fused images of other methods, under the pairs' names: the same metrics, and mean ranks",
    )
    parser.add_argument(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"write OUTPUT_DIR/{REPORT_FOLDER}/{INDEX}: the pairs, their metrics and masks as a page",
    )
    defaults = InferenceSettings()
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), default=defaults.precision, help="bf16, fp16: half precision"
    )
    parser.add_argument(
        "--batch_size", type=common.positive_int, default=defaults.batch_size, help="pairs of one size fused together"
    )
    parser.add_argument(
        "--tile_size",
        type=common.positive_int,
        default=defaults.tile_size,
        help="pixels a side; images of more than four tiles' area are fused in tiles",
    )
    parser.add_argument("--export_onnx", type=Path, metavar="FILE", help="write the network as ONNX, check it, stop")
    parser.add_argument(
        "--onnx_size",
        type=common.positive_int,
        nargs=2,
        default=[480, 640],
        metavar=("HEIGHT", "WIDTH"),
        help="of the images that the ONNX file takes, pixels",
    )
    parser.add_argument("--skip_bad", action="store_true", help="go on after a pair that cannot be fused, list it")
    parser.add_argument("--dry_run", action="store_true", help="check everything, print the plan, write nothing")
    parser.add_config_option()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    return common.run(build_parser(), lambda options: _test(options, given), given)


def _test(options: argparse.Namespace, given: Sequence[str]) -> int:
    if options.export_onnx is not None:
        return _export(options)
    device = resolve_device(options.device)
    dataset_path = common.resolve_dataset_path(options, SAMPLE)
    pairs = find_pairs(dataset_path, ir_dir=options.ir_dir, vi_dir=options.vi_dir)
    common.require_writable("--output_dir", options.output_dir)
    fuse.require_outputs_apart(pairs.pairs, options.output_dir)
    if not options.skip_bad:
        require_partners(pairs)
        fuse.require_usable(pairs.pairs)
    common.warn_if_swapped(pairs.pairs)
    plan = common.plan_masks(options)
    mismatches = {} if plan.root is None else mask_mismatches(pairs.pairs, plan.root)
    if mismatches and not options.skip_bad:
        raise MaskReadError(next(iter(mismatches.values()))[0])
    model_path = _model_path(options)
    network, spec = load_network(model_path)
    others = find_methods(options.compare, pairs.pairs, [spec.name])
    if options.dry_run:
        resolved = {
            **common.plain_options(options),
            "ir_dir": str(pairs.ir_dir),
            "vi_dir": str(pairs.vi_dir),
            "model_path": str(model_path),
            "network": spec.name,
            "device": str(device),
            "masks": plan.mode,
            "plan": f"{len(pairs.pairs)} pairs to fuse",
        }
        print(json.dumps(resolved, indent=2))
        return 0
    make_directory(options.output_dir)
    remove_abandoned(options.output_dir)
    log.info("%d pairs; %s from %s on %s", len(pairs.pairs), spec.name, model_path, device)
    common.log_mask_plan(plan, pairs.pairs, common.pair_arguments(options, dataset_path))
    measured = options.metrics or options.report or bool(others)
    comparison = Comparison(spec.name, others, fusion_metrics)
    observers: list[Callable[[fuse.FusedPair], None]] = [comparison.add] if measured else []
    with contextlib.ExitStack() as stack:
        page = None
        if options.report:
            page = FusionReport(stack.enter_context(replacing(options.output_dir / REPORT_FOLDER)), others)
            observers.append(page.add)
        report = fuse.fuse_pairs(
            network,
            pairs.pairs,
            common.build_mask_source(plan, options, device, pairs),
            options.output_dir,
            device=device,
            gray=options.gray,
            metrics=fusion_metrics if measured else None,
            skip_bad=options.skip_bad,
            observers=observers,
            settings=InferenceSettings(options.precision, options.batch_size, options.tile_size),
        )
        if page is not None:
            details = {
                "network": f"{spec.name}, {sum(weight.numel() for weight in network.parameters()):,} parameters",
                "weights": f"{model_path}, SHA-256 {file_sha256(model_path)}",
                "masks": _masks_fact(plan, report),
                "pairs": f"{len(report.fused)} of {pairs.ir_dir} and {pairs.vi_dir}, fused in {report.seconds:.1f} s",
            }
            page.finish(
                run_facts(shlex.join(["python", "test.py", *given]), device, details), comparison, report.failures
            )
    _report(options, plan, report, comparison, str(model_path))
    for path in (*pairs.unpaired_ir, *pairs.unpaired_vi):
        log.warning("skipped %s: no partner", path)
    for name, lines in mismatches.items():
        log.warning("%s: fused without mask: %s", name, "; ".join(lines))
    return 1 if report.failures or pairs.unpaired_ir or pairs.unpaired_vi else 0


def _export(options: argparse.Namespace) -> int:
    network, spec = load_network(_model_path(options))
    height, width = options.onnx_size
    difference = export_onnx(network, options.export_onnx, height, width)
    log.info(
        "%s for %dx%d pixels written to %s; onnxruntime differs from it by %.1e at most",
        spec.name,
        width,
        height,
        options.export_onnx,
        difference,
    )
    return 0


def _masks_fact(plan: common.MaskPlan, report: fuse.FuseReport) -> str:
    counts = f"{report.masks_found} found, {report.placeholders} missing"
    made_by = mask_signature(plan.root) if plan.root is not None else plan.reason
    return f"{plan.mode} ({counts}); {made_by}"


def _report(
    options: argparse.Namespace, plan: common.MaskPlan, report: fuse.FuseReport, comparison: Comparison, model: str
) -> None:
    """Write the tables and log what was done."""
    if report.metrics and options.metrics:
        write_metrics(options.output_dir, report.metrics, model)
    if report.metrics:
        table = comparison.table({key: metric.better for key, metric in METRICS.items()})
        if options.compare:
            write_comparison(options.output_dir / COMPARISON_CSV, table)
        for row in table:
            rank = f", {row.name} (mean rank {row.mean_rank:.2f})" if options.compare else ""
            values = ", ".join(f"{key} {value:.3f}" for key, value in row.mean.items())
            log.info("mean of %d%s: %s", comparison.shared_pairs, rank, values)
    if options.report:
        log.info("report: open %s in a browser", options.output_dir / REPORT_FOLDER / INDEX)
    log.info(
        "%d images fused to %s in %.1f s%s",
        len(report.fused),
        options.output_dir,
        report.seconds,
        "" if plan.mode == "none" else f", masks found {report.masks_found}, placeholders {report.placeholders}",
    )
    for name, reason in report.failures.items():
        log.error("%s: not fused: %s", name, reason)


def _model_path(options: argparse.Namespace) -> Path:
    if options.model_path is not None:
        return Path(options.model_path)
    shipped = common.checkout_root() / SHIPPED_MODEL
    if not shipped.is_file():
        raise CheckpointError(
            f"--model_path is not given and {shipped} is missing; train a network with train.py and give its checkpoint"
        )
    return shipped
