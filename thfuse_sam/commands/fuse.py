"""Fusing pairs with a trained network, and writing the network as ONNX, according to `FuseOptions`."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thfuse_sam.align.placement import Placer
from thfuse_sam.commands.align import build_placer
from thfuse_sam.commands.infrared import infrared_reading, range_of_tree, trained_range
from thfuse_sam.commands.inputs import (
    MaskChoice,
    build_mask_source,
    choose_masks,
    find_folder_pairs,
    log_mask_choice,
    pair_folder,
    require_usable_pairs,
    targets_of_pairs,
    warn_if_odd,
    warn_of_older,
)
from thfuse_sam.cores import keep_freed_memory
from thfuse_sam.datasets.listed import pairs_of_files, pairs_of_table
from thfuse_sam.datasets.pairs import PairSet
from thfuse_sam.datasets.targets import TargetSet
from thfuse_sam.devices import resolve_device
from thfuse_sam.errors import CheckpointError, OptionError, PairError, UsageError, counted, first_of, naming
from thfuse_sam.files import VIDEO_SUFFIXES, file_sha256, make_directory, remove_abandoned, require_writable
from thfuse_sam.fusion.emphasis import EMPHASIS_FILE, EmphasisPlan, pairs_with_newer_masks, read_emphasis
from thfuse_sam.fusion.fusing import FusedPair, FuseReport, fuse_pairs, is_image_file, require_outputs_apart
from thfuse_sam.fusion.loading import load_network
from thfuse_sam.fusion.misalignment import MisalignmentWatch
from thfuse_sam.fusion.onnx import export_onnx
from thfuse_sam.fusion.temperature import TemperatureKeeper, temperature_path
from thfuse_sam.images import IMAGE_SUFFIXES
from thfuse_sam.metrics import fusion_metrics
from thfuse_sam.models import FusionNetwork, count_parameters
from thfuse_sam.options.align import VISIBLE
from thfuse_sam.options.fuse import FuseOptions
from thfuse_sam.options.shared import SHIPPED_MODEL, TEST_SAMPLE, ModelOptions
from thfuse_sam.report.compare import METRICS_FILE, Comparison, Method, find_methods
from thfuse_sam.report.fusion import FusionReport
from thfuse_sam.report.measures import comparison_text, write_comparison, write_metrics, write_targets
from thfuse_sam.report.page import INDEX, REPORT_FOLDER, replacing
from thfuse_sam.report.run_facts import mask_signature, run_facts
from thfuse_sam.shipped import find_network, shipped_root

log = logging.getLogger(__name__)


def fuse(options: FuseOptions, command: str = "") -> FuseReport:
    """Fuse the pairs. `command` is the typed command line, for the report. Raises ThFuseError."""
    run = _prepare(options)
    options = run.options
    pairs = run.pairs.pairs
    keep_freed_memory()
    make_directory(run.folder_of_output)
    if not is_image_file(options.output_dir):
        remove_abandoned(options.output_dir)
    log.info("%s; %s from %s on %s", counted(len(pairs), "pair"), run.network.name, run.model_path, run.device)
    log_mask_choice(run.masks, run.pairs)
    comparison = Comparison(run.network.name, run.methods, fusion_metrics, run.targets)
    keeper = TemperatureKeeper()
    report = _fuse(run, comparison, keeper, command)
    _write_tables(run, report, comparison)
    report.unpaired = run.pairs.unpaired
    for path in report.unpaired:
        log.warning("skipped %s: no partner", path)
    for name, lines in run.mismatches.items():
        log.warning("%s: fused without mask: %s", name, "; ".join(lines))
    if not is_image_file(options.output_dir):
        _mention_older(run, report, keeper.written)
    return report


def plan_fusion(options: FuseOptions) -> dict[str, Any]:
    """The options and counts of what `fuse` would do; nothing is written. Raises ThFuseError."""
    run = _prepare(options)
    return {
        **options.plain(),
        "ir_dir": str(run.pairs.ir_dir),
        "vi_dir": str(run.pairs.vi_dir),
        "model_path": str(run.model_path),
        "network": run.network.name,
        "device": str(run.device),
        "masks": run.masks.mode,
        "plan": f"{counted(len(run.pairs.pairs), 'pair')} to fuse",
    }


def export_network(options: FuseOptions, path: Path) -> None:
    """Write the network as ONNX to `path`, and check it. Raises ThFuseError."""
    _, network, _ = open_network(options)
    with naming("export_onnx", path):
        difference = export_onnx(network, path)
    log.info("%s written to %s; onnxruntime differs from it by %.1e at most", network.name, path, difference)


def open_network(options: ModelOptions, shipped: Path = SHIPPED_MODEL) -> tuple[Path, FusionNetwork, dict[str, Any]]:
    """The network of `options`: its file, the network, and the options of its training. Raises CheckpointError."""
    path = options.model_path
    if path is None:
        path = shipped_root() / shipped
        if not path.is_file():
            raise CheckpointError(
                f"`model_path` is not given and {path} is missing; "
                "train a network with `train()` and give its checkpoint"
            )
    with naming("model_path", options.model_path):
        path = find_network(path)
        return path, *load_network(path)


@dataclass(frozen=True)
class _PreparedFusion:
    """Everything that fusing needs, checked and opened before anything is written."""

    options: FuseOptions
    device: torch.device
    pairs: PairSet
    masks: MaskChoice
    mismatches: Mapping[str, list[str]]  # pair -> what is wrong with its masks
    model_path: Path
    network: FusionNetwork
    methods: list[Method]  # to compare with
    targets: TargetSet | None
    placer: Placer | None  # None: pairs are fused as they are
    emphasis: EmphasisPlan

    @property
    def folder_of_output(self) -> Path:
        path = self.options.output_dir
        return path.parent if is_image_file(path) else path

    @property
    def measures(self) -> bool:
        return self.options.metrics or bool(self.options.report or self.methods) or self.targets is not None


def _prepare(options: FuseOptions) -> _PreparedFusion:
    """Check the options, find pairs and masks, and open the network; write nothing. Raises ThFuseError."""
    if options.report is None:
        options = dataclasses.replace(options, report=not is_image_file(options.output_dir))
    device = resolve_device(options.device)
    placer = build_placer(options)
    _require_measurable(options)
    if options.is_listed:
        _require_image_or_folder(options.output_dir)
    masks = choose_masks(options.precomputed_masks_dir, options)
    model_path, network, training = open_network(options)
    kept = {
        **trained_range(model_path, training),
        f"as the masks in {masks.root} were made": range_of_tree(masks.root),
    }
    pairs = _find_pairs(options)
    pairs = pairs.read_as(infrared_reading(options, [pair.ir for pair in pairs.pairs], kept, masks.root))
    output = options.output_dir
    require_writable("output_dir", output.parent if is_image_file(output) else output)
    require_outputs_apart(pairs.pairs, options.output_dir, temperature_path if options.keep_temperature else None)
    mismatches = require_usable_pairs(pairs, masks, skip_bad=options.skip_bad, placer=placer)
    warn_if_odd(pairs.pairs)
    emphasis = _emphasis(options, masks, pairs)
    methods = find_methods(options.compare, pairs.pairs, [network.name])
    targets = None if options.targets is None else targets_of_pairs(options.targets, pairs.pairs)
    return _PreparedFusion(
        options, device, pairs, masks, mismatches, model_path, network, methods, targets, placer, emphasis
    )


def _emphasis(options: FuseOptions, masks: MaskChoice, pairs: PairSet) -> EmphasisPlan:
    """What is wanted of segments, in general and beside their masks. Raises UsageError."""
    if options.emphasis is not None and masks.mode == "none":
        reason = "is about segments, and there are no masks; give `precomputed_masks_dir` or add `use_sam`"
        raise OptionError("emphasis", options.emphasis, reason)
    chosen = {} if masks.root is None else read_emphasis(masks.root)
    own = {pair.name: chosen[pair.name] for pair in pairs.pairs if pair.name in chosen}
    if others := sorted(chosen.keys() - own.keys()):
        log.warning("%s: no pair of this run is called %s", EMPHASIS_FILE, first_of(others, 3))
    if masks.root is not None and own and (newer := pairs_with_newer_masks(masks.root, own)):
        log.warning(
            "%s: masks of %s are newer than it: its labels may be of other segments now; check them, save it again",
            EMPHASIS_FILE,
            first_of(newer, 3),
        )
    if own:
        log.info("%s: choices for segments of %s", EMPHASIS_FILE, counted(len(own), "pair"))
    return EmphasisPlan(options.emphasis, own)


def _find_pairs(options: FuseOptions) -> PairSet:
    """The pairs that are named one by one, else those of folders. Raises PairError and OptionError."""
    if not options.is_listed:
        found = find_folder_pairs(pair_folder(options.dataset_path, options, TEST_SAMPLE), options)
    elif options.dataset_path or options.ir_dir or options.vi_dir or (options.pairs and (options.ir or options.vi)):
        raise UsageError("pairs are named twice; give `ir` and `vi`, or `pairs`, or folders")
    elif options.pair_pattern is not None:
        reason = "is for folders; leave it out, or name the pairs of files in a table, `pairs`"
        raise OptionError("pair_pattern", " ".join(options.pair_pattern), reason)
    else:
        if options.pairs is None:
            found = pairs_of_files(options.ir, options.vi)
        else:
            found = pairs_of_table(options.pairs, skip_bad=options.skip_bad)
        one = next((pair for pair in found.pairs if pair.ir.resolve() == pair.vi.resolve()), None)
        if one is not None and options.ir_channel is None:
            raise PairError(
                f"{one.ir}: is given as the infrared and as the visible image of a pair; give two files, or "
                "`ir_channel` if it holds both"
            )
    if is_image_file(options.output_dir) and len(found.pairs) != 1:
        raise OptionError("output_dir", options.output_dir, f"is one file for {len(found.pairs)} pairs; give a folder")
    return found


def _require_image_or_folder(output: Path) -> None:
    """Raise OptionError for a file of an unknown kind, which would become a folder of that name."""
    suffix = output.suffix.lower()
    if suffix[1:].isalpha() and suffix not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and not output.is_dir():
        raise OptionError(
            "output_dir",
            output,
            f"{suffix} is no suffix of images ({', '.join(IMAGE_SUFFIXES)}) or videos ({', '.join(VIDEO_SUFFIXES)}); "
            "give one of these, or a folder without suffix",
        )


def _require_measurable(options: FuseOptions) -> None:
    """Raise OptionError where labels or other methods' images would not lie on placed images."""
    if options.targets is not None and options.places_images:
        raise OptionError(
            "targets", options.targets, "labels lie on infrared images as they are stored; leave `align` and `rig` out"
        )
    if options.compare and options.size != VISIBLE:
        raise OptionError(
            "size", options.size, "`compare` needs fused images of the visible images' size; leave it out"
        )


def _fuse(run: _PreparedFusion, comparison: Comparison, keeper: TemperatureKeeper, command: str) -> FuseReport:
    options = run.options
    observers: list[Callable[[FusedPair], None]] = [comparison.add] if run.measures else []
    watch = MisalignmentWatch()
    observers.append(watch.add)
    if options.keep_temperature:
        observers.append(keeper.add)
    with contextlib.ExitStack() as stack:
        page = None
        if options.report:
            page = FusionReport(stack.enter_context(replacing(run.folder_of_output / REPORT_FOLDER)), run.methods)
            observers.append(page.add)
        report = fuse_pairs(
            run.network,
            run.pairs.pairs,
            build_mask_source(run.masks, options, run.device, run.pairs),
            options.output_dir,
            device=run.device,
            gray=options.gray,
            metrics=fusion_metrics if run.measures else None,
            skip_bad=options.skip_bad,
            observers=observers,
            settings=options,
            placer=run.placer,
            emphasis=run.emphasis,
        )
        watch.warn(len(report.fused))
        keeper.warn()
        if page is not None:
            page.finish(
                run_facts(command, run.device, _details(run, report)), comparison, report.failures, watch.offsets
            )
    return report


def _details(run: _PreparedFusion, report: FuseReport) -> dict[str, str]:
    counts = "" if run.masks.mode == "none" else f" ({report.masks_found} found, {report.placeholders} missing)"
    made_by = mask_signature(run.masks.root) if run.masks.root is not None else run.masks.reason
    chosen = f"; {EMPHASIS_FILE} says what single segments show" if run.emphasis.chosen else ""
    return {
        "network": f"{run.network.name}, {count_parameters(run.network):,} parameters",
        "weights": f"{run.model_path}, SHA-256 {file_sha256(run.model_path)}",
        "masks": f"{run.masks.mode}{counts}; {made_by}{chosen}",
        "pairs": f"{len(report.fused)} of {run.pairs.ir_dir} and {run.pairs.vi_dir}, fused in {report.seconds:.1f} s",
    }


def _write_tables(run: _PreparedFusion, report: FuseReport, comparison: Comparison) -> None:
    """Write the tables of metrics, and log the means and what was fused."""
    options = run.options
    if report.metrics:
        _write_measures(run, comparison)
    if options.report:
        log.info("report: open %s in a browser", run.folder_of_output / REPORT_FOLDER / INDEX)
    masks = f", masks found {report.masks_found}, {counted(report.placeholders, 'image')} without a mask"
    log.info(
        "%s fused to %s in %.1f s%s",
        counted(len(report.fused), "image"),
        options.output_dir,
        report.seconds,
        "" if run.masks.mode == "none" else masks,
    )
    for name, reason in report.failures.items():
        log.error("%s: not fused: %s", name, reason)


def _write_measures(run: _PreparedFusion, comparison: Comparison) -> None:
    """Write metrics, comparison and target measures as far as they are asked for, and log the means."""
    options = run.options
    table = comparison.table()
    if options.metrics:
        own = {name: values[0] for name, values in comparison.values.items() if values[0] is not None}
        targets = comparison.target_rows() if run.targets else None
        write_metrics(run.folder_of_output, own, str(run.model_path), targets, run.pairs.reading)
    if options.compare:
        write_comparison(run.folder_of_output, table)
    if run.targets:
        write_targets(run.folder_of_output, {row.name: row.targets for row in table})
    if options.compare or run.targets:
        log.info("%s", comparison_text(comparison))
    else:
        values = ", ".join(f"{key} {value:.3f}" for key, value in table[0].mean.items() if math.isfinite(value))
        log.info("mean of %d: %s", comparison.shared_pairs, values)


def _mention_older(run: _PreparedFusion, report: FuseReport, temperatures: list[Path]) -> None:
    """Warn of results beside those of this run that are neither its own nor its inputs."""
    options, measured = run.options, bool(report.metrics)
    is_own = {
        "metrics.csv": measured and options.metrics,
        METRICS_FILE: measured and options.metrics,
        "comparison.csv": measured and bool(options.compare),
        "targets.csv": measured and run.targets is not None,
        f"{REPORT_FOLDER}/{INDEX}": bool(options.report),
    }
    results = [path for name, own in is_own.items() if not own and (path := options.output_dir / name).exists()]
    folders = sorted({path.parent for path in report.fused})
    images = [path for folder in folders for path in sorted(folder.iterdir()) if is_image_file(path)]
    warn_of_older(images, (*run.pairs.files, *report.fused, *temperatures), results=results)
