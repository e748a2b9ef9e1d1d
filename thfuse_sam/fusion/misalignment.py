"""Noticing pairs that are out of register, which metrics do not show."""

import logging
from collections.abc import Sequence

from thfuse_sam.align.estimate import FULL, QUICK, estimate_alignment
from thfuse_sam.arrays import ImageArray
from thfuse_sam.errors import counted, first_of
from thfuse_sam.fusion.fusing import FusedPair

NOTICED = 0.02  # share of the width, by which the corners of a pair that is out of register are off
_SHOWN = 5  # pairs that a line names

log = logging.getLogger(__name__)


def noticed_offset(infrared: ImageArray, visible_luma: ImageArray) -> float | None:
    """By what share of the width the corners of a pair, uint8 HxW both, are off; None: little, or that is not sure."""
    for search in (QUICK, FULL):
        estimate = estimate_alignment(infrared, visible_luma, search=search)
        if not estimate.confident or estimate.offset <= NOTICED:
            return None
    return estimate.offset


def warn_unsure(names: Sequence[str], pairs: int) -> None:
    """Name those of `pairs` pairs that could not be aligned, and the remedy."""
    if names:
        log.warning(
            "left as they are, because too little structure agrees: %d of %s (%s); "
            "for cameras that are fixed to each other, calibrate a rig with other pairs",
            len(names), counted(pairs, "pair"), first_of(names, _SHOWN),
        )  # fmt: skip


class MisalignmentWatch:
    """Notices pairs that are out of register, or could not be aligned; an observer of `fuse_pairs`."""

    def __init__(self) -> None:
        self.offsets: dict[str, float] = {}  # pair name -> mean distance of the corners, share of the width
        self._unsure: list[str] = []

    def add(self, result: FusedPair) -> None:
        """Look at one pair at a small size, and once more at its full size if it seems off."""
        if result.placement is not None:
            self._unsure += [] if result.placement.alignment.confident else [result.pair.name]
            return
        offset = noticed_offset(result.infrared, result.visible_luma)
        if offset is not None:
            self.offsets[result.pair.name] = offset

    def warn(self, pairs: int) -> None:
        """Name what was noticed among `pairs` pairs, and the remedy."""
        warn_unsure(self._unsure, pairs)
        if self.offsets:
            log.warning(
                "out of register, so that people may appear twice: %d of %s (%s); `align` similarity mends it, and "
                "`align()` `calibrate` finds one transformation for cameras that are fixed to each other",
                len(self.offsets), counted(pairs, "pair"),
                first_of([f"{name} by {100 * off:.1f} % of the width" for name, off in self.offsets.items()], _SHOWN),
            )  # fmt: skip
