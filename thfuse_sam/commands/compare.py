"""Comparing the fused images of several methods of the same pairs, according to `CompareOptions`."""

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from thfuse_sam.commands.inputs import find_command_pairs, require_no_input_in, targets_of_pairs
from thfuse_sam.datasets.pair_checks import read_pair, unusable_pairs
from thfuse_sam.datasets.pairs import ImagePair, PairSet
from thfuse_sam.errors import ImageReadError, ImageSizeError, OptionError, UsageError, counted
from thfuse_sam.files import make_directory, require_writable
from thfuse_sam.fusion.colour import add_colour
from thfuse_sam.fusion.fusing import FusedPair
from thfuse_sam.fusion.programs import Program, run_program
from thfuse_sam.fusion.rules import RULES, fuse_by_rule
from thfuse_sam.images import luma, read_visible, write_image
from thfuse_sam.metrics import fusion_metrics
from thfuse_sam.options.compare import CompareOptions
from thfuse_sam.progress import progress_bar
from thfuse_sam.report.compare import Comparison, Method, find_methods, method_of
from thfuse_sam.report.fusion import FusionReport
from thfuse_sam.report.measures import write_comparison, write_targets
from thfuse_sam.report.page import INDEX, REPORT_FOLDER, replacing, require_replaceable
from thfuse_sam.report.run_facts import run_facts

log = logging.getLogger(__name__)


def compare(options: CompareOptions, command: str = "") -> Comparison:
    """Measure all methods and write tables and report. `command` is the typed command line. Raises ThFuseError."""
    if not options.methods and not options.run:
        raise OptionError("methods", "is not given", "name folders of fused images, or give `run`")
    programs = [Program.parse(text) for text in options.run]
    pairs = find_command_pairs(options.dataset_path, options)
    bad = unusable_pairs(pairs.pairs)
    usable = replace(pairs, pairs=[pair for pair in pairs.pairs if pair.name not in bad])
    if not usable.pairs:
        raise ImageSizeError(next(iter(bad.values())))
    rules = tuple(RULES) if options.rules else ()
    names = _require_apart([program.name for program in programs], rules)
    methods = find_methods(options.methods, usable.pairs, names, option="`methods`")
    fused = [path for method in methods for path in method.images.values()]
    require_no_input_in(options.output_dir, names, (*usable.files, *fused))
    if options.report:
        require_replaceable(options.output_dir / REPORT_FOLDER)
    targets = None if options.targets is None else targets_of_pairs(options.targets, usable.pairs)
    require_writable("output_dir", options.output_dir)
    make_directory(options.output_dir)
    if rules:
        log.info(
            "%s; measured beside the methods given: the rules %s", counted(len(usable.pairs), "pair"), ", ".join(rules)
        )
    methods += [_run(program, usable, options.output_dir / program.name) for program in programs]
    methods += [_fuse_by_rule(name, usable.pairs, options.output_dir / name) for name in rules]
    own = methods[0]
    comparison = Comparison(own.name, methods[1:], fusion_metrics, targets, own_seconds=own.seconds)
    for name, reason in bad.items():
        log.warning("left out of every row: %s", reason)
        comparison.left_out[name] = reason
    _measure(options, usable.pairs, methods, comparison, command)
    table = comparison.table()
    write_comparison(options.output_dir, table)
    if targets is not None:
        write_targets(options.output_dir, {row.name: row.targets for row in table})
    return comparison


def _require_apart(programs: Sequence[str], rules: Sequence[str]) -> list[str]:
    """The names of programs and rules. Raises OptionError where one is used twice or stands for the report."""
    names = [*rules, *programs]
    for name in programs:
        if names.count(name) > 1 or name == REPORT_FOLDER:
            raise OptionError("run", f"{name}=...", "the name is taken; give another one")
    return names


def _run(program: Program, pairs: PairSet, folder: Path) -> Method:
    log.info("%s fuses %s", program.name, counted(len(pairs.pairs), "pair"))
    run = run_program(program, pairs, folder)
    where = f"`run` {program.name}"
    return method_of(program.name, folder, pairs.pairs, where=where, failed=run.problems, seconds=run.seconds)


def _fuse_by_rule(name: str, pairs: Sequence[ImagePair], folder: Path) -> Method:
    failed: dict[str, str] = {}
    seconds = 0.0
    for pair in pairs:
        try:
            infrared, visible = read_pair(pair)
        except (ImageReadError, ImageSizeError) as error:
            failed[pair.name] = str(error)
            continue
        started = time.perf_counter()
        fused = fuse_by_rule(name, infrared, luma(visible))
        seconds += time.perf_counter() - started
        write_image(folder / f"{pair.name}.png", add_colour(fused, visible))
    return method_of(name, folder, pairs, where="`rules`", failed=failed, seconds=seconds / len(pairs))


def _measure(
    options: CompareOptions, pairs: Sequence[ImagePair], methods: Sequence[Method], comparison: Comparison, command: str
) -> None:
    """Measure the pairs that all methods have, and show them in the report if there is one."""
    with contextlib.ExitStack() as stack:
        page = None
        if options.report:
            folder = stack.enter_context(replacing(options.output_dir / REPORT_FOLDER))
            page = FusionReport(folder, methods[1:])
        for pair in progress_bar(pairs, "measuring", unit=" pairs"):
            lacking = [reason for method in methods if (reason := method.lacks(pair.name))]
            try:
                result = None if lacking else _fused_pair(pair, methods[0].images[pair.name])
            except (ImageReadError, ImageSizeError) as error:
                log.warning("left out of every row: %s", error)
                lacking.append(str(error))
            if lacking or result is None:
                comparison.left_out[pair.name] = "; ".join(lacking)
                continue
            comparison.add(result)
            if page is not None and pair.name not in comparison.left_out:
                page.add(result)
        if not comparison.shared_pairs:
            raise UsageError(f"`methods`: no pair of which every method has an image: {comparison.caption()[-1]}")
        if page is not None:
            page.finish(run_facts(command, torch.device("cpu"), {}), comparison, {})
            log.info("report: open %s in a browser", options.output_dir / REPORT_FOLDER / INDEX)


def _fused_pair(pair: ImagePair, fused: Path) -> FusedPair:
    """A pair with the first method's image, as observers of fusing are shown it."""
    infrared, visible = read_pair(pair)
    grey, visible_luma = luma(read_visible(fused)), luma(visible)
    metrics = fusion_metrics(grey, infrared, visible_luma)
    return FusedPair(pair, fused, grey, infrared, visible, visible_luma, None, None, metrics)
