"""Options of `thfuse-align`, and those by which fusing aligns."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thfuse_sam.errors import OptionError
from thfuse_sam.options.fields import Options, option, redefault
from thfuse_sam.options.shared import PairOptions

AlignKind = Literal["size", "shift", "similarity", "homography"]
FRAME_WORDS = VISIBLE, INFRARED = "visible", "infrared"  # values of `size` in place of numbers
_LARGEST_SIDE = 20_000  # pixels


@dataclass(frozen=True, kw_only=True)
class AlignmentOptions(Options, group="alignment: see docs/alignment.md"):
    """How infrared images are brought onto visible ones."""

    align: AlignKind | None = option(
        None,
        "bring the infrared image onto the visible one: size: only resample it; shift, similarity (also turn and "
        "scale), homography: found in each pair",
        metavar="size|shift|similarity|homography",
    )
    rig: Path | None = option(
        None, "rig file that `align()` calibrated: one transformation for all pairs", metavar="FILE.yaml"
    )
    size: str = option(VISIBLE, "size of the result: that of the visible or the infrared image, or WIDTHxHEIGHT")

    def __post_init__(self) -> None:
        super().__post_init__()
        sides = [int(side) for side in re.findall(r"\d+", self.size)]
        is_size = re.fullmatch(r"\d{1,5}x\d{1,5}", self.size) is not None and all(0 < s <= _LARGEST_SIDE for s in sides)
        if self.size not in FRAME_WORDS and not is_size:
            raise OptionError("size", self.size, "must be visible, infrared or WIDTHxHEIGHT in pixels, such as 640x480")
        if self.rig is not None and self.aligns_each:
            raise OptionError("rig", self.rig, f"is given beside `align` {self.align}; give one of the two")

    @property
    def aligns_each(self) -> bool:
        """Whether each pair gets an estimate of its own."""
        return self.align not in (None, "size")

    @property
    def places_images(self) -> bool:
        """Whether images are resampled, and so may differ in size."""
        return self.align is not None or self.rig is not None or self.size != VISIBLE


@dataclass(frozen=True, kw_only=True)
class AlignOptions(PairOptions, AlignmentOptions, group=AlignmentOptions.group):
    """Which pairs are aligned, how, and where the results go."""

    align: AlignKind | None = redefault(AlignmentOptions, "align", None, default_text="similarity, or by the rig")
    calibrate: Path | None = option(
        None, "folder of pairs of two cameras that are fixed to each other: find their rig, write no image"
    )
    output: Path = option(Path("rig.yaml"), "rig file that `calibrate` writes", metavar="FILE.yaml")
    output_dir: Path = option(Path("aligned"), "folder of the aligned images and of alignment.csv", aliases=("-o",))
    masks_dir: Path | None = option(None, "mask tree of the pairs: its masks are written to OUTPUT_DIR/masks, aligned")
    skip_bad: bool = option(False, "leave out images that cannot be read or have no partner, and list them")

    @property
    def kind(self) -> AlignKind:
        """The kind of transformation that is looked for."""
        return self.align or "similarity"
