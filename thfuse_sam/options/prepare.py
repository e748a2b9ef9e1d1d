"""Options of `prepare_data.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thfuse_sam.options.fields import Options, option, redefault
from thfuse_sam.options.shared import AnnotationOptions, PromptKindOptions
from thfuse_sam.options.training import SplitOptions

CHECK_DIR = Path("results/check")
KNOWN_SETS = ("pennfudan",)  # what `datasets.segmentation.known_sets` can download


@dataclass(frozen=True, kw_only=True)
class PreparedOptions(Options, group="output"):
    """What is written."""

    output_dir: Path | None = option(
        None, "folder to write", default_text=f"with `check` {CHECK_DIR}; a data set needs one"
    )
    val_fraction: float | None = redefault(
        SplitOptions, "val_fraction", None, help="write train/ and val/ with this share", default_text="no split"
    )
    seed: int = option(0, "of the split and of random prompts", low=0)
    visualize: bool = option(False, "also draw objects over images, to look at")
    num_samples: int = option(3, "pictures to draw", low=1, metavar="N")
    check: bool = option(False, "look at what training would see: samples with masks and prompts, no data set")


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(AnnotationOptions, PromptKindOptions, PreparedOptions, group=AnnotationOptions.group):
    """Which annotated images are checked and written."""

    download: str | None = option(None, "a known set in place of `data_dir`", choices=KNOWN_SETS)
    point_selection: Literal["center", "random", "bbox"] = redefault(PromptKindOptions, "point_selection", "center")
