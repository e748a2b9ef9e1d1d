"""Options of `thfuse-figure`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from thfuse_sam.options.fields import option
from thfuse_sam.options.shared import PairOptions


@dataclass(frozen=True)
class Zoom:
    """A rectangle of a picture that is also shown enlarged, in pixels."""

    pair: str  # name of the pair; "": every pair
    left: int
    top: int
    width: int
    height: int
    WANTED: ClassVar = "[PAIR:]LEFT,TOP,WIDTH,HEIGHT in pixels, WIDTH and HEIGHT at least 1"

    @classmethod
    def parse(cls, text: str) -> "Zoom":
        """The rectangle that a text such as "a/0001:10,20,64,48" means. Raises ValueError."""
        name, _, numbers = text.rpartition(":")
        left, top, width, height = (int(number) for number in numbers.split(","))
        if min(left, top) < 0 or min(width, height) < 1:
            raise ValueError(text)
        return cls(name, left, top, width, height)


@dataclass(frozen=True, kw_only=True)
class FigureOptions(PairOptions, group="figure"):
    """What a figure shows."""

    methods: tuple[str, ...] = option(
        ("results",), "folders of fused images, named as the pairs; each folder makes a column", metavar="[NAME=]DIR"
    )
    pairs: tuple[str, ...] | None = option(
        None, "names of the pairs, each a row", metavar="NAME", default_text="the first 3"
    )
    zoom: tuple[Zoom, ...] = option(
        (),
        "rectangle in pixels that is also shown enlarged, of one pair or of all",
        metavar="[PAIR:]LEFT,TOP,WIDTH,HEIGHT",
    )
    width: float = option(7.0, "width of the figure, inches", above=0)
    dpi: int = option(300, "pixels per inch", low=1)
    no_names: bool = option(False, "leave out the pairs' names at the left")
    output: tuple[Path, ...] = option(
        (Path("figure.png"), Path("figure.pdf")), "files to write, .png or .pdf", aliases=("-o",)
    )
