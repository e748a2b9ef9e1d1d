"""Figures for papers: chosen pairs by methods, with marked zoom-ins, as PNG and PDF. Needs matplotlib."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from thfuse_sam.errors import UsageError
from thfuse_sam.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf")
ZOOM_COLOURS = ("#ff3b30", "#ffd60a", "#34c8ff", "#30d158")
MAX_ZOOMS = len(ZOOM_COLOURS)  # of one pair
_GAP = 0.02  # inches between pictures
_LABEL = 0.2  # inches for a line of text
_FONT_SIZE = 8  # points

Picture = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Zoom:
    """A part of a picture that is also shown enlarged; pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Scene:
    """All pictures of one pair, of one size: uint8 HxW or HxWx3, RGB."""

    name: str
    pictures: Mapping[str, Picture | None]  # by column title; None: the method lacks this pair
    zooms: Sequence[Zoom] = ()


def draw_figure(scenes: Sequence[Scene], *, width: float, names: bool = True) -> "Figure":
    """Lay out one row a scene and one column a picture; zoomed parts follow below their picture, in equal frames.

    Args:
        scenes: at least one, all with the same columns.
        width: of the figure, inches. The height follows from the pictures.
        names: whether the scenes' names stand at the left.

    Raises UsageError: matplotlib is missing, or a zoom lies outside its picture.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("figures need matplotlib; pip install 'th-fuse-sam[figure]'") from None
    columns = list(scenes[0].pictures)
    left = _LABEL if names else 0.0
    cell = (width - left - _GAP * (len(columns) - 1)) / len(columns)
    heights = [_heights(scene, cell) for scene in scenes]
    height = _LABEL + sum(itertools.chain.from_iterable(heights)) + _GAP * sum(len(parts) for parts in heights)
    figure = Figure(figsize=(width, height))

    def frame(x: float, top: float, frame_width: float, frame_height: float) -> tuple[float, float, float, float]:
        """Inches from the top left corner -> the figure's fractions."""
        return x / width, 1 - (top + frame_height) / height, frame_width / width, frame_height / height

    for index, title in enumerate(columns):
        x = (left + index * (cell + _GAP) + cell / 2) / width
        figure.text(x, 1 - _LABEL / 2 / height, title, ha="center", va="center", fontsize=_FONT_SIZE, parse_math=False)
    top = _LABEL
    for scene, parts in zip(scenes, heights, strict=True):
        if names:
            middle = 1 - (top + sum(parts) / 2) / height
            figure.text(left / 2 / width, middle, scene.name, rotation=90, ha="center", va="center",
                        fontsize=_FONT_SIZE, parse_math=False)  # fmt: skip
        for index, picture in enumerate(scene.pictures.values()):
            x = left + index * (cell + _GAP)
            if picture is None:
                continue
            _show(figure, frame(x, top, cell, parts[0]), picture, scene.zooms)
            zoom_width = (cell - _GAP * (len(scene.zooms) - 1)) / max(len(scene.zooms), 1)
            for number, zoom in enumerate(scene.zooms):
                _require_inside(zoom, picture, scene.name)
                place = frame(x + number * (zoom_width + _GAP), top + parts[0] + _GAP, zoom_width, parts[1])
                _show_zoom(figure, place, picture, zoom, ZOOM_COLOURS[number])
        top += sum(parts) + _GAP * len(parts)
    return figure


def save_figure(figure: "Figure", path: Path, dpi: int) -> None:
    """Write the figure atomically; the suffix, one of SUFFIXES, decides the format. Raises OutputError."""
    from matplotlib import rc_context

    # No date, so that equal input gives equal files; text in a PDF as text.
    metadata = {"CreationDate": None} if path.suffix.lower() == ".pdf" else {}
    with rc_context({"pdf.fonttype": 42}):
        write_atomically(
            path, lambda file: figure.savefig(file, format=path.suffix.lower()[1:], dpi=dpi, metadata=metadata)
        )


def _heights(scene: Scene, cell: float) -> list[float]:
    """Inches of a scene's row: the pictures, then the zoomed parts, if any."""
    picture = next(picture for picture in scene.pictures.values() if picture is not None)
    heights = [cell * picture.shape[0] / picture.shape[1]]
    if scene.zooms:
        width = (cell - _GAP * (len(scene.zooms) - 1)) / len(scene.zooms)
        heights.append(width * max(zoom.height / zoom.width for zoom in scene.zooms))
    return heights


def _show(figure: "Figure", place: tuple[float, float, float, float], picture: Picture, zooms: Sequence[Zoom]) -> None:
    from matplotlib.patches import Rectangle

    axes = figure.add_axes(place)
    axes.set_axis_off()
    axes.imshow(_rgb(picture), aspect="auto", interpolation="antialiased")
    for zoom, colour in zip(zooms, ZOOM_COLOURS, strict=False):
        corner = (zoom.left - 0.5, zoom.top - 0.5)
        axes.add_patch(Rectangle(corner, zoom.width, zoom.height, fill=False, edgecolor=colour, linewidth=1))


def _show_zoom(
    figure: "Figure", place: tuple[float, float, float, float], picture: Picture, zoom: Zoom, colour: str
) -> None:
    axes = figure.add_axes(place)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(1.2)
    part = _rgb(picture)[zoom.top : zoom.top + zoom.height, zoom.left : zoom.left + zoom.width]
    axes.imshow(part, interpolation="nearest")


def _rgb(picture: Picture) -> Picture:
    return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture


def _require_inside(zoom: Zoom, picture: Picture, name: str) -> None:
    height, width = picture.shape[:2]
    if zoom.left + zoom.width > width or zoom.top + zoom.height > height:
        raise UsageError(
            f"`zoom` {zoom.left},{zoom.top},{zoom.width},{zoom.height}: '{name}' has {width}x{height} pixels only; "
            "give LEFT,TOP,WIDTH,HEIGHT inside it"
        )
