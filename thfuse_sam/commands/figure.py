"""Drawing a figure of pairs and their fused images, according to `FigureOptions`."""

import logging
from collections.abc import Sequence
from pathlib import Path

from thfuse_sam.commands.inputs import find_command_pairs
from thfuse_sam.datasets.pairs import ImagePair
from thfuse_sam.errors import OptionError
from thfuse_sam.images import read_visible
from thfuse_sam.options.figure import FigureOptions, Zoom
from thfuse_sam.report.compare import Method, find_methods
from thfuse_sam.report.figure import MAX_ZOOMS, SUFFIXES, Scene, draw_figure, save_figure

DEFAULT_PAIRS = 3  # rows where `pairs` is not given
SOURCES = ("Infrared", "Visible")

log = logging.getLogger(__name__)


def make_figure(options: FigureOptions) -> tuple[Path, ...]:
    """Draw the figure. Returns the files that were written. Raises ThFuseError."""
    for path in options.output:
        if path.suffix.lower() not in SUFFIXES:
            raise OptionError("output", path, f"the suffix is not one of {', '.join(SUFFIXES)}; change it")
    pairs = _chosen(options, find_command_pairs(options.dataset_path, options).pairs)
    unknown = {zoom.pair for zoom in options.zoom if zoom.pair} - {pair.name for pair in pairs}
    if unknown:
        raise OptionError("zoom", f"{min(unknown)}:...", "this pair is not in the figure; add it to `pairs`")
    methods = find_methods(options.methods, pairs, SOURCES, option="`methods`")
    scenes = [_scene(pair, methods, _zooms(options, pair)) for pair in pairs]
    figure = draw_figure(scenes, width=options.width, names=not options.no_names)
    for path in options.output:
        save_figure(figure, path, options.dpi)
        log.info("figure: %s", path)
    return options.output


def _chosen(options: FigureOptions, pairs: Sequence[ImagePair]) -> list[ImagePair]:
    by_name = {pair.name: pair for pair in pairs}
    names = options.pairs or list(by_name)[:DEFAULT_PAIRS]
    for name in names:
        if name not in by_name:
            raise OptionError("pairs", name, f"no such pair; names are such as '{next(iter(by_name))}'")
    return [by_name[name] for name in names]


def _zooms(options: FigureOptions, pair: ImagePair) -> list[Zoom]:
    zooms = [zoom for zoom in options.zoom if zoom.pair in ("", pair.name)]
    if len(zooms) > MAX_ZOOMS:
        raise OptionError("zoom", pair.name, f"has {len(zooms)} parts to enlarge; give at most {MAX_ZOOMS}")
    return zooms


def _scene(pair: ImagePair, methods: Sequence[Method], zooms: Sequence[Zoom]) -> Scene:
    fused = {
        method.name: read_visible(method.images[pair.name]) if pair.name in method.images else None
        for method in methods
    }
    sources = dict(zip(SOURCES, pair.read(), strict=True))
    return Scene(pair.name, {**sources, **fused}, zooms)
