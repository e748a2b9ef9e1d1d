"""`thfuse-figure`: options -> objects -> `report.figure`."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from thfuse_sam.cli import common
from thfuse_sam.datasets.pairs import ImagePair, find_pairs
from thfuse_sam.errors import UsageError
from thfuse_sam.images import read_infrared, read_visible
from thfuse_sam.report.compare import Method, find_methods
from thfuse_sam.report.figure import MAX_ZOOMS, SUFFIXES, Scene, Zoom, draw_figure, save_figure

SAMPLE = "datasets/sample/test"
DEFAULT_PAIRS = 3  # rows where --pairs is not given
SOURCES = ("Infrared", "Visible")

log = logging.getLogger(__name__)


def build_parser() -> common.CommandParser:
    parser = common.CommandParser(
        "thfuse-figure", "Lay out pairs and their fused images for a paper, with marked zoom-ins, as PNG and PDF."
    )
    common.add_pair_options(parser, SAMPLE)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["results"],
        metavar="[NAME=]DIR",
        help="fused images under the pairs' names, one column each",
    )
    parser.add_argument("--pairs", nargs="+", metavar="NAME", help=f"rows (None: the first {DEFAULT_PAIRS})")
    parser.add_argument(
        "--zoom",
        type=_zoom,
        action="append",
        default=[],
        metavar="[PAIR:]LEFT,TOP,WIDTH,HEIGHT",
        help=f"part in pixels to enlarge, of one pair or of all; up to {MAX_ZOOMS} a pair",
    )
    parser.add_argument("--width", type=common.positive_float, default=7.0, help="of the figure, inches")
    parser.add_argument("--dpi", type=common.positive_int, default=300, help="pixels per inch")
    parser.add_argument("--no_names", action="store_true", help="leave out the pairs' names at the left")
    parser.add_argument(
        "--output",
        type=Path,
        nargs="+",
        default=[Path("figure.png"), Path("figure.pdf")],
        help=f"files to write, {' or '.join(SUFFIXES)}",
    )
    parser.add_config_option()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return common.run(build_parser(), _figure, argv)


def _figure(options: argparse.Namespace) -> int:
    for path in options.output:
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"--output {path}: the suffix is not one of {', '.join(SUFFIXES)}; change it")
    found = find_pairs(common.resolve_dataset_path(options, SAMPLE), ir_dir=options.ir_dir, vi_dir=options.vi_dir).pairs
    pairs = _chosen(options, {pair.name: pair for pair in found})
    unknown = {name for name, _ in options.zoom if name} - {pair.name for pair in pairs}
    if unknown:
        raise UsageError(f"--zoom {min(unknown)}:...: this pair is not in the figure; add it to --pairs")
    methods = find_methods(options.methods, pairs, SOURCES, option="--methods")
    figure = draw_figure(
        [_scene(pair, methods, options.zoom) for pair in pairs], width=options.width, names=not options.no_names
    )
    for path in options.output:
        save_figure(figure, path, options.dpi)
        log.info("figure: %s", path)
    return 0


def _chosen(options: argparse.Namespace, by_name: dict[str, ImagePair]) -> list[ImagePair]:
    names = options.pairs or list(by_name)[:DEFAULT_PAIRS]
    for name in names:
        if name not in by_name:
            raise UsageError(f"--pairs {name}: no such pair; names are such as '{next(iter(by_name))}'")
    return [by_name[name] for name in names]


def _scene(pair: ImagePair, methods: Sequence[Method], zooms: Sequence[tuple[str, Zoom]]) -> Scene:
    own = [zoom for name, zoom in zooms if name in ("", pair.name)]
    if len(own) > MAX_ZOOMS:
        raise UsageError(f"--zoom: '{pair.name}' has {len(own)} parts to enlarge; give at most {MAX_ZOOMS}")
    fused = {
        method.name: read_visible(method.images[pair.name]) if pair.name in method.images else None
        for method in methods
    }
    sources = dict(zip(SOURCES, (read_infrared(pair.ir), read_visible(pair.vi)), strict=True))
    return Scene(pair.name, {**sources, **fused}, own)


def _zoom(text: str) -> tuple[str, Zoom]:
    name, _, numbers = text.rpartition(":")
    try:
        left, top, width, height = (int(number) for number in numbers.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not [PAIR:]LEFT,TOP,WIDTH,HEIGHT in pixels") from None
    if min(left, top) < 0 or min(width, height) < 1:
        raise argparse.ArgumentTypeError(f"'{text}': LEFT and TOP are at least 0, WIDTH and HEIGHT at least 1")
    return name, Zoom(left, top, width, height)
