"""Two cameras that are fixed to each other: one transformation, found in many pairs and kept in a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import yaml

from thfuse_sam.align.estimate import Alignment
from thfuse_sam.align.fitting import robust_fit
from thfuse_sam.align.transform import Kind, Matrix, corner_distance, corners, fitted, folds, inverse, transformed
from thfuse_sam.arrays import Size
from thfuse_sam.errors import UsageError
from thfuse_sam.files import write_text
from thfuse_sam.images import size_text
from thfuse_sam.plain_yaml import read_yaml

CALIBRATE = "`align()` `calibrate`"  # what makes a rig file, as messages name it
LEAST_PAIRS = 3  # confident ones, of a calibration
_ANEW = f"make it anew with {CALIBRATE}"
_OUTLIER = 3.0  # times the median distance from the median transformation
_LEAST_OUTLIER = 0.01  # share of the width: closer pairs are none
_TOLERANCE = 0.004  # share of the width: blocks that miss by more lose their weight


@dataclass(frozen=True)
class Rig:
    """The transformation between two cameras, and the sizes of images that it is for."""

    path: Path
    kind: Kind
    ir_size: Size
    vi_size: Size
    matrix: Matrix  # from the infrared image to the visible image

    def alignment(self, ir_size: Size, vi_size: Size) -> Alignment:
        """That of a pair of images of these sizes. Raises UsageError where they are not the rig's."""
        if (ir_size, vi_size) != (self.ir_size, self.vi_size):
            raise UsageError(
                f"`rig` {self.path}: is for infrared images of {size_text(self.ir_size)} and visible ones of "
                f"{size_text(self.vi_size)}, not for {size_text(ir_size)} and {size_text(vi_size)} (width x height); "
                "calibrate with such pairs"
            )
        return Alignment(self.matrix, ir_size, vi_size, self.kind, True)

    @classmethod
    def load(cls, path: Path) -> "Rig":
        """Read a rig file. Raises UsageError: unreadable, incomplete, or a transformation that folds the image."""
        try:
            content = read_yaml(path)
            kind, matrix = content["kind"], np.array(content["matrix"], np.float64)
            sizes = [_size(content[name]) for name in ("infrared", "visible")]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"no rig file ({error})"
            raise UsageError(f"`rig` {path}: {reason}; make one with {CALIBRATE}") from error
        if kind not in get_args(Kind) or matrix.shape != (3, 3) or min(min(size) for size in sizes) < 1:
            raise UsageError(f"`rig` {path}: kind, sizes or matrix are wrong; {_ANEW}")
        if folds(matrix, sizes[0]):
            raise UsageError(f"`rig` {path}: its matrix folds or mirrors the image; {_ANEW}")
        x, y = transformed(corners(sizes[0]), matrix).T
        if max(x) < 0 or max(y) < 0 or min(x) >= sizes[1][1] or min(y) >= sizes[1][0]:
            raise UsageError(f"`rig` {path}: its matrix takes infrared images out of the visible ones; {_ANEW}")
        return cls(path, kind, sizes[0], sizes[1], matrix)


@dataclass(frozen=True)
class Calibration:
    """What pairs say about their rig."""

    kind: Kind
    matrix: Matrix
    ir_size: Size
    vi_size: Size
    used: list[str]  # pairs that agree
    outliers: dict[str, float]  # confident pairs that do not, and by how many pixels
    unsure: list[str]  # pairs without a confident estimate
    residual: float  # median distance of the corners, pixels of the visible image

    def write(self, path: Path) -> None:
        """Write the rig file. Raises OutputError."""
        content: dict[str, Any] = {
            "kind": self.kind,
            "infrared": size_text(self.ir_size),
            "visible": size_text(self.vi_size),
            "matrix": [[float(value) for value in row] for row in self.matrix],
            "pairs": len(self.used),
            "residual_px": round(self.residual, 3),
            "outliers": sorted(self.outliers),
        }
        head = "# From pixels (x, y) of the infrared image to pixels of the visible one; sizes are width x height.\n"
        write_text(path, head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def calibrate(alignments: Mapping[str, Alignment], kind: Kind) -> Calibration:
    """One transformation of `kind` for all pairs, from their estimates by name; all are of the same sizes.

    The median of the corners decides which pairs are outliers; the transformation is fitted to all blocks of the
    others. Raises UsageError where too few estimates are confident.
    """
    sure = {name: alignment for name, alignment in alignments.items() if alignment.confident}
    if len(sure) < LEAST_PAIRS:
        raise UsageError(
            f"only {len(sure)} of {len(alignments)} pairs show enough structure that both cameras see, "
            f"{LEAST_PAIRS} are needed; add pairs with buildings, roads or people, by day"
        )
    first = next(iter(sure.values()))
    places = corners(first.ir_size)
    median = np.median([transformed(places, alignment.matrix) for alignment in sure.values()], axis=0)
    distance = {
        name: float(np.linalg.norm(transformed(places, alignment.matrix) - median, axis=1).mean())
        for name, alignment in sure.items()
    }
    limit = max(_OUTLIER * float(np.median([*distance.values()])), _LEAST_OUTLIER * first.vi_size[1])
    used = [name for name in sure if distance[name] <= limit]
    source, target = (np.concatenate([getattr(sure[name], side) for name in used]) for side in ("source", "target"))
    start = fitted(first.ir_size, first.vi_size)
    nearest = sure[min(distance, key=distance.__getitem__)].matrix @ inverse(start)
    matrix = robust_fit(kind, transformed(source, start), target, _TOLERANCE * first.vi_size[1], nearest) @ start
    residual = float(np.median([corner_distance(matrix, sure[name].matrix, first.ir_size) for name in used]))
    return Calibration(
        kind, matrix, first.ir_size, first.vi_size, used,
        {name: distance[name] for name in sure if name not in used},
        [name for name in alignments if name not in sure], residual,
    )  # fmt: skip


def _size(text: str) -> Size:
    width, height = text.split("x")
    return int(height), int(width)
