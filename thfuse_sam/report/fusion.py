"""The report of fused images: every pair with a divider between any two of its pictures, metrics, other methods."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import ImageArray
from thfuse_sam.errors import ImageReadError
from thfuse_sam.fusion.fusing import FusedPair
from thfuse_sam.images import read_visible
from thfuse_sam.report.compare import ALL_METRICS, Comparison, Method, MethodScores
from thfuse_sam.report.page import write_page
from thfuse_sam.report.pictures import Pictures
from thfuse_sam.report.register import register_pictures
from thfuse_sam.report.run_facts import Facts

THUMBNAIL_WIDTH = 192  # pixels
REGISTER_WIDTH = 480


class FusionReport:
    """Writes the pictures of each pair as it is fused, and the page at the end. An observer of `fuse_pairs`."""

    def __init__(self, folder: Path, others: Sequence[Method]) -> None:
        """`folder` is an empty folder, as `page.replacing` makes it; `others` are the methods to compare with."""
        self._folder = folder
        self._pictures = Pictures(folder)
        self._others = others
        self._pairs: list[dict[str, Any]] = []

    def add(self, result: FusedPair) -> None:
        """Write the pictures of one pair. Raises OutputError."""
        number = f"{len(self._pairs) + 1:05d}"
        pictures = self._pictures
        fused = read_visible(result.path)
        height, width = result.fused.shape
        others = [
            self._copy_of_method(f"{number}_other{index}", result.pair.name, method)
            for index, method in enumerate(self._others, 1)
        ]
        self._pairs.append(
            {
                "name": result.pair.name,
                "width": width,
                "height": height,
                "thumbnail": pictures.thumbnail(f"{number}_small.jpg", fused, THUMBNAIL_WIDTH),
                "ir": self._source(f"{number}_ir", result.infrared, result.pair.ir, result),
                "vi": self._source(f"{number}_vi", result.visible, result.pair.vi, result),
                "fused": [pictures.copy(f"{number}_fused", fused, result.path), *others],
                "irMask": self._mask(f"{number}_ir_mask.png", result.ir_labels),
                "viMask": self._mask(f"{number}_vi_mask.png", result.vi_labels),
                "alignment": self._alignment(number, result),
            }
        )

    def finish(
        self,
        facts: Facts,
        comparison: Comparison,
        failures: Mapping[str, str],
        misaligned: Mapping[str, float] = MappingProxyType({}),
    ) -> Path:
        """Write the page and return its path. Raises OutputError.

        `misaligned`: pairs that are out of register, and by what share of their width.
        """
        for pair in self._pairs:
            rows = comparison.values[pair["name"]]
            pair["offset"] = misaligned.get(pair["name"])
            pair["values"] = [None if row is None else [row[key] for key in ALL_METRICS] for row in rows]
        return write_page(
            self._folder,
            "fusion",
            facts,
            {
                "metrics": [
                    {"key": key, "title": metric.title, "note": metric.note, "better": metric.better}
                    for key, metric in ALL_METRICS.items()
                ],
                "methods": [_method_row(row) for row in comparison.table()],
                "caption": comparison.caption(),
                "sharedPairs": comparison.shared_pairs,
                "pairs": self._pairs,
                "failures": list(failures.items()),
                "leftOut": list(comparison.left_out.items()),
            },
        )

    def _source(self, stem: str, image: ImageArray, source: Path, result: FusedPair) -> str:
        """Address of a source image: its file, or the image itself where it was placed in another frame."""
        if result.placement is None:
            return self._pictures.copy(stem, image, source)
        return self._pictures.write(f"{stem}.png", image)

    def _alignment(self, number: str, result: FusedPair) -> dict[str, Any] | None:
        """How the pair was aligned, with pictures before and after; None: it was not."""
        placement = result.placement
        if placement is None:
            return None
        alignment, pictures = placement.alignment, dict[str, str]()
        if alignment.confident and alignment.kind != "size":
            for name, picture in zip(("before", "after"), register_pictures(result.pair, placement), strict=True):
                pictures[name] = self._pictures.thumbnail(f"{number}_{name}.jpg", picture, REGISTER_WIDTH)
        return {"text": str(alignment), **pictures}

    def _copy_of_method(self, stem: str, name: str, method: Method) -> str | None:
        """Address of another method's picture; None if it has no readable one, about which `Comparison` warns."""
        source = method.images.get(name)
        if source is None:
            return None
        try:
            return self._pictures.copy(stem, read_visible(source), source)
        except ImageReadError:
            return None

    def _mask(self, name: str, labels: npt.NDArray[np.int64] | None) -> str | None:
        return None if labels is None else self._pictures.mask_layer(name, labels)


def _method_row(row: MethodScores) -> dict[str, Any]:
    return {
        "name": row.name,
        "images": row.images,
        "mean": list(row.mean.values()),
        "ranks": list(row.ranks.values()),
        "meanRank": row.mean_rank,
        "interval": row.interval,
        "seconds": row.seconds,
        "targets": [dataclasses.asdict(target) for target in row.targets],
    }
