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
        None,
        "folder of the data set, or of the pictures of `check`",
        default_text=f"{CHECK_DIR} with `check`; a data set needs a folder",
        aliases=("-o",),
    )
    val_fraction: float | None = redefault(
        SplitOptions,
        "val_fraction",
        None,
        help="share of the images that goes to val/; the others go to train/",
        default_text="no split",
    )
    seed: int = option(0, "random seed of the split and of random prompts", low=0, high=2**32 - 1)
    visualize: bool = option(False, "also draw pictures of the images with their objects")
    num_samples: int = option(3, "number of pictures to draw", low=1, metavar="N")
    check: bool = option(
        False, "draw samples with masks and prompts as training would see them; no data set is written"
    )


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(AnnotationOptions, PromptKindOptions, PreparedOptions, group=AnnotationOptions.group):
    """Which annotated images are checked and written."""

    download: str | None = option(None, "public data set to download, in place of `data_dir`", choices=KNOWN_SETS)
    point_selection: Literal["center", "random", "bbox"] = redefault(PromptKindOptions, "point_selection", "center")
