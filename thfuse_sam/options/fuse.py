"""Options of `test.py`, which fuses pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thfuse_sam.options.align import AlignmentOptions
from thfuse_sam.options.fields import Options, option, redefault
from thfuse_sam.options.shared import DeviceOptions, MaskOptions, MeasureOptions, ModelOptions, PairOptions, Precision

# What is wanted of a segment: mostly infrared, mostly visible, brighter, or what the network makes of it unlifted.
Emphasis = Literal["ir", "vi", "brighter", "neutral"]


@dataclass(frozen=True, kw_only=True)
class InferenceSettings(Options, group="inference"):
    """How a network is run; none of these settings changes results by more than rounding."""

    precision: Precision = option(
        "fp32", "number format of the layers; bf16, fp16: the last sum with the sources stays in fp32"
    )
    batch_size: int = option(1, "pairs of equal size that are fused together", low=1, aliases=("-b",))
    tile_size: int = option(1024, "side of a tile, pixels; images larger than four tiles are fused tile by tile", low=1)


@dataclass(frozen=True, kw_only=True)
class ListedPairOptions(PairOptions, group=PairOptions.group):
    """Which image pairs are used; they may be named one by one."""

    ir: tuple[str, ...] = option((), "infrared files or globs, in place of a folder", metavar="FILE")
    vi: tuple[str, ...] = option((), "their visible partners", metavar="FILE")
    pairs: Path | None = option(
        None, "CSV file of lines ir,vi or ir,vi,name; -: read them from standard input", metavar="FILE.csv"
    )

    @property
    def is_listed(self) -> bool:
        """Whether pairs are named one by one."""
        return bool(self.ir or self.vi or self.pairs)


@dataclass(frozen=True, kw_only=True)
class FuseOptions(
    ModelOptions,
    ListedPairOptions,
    AlignmentOptions,
    MaskOptions,
    DeviceOptions,
    InferenceSettings,
    MeasureOptions,
    group=MeasureOptions.group,
):
    """Which pairs are fused by which network, and what is written."""

    output_dir: Path = option(
        Path("results"), "folder of the fused images; of a single pair also a file, such as fused.png", aliases=("-o",)
    )
    emphasis: Literal["ir", "vi", "neutral"] | None = option(
        None,
        "what segments show: mostly infrared, mostly visible, or both without lifting what is warm; emphasis.json "
        "beside the masks says it for single segments",
        default_text="what is warm stands out",
    )
    gray: bool = option(False, "write the fused image in grey, without the visible image's colour")
    keep_temperature: bool = option(
        False,
        "also write the numbers of infrared images of more than 8 bits, as they lie on the fused image, to "
        "NAME_temperature.tiff",
    )
    metrics: bool = option(False, "also write the fusion metrics to metrics.csv and metrics.json")
    compare: tuple[str, ...] = option(
        (),
        "folders of other methods' fused images, named as the pairs: compare their metrics and mean ranks",
        metavar="[NAME=]DIR",
    )
    report: bool | None = redefault(MeasureOptions, "report", None, default_text="on, unless one file is written")
    skip_bad: bool = option(False, "leave out pairs that cannot be fused, and list them")
    export_onnx: Path | None = option(
        None, "write the network as an ONNX file, check it and stop; no pair is fused", metavar="FILE"
    )
