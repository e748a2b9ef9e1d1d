"""The report of fused images: every pair with a divider between any two of its pictures, metrics, other methods."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thfuse_sam.errors import ImageReadError
from thfuse_sam.fusion.fusing import FusedPair
from thfuse_sam.images import read_visible
from thfuse_sam.metrics import METRICS
from thfuse_sam.report.compare import Comparison, Method
from thfuse_sam.report.page import write_page
from thfuse_sam.report.pictures import write_mask_layer, write_picture, write_thumbnail
from thfuse_sam.report.run_facts import Facts

THUMBNAIL_WIDTH = 192  # pixels


class FusionReport:
    """Writes the pictures of each pair as it is fused, and the page at the end. An observer of `fuse_pairs`."""

    def __init__(self, folder: Path, others: Sequence[Method]) -> None:
        """`folder` is empty, see `page.replacing`."""
        self._folder = folder
        self._others = others
        self._pairs: list[dict[str, Any]] = []

    def add(self, seen: FusedPair) -> None:
        """Write the pictures of one pair. Raises OutputError."""
        number = f"{len(self._pairs) + 1:05d}"
        pictures = self._folder / "pictures"
        fused = read_visible(seen.path)
        height, width = seen.fused.shape
        self._pairs.append(
            {
                "name": seen.pair.name,
                "width": width,
                "height": height,
                "thumbnail": self._thumbnail(pictures / f"{number}_small.jpg", fused),
                "ir": self._address(write_picture(pictures / f"{number}_ir", seen.infrared, seen.pair.ir)),
                "vi": self._address(write_picture(pictures / f"{number}_vi", seen.visible, seen.pair.vi)),
                "fused": [
                    self._address(write_picture(pictures / f"{number}_fused", fused, seen.path)),
                    *(
                        self._other(pictures / f"{number}_other{index}", seen, method)
                        for index, method in enumerate(self._others, 1)
                    ),
                ],
                "irMask": self._mask(pictures / f"{number}_ir_mask.png", seen.ir_labels),
                "viMask": self._mask(pictures / f"{number}_vi_mask.png", seen.vi_labels),
            }
        )

    def finish(self, facts: Facts, comparison: Comparison, failures: Mapping[str, str]) -> Path:
        """Write the page and return its path. Raises OutputError."""
        table = comparison.table({key: metric.better for key, metric in METRICS.items()})
        for pair in self._pairs:
            rows = comparison.values[pair["name"]]
            pair["values"] = [None if row is None else [row[key] for key in METRICS] for row in rows]
        return write_page(
            self._folder,
            "fusion",
            facts,
            {
                "metrics": [
                    {"key": key, "title": metric.title, "better": metric.better} for key, metric in METRICS.items()
                ],
                "methods": [
                    {
                        "name": row.name,
                        "images": row.images,
                        "mean": list(row.mean.values()),
                        "ranks": list(row.ranks.values()),
                        "meanRank": row.mean_rank if math.isfinite(row.mean_rank) else None,
                    }
                    for row in table
                ],
                "sharedPairs": comparison.shared_pairs,
                "pairs": self._pairs,
                "failures": list(failures.items()),
            },
        )

    def _thumbnail(self, path: Path, image: npt.NDArray[np.uint8]) -> str:
        write_thumbnail(path, image, THUMBNAIL_WIDTH)
        return self._address(path)

    def _other(self, stem: Path, seen: FusedPair, method: Method) -> str | None:
        source = method.images.get(seen.pair.name)
        if source is None:
            return None
        try:
            return self._address(write_picture(stem, read_visible(source), source))
        except ImageReadError:  # Comparison has logged it
            return None

    def _mask(self, path: Path, labels: npt.NDArray[np.int64] | None) -> str | None:
        if labels is None:
            return None
        write_mask_layer(path, labels)
        return self._address(path)

    def _address(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()
