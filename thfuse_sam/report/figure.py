"""Figures for papers: chosen pairs by methods, with marked zoom-ins, as PNG and PDF. Needs matplotlib."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thfuse_sam.arrays import ImageArray
from thfuse_sam.errors import UsageError
from thfuse_sam.files import write_atomically
from thfuse_sam.images import as_rgb
from thfuse_sam.options.figure import Zoom

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf")
ZOOM_COLOURS = ("#ff3b30", "#ffd60a", "#34c8ff", "#30d158")
MAX_ZOOMS = len(ZOOM_COLOURS)  # per pair
_GAP = 0.02  # inches between pictures
_LEAST_CELL = 0.1  # inches, width of a picture
_LABEL = 0.2  # inches, height of a line of text
_FONT_SIZE = 8  # points


@dataclasses.dataclass(frozen=True)
class Scene:
    """All pictures of one pair, of one size: uint8 HxW or HxWx3, RGB."""

    name: str
    pictures: Mapping[str, ImageArray | None]  # by column title; None: the method lacks this pair
    zooms: Sequence[Zoom] = ()


def draw_figure(scenes: Sequence[Scene], *, width: float, names: bool = True) -> "Figure":
    """Lay out one row per scene and one column per method; zoomed parts follow below their picture, in equal frames.

    Args:
        scenes: at least one, all with the same columns.
        width: width of the figure, inches. The height follows from the pictures.
        names: whether the scenes' names stand at the left.

    Raises UsageError: matplotlib is missing, the figure is too narrow, or a zoom lies outside its picture.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("figures need matplotlib; pip install 'th-fuse-sam[figure]'") from None
    columns = list(scenes[0].pictures)
    left = _LABEL if names else 0.0
    cell = (width - left - _GAP * (len(columns) - 1)) / len(columns)
    if cell < _LEAST_CELL:
        least = left + (_LEAST_CELL + _GAP) * len(columns)
        raise UsageError(f"`width` {width:g}: too narrow for {len(columns)} columns; give at least {least:.2g} inches")
    rows = [_row_heights(scene, cell) for scene in scenes]
    height = _LABEL + sum(itertools.chain.from_iterable(rows)) + _GAP * sum(len(row) for row in rows)
    figure = Figure(figsize=(width, height))
    canvas = _Canvas(figure, width, height)
    for index, title in enumerate(columns):
        canvas.text(title, left + index * (cell + _GAP) + cell / 2, _LABEL / 2)
    top = _LABEL
    for scene, row in zip(scenes, rows, strict=True):
        if names:
            canvas.text(scene.name, left / 2, top + sum(row) / 2, rotation=90)
        for index, picture in enumerate(scene.pictures.values()):
            if picture is not None:
                _draw_cell(canvas, scene, picture, left + index * (cell + _GAP), top, cell, row)
        top += sum(row) + _GAP * len(row)
    return figure


@dataclasses.dataclass(frozen=True)
class _Canvas:
    """A figure that is measured in inches from its top left corner."""

    figure: "Figure"
    width: float
    height: float

    def axes(self, x: float, top: float, width: float, height: float) -> "Axes":
        rectangle = (x / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(rectangle)

    def text(self, text: str, x: float, y: float, rotation: float = 0) -> None:
        """Write text centred on a point."""
        position = (x / self.width, 1 - y / self.height)
        self.figure.text(
            *position, text, rotation=rotation, ha="center", va="center", fontsize=_FONT_SIZE, parse_math=False
        )


def save_figure(figure: "Figure", path: Path, dpi: int) -> None:
    """Write the figure atomically; the suffix, one of SUFFIXES, decides the format. Raises OutputError."""
    from matplotlib import rc_context

    # No date, so that equal input gives equal files. Font type 42 keeps the text of a PDF as text.
    metadata = {"CreationDate": None} if path.suffix.lower() == ".pdf" else {}
    with rc_context({"pdf.fonttype": 42}):
        write_atomically(
            path, lambda file: figure.savefig(file, format=path.suffix.lower()[1:], dpi=dpi, metadata=metadata)
        )


def _row_heights(scene: Scene, cell: float) -> list[float]:
    """Heights of the parts of a scene's row, inches: the pictures, then the zoomed parts, if there are any.

    `cell` is the width of a picture, inches.
    """
    picture = next(picture for picture in scene.pictures.values() if picture is not None)
    heights = [cell * picture.shape[0] / picture.shape[1]]
    if scene.zooms:
        heights.append(_zoom_width(scene, cell) * max(zoom.height / zoom.width for zoom in scene.zooms))
    return heights


def _zoom_width(scene: Scene, cell: float) -> float:
    """Width of each of a scene's zoomed parts, inches; together they fill the width of a cell."""
    return (cell - _GAP * (len(scene.zooms) - 1)) / len(scene.zooms)


def _draw_cell(
    canvas: _Canvas, scene: Scene, picture: ImageArray, x: float, top: float, width: float, heights: Sequence[float]
) -> None:
    """Draw a picture with its marked parts, and those parts enlarged below it."""
    from matplotlib.patches import Rectangle

    axes = canvas.axes(x, top, width, heights[0])
    axes.set_axis_off()
    axes.imshow(as_rgb(picture), aspect="auto", interpolation="antialiased")
    for number, (zoom, colour) in enumerate(zip(scene.zooms, ZOOM_COLOURS, strict=False)):
        _require_inside(zoom, picture, scene.name)
        corner = (zoom.left - 0.5, zoom.top - 0.5)
        axes.add_patch(Rectangle(corner, zoom.width, zoom.height, fill=False, edgecolor=colour, linewidth=1))
        zoom_width = _zoom_width(scene, width)
        frame = canvas.axes(x + number * (zoom_width + _GAP), top + heights[0] + _GAP, zoom_width, heights[1])
        _draw_zoom(frame, picture, zoom, colour)


def _draw_zoom(axes: "Axes", picture: ImageArray, zoom: Zoom, colour: str) -> None:
    """Draw the zoomed part of a picture in a coloured frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(1.2)
    part = as_rgb(picture)[zoom.top : zoom.top + zoom.height, zoom.left : zoom.left + zoom.width]
    axes.imshow(part, interpolation="nearest")


def _require_inside(zoom: Zoom, picture: ImageArray, name: str) -> None:
    height, width = picture.shape[:2]
    if zoom.left + zoom.width > width or zoom.top + zoom.height > height:
        raise UsageError(
            f"`zoom` {zoom.left},{zoom.top},{zoom.width},{zoom.height}: '{name}' has {width}x{height} pixels only; "
            "give LEFT,TOP,WIDTH,HEIGHT inside it"
        )
