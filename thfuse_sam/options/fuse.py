"""Options of `test.py`, which fuses pairs."""

from dataclasses import dataclass
from pathlib import Path

from thfuse_sam.options.fields import Options, option
from thfuse_sam.options.shared import REPORT, DeviceOptions, MaskOptions, ModelOptions, PairOptions
from thfuse_sam.precision import Precision


@dataclass(frozen=True, kw_only=True)
class InferenceSettings(Options, group="inference"):
    """How a network is run; none of it changes results by more than rounding."""

    precision: Precision = option("fp32", "bf16, fp16: layers in half precision, the sum with the sources in single")
    batch_size: int = option(1, "pairs of one size fused together", low=1, aliases=("-b",))
    tile_size: int = option(1024, "pixels a side; images of more than four tiles' area are fused in tiles", low=1)


@dataclass(frozen=True, kw_only=True)
class FuseOptions(ModelOptions, PairOptions, MaskOptions, DeviceOptions, InferenceSettings, group="output"):
    """Which pairs are fused by which network, and what is written."""

    output_dir: Path = option(Path("results"), "for the fused images")
    gray: bool = option(False, "write the fused luma, without the visible image's colour")
    metrics: bool = option(False, "also write metrics.csv and metrics.json")
    compare: tuple[str, ...] = option(
        (),
        "fused images of other methods, under the pairs' names: the same metrics, and mean ranks",
        metavar="[NAME=]DIR",
    )
    report: bool = option(True, f"write OUTPUT_DIR/{REPORT}: the pairs, their metrics and masks as a page")
    skip_bad: bool = option(False, "go on after a pair that cannot be fused, list it")
    export_onnx: Path | None = option(None, "write the network as ONNX, check it, stop", metavar="FILE")
    onnx_size: tuple[int, int] = option(
        (480, 640), "of the images that the ONNX file takes, pixels", low=1, metavar=("HEIGHT", "WIDTH")
    )
