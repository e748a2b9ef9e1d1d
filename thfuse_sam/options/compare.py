"""Options of `thfuse-compare`."""

from dataclasses import dataclass
from pathlib import Path

from thfuse_sam.options.fields import option
from thfuse_sam.options.shared import MeasureOptions, PairOptions


@dataclass(frozen=True, kw_only=True)
class CompareOptions(PairOptions, MeasureOptions, group="methods"):
    """Which fused images of the same pairs are compared."""

    methods: tuple[str, ...] = option((), "folders of fused images, named as the pairs", metavar="[NAME=]DIR")
    run: tuple[str, ...] = option(
        (),
        "a method's own program, which fuses the pairs: {ir} {vi} {out} stand for the files of a pair, or {ir_dir} "
        "{vi_dir} {out_dir} for the folders of all",
        metavar="NAME=COMMAND",
    )
    rules: bool = option(True, "also fuse by simple rules: avg, max, Laplacian pyramid (LP), guided filtering (GFF)")
    output_dir: Path = option(
        Path("comparison"), "folder of the tables, the report and what programs and rules fuse", aliases=("-o",)
    )
