"""Pairs whose images are placed in one frame when they are read, and so may differ in size."""

from collections.abc import Sequence

from torch.utils.data import Dataset

from thfuse_sam.align.estimate import by_size
from thfuse_sam.align.placement import Placement, Placer
from thfuse_sam.arrays import Array
from thfuse_sam.datasets.fusion import FusionSample, fusion_sample
from thfuse_sam.datasets.pairs import ImagePair
from thfuse_sam.images import infrared_numbers
from thfuse_sam.masks.source import MaskSource
from thfuse_sam.options.align import VISIBLE


class AlignedPairs(Dataset[FusionSample]):
    """Pairs with their masks, placed in one frame by `placer`.

    Raises on reading a sample: ImageReadError; UsageError where a rig is for other sizes.
    """

    def __init__(self, pairs: Sequence[ImagePair], mask_source: MaskSource, placer: Placer) -> None:
        self._pairs, self._masks, self._placer = list(pairs), mask_source, placer
        self.placements: dict[str, Placement] = {}  # of the pairs that were read, by name

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> FusionSample:
        pair = self._pairs[index]
        infrared, visible = pair.read()
        placement = self.placements[pair.name] = self._placer.place(infrared, visible)
        ir_mask = self._masks.get("ir", pair.name, pair.ir, placement.alignment.ir_size, infrared)
        # Warm places are looked up in the infrared image as it lies on the visible one.
        on_visible = Placement.of(placement.alignment, VISIBLE).images(infrared, visible)[0]
        vi_mask = self._masks.get("vi", pair.name, pair.vi, placement.alignment.vi_size, on_visible)
        return fusion_sample(
            pair.name,
            *placement.images(infrared, visible),
            None if ir_mask is None else placement.mask("ir", ir_mask),
            None if vi_mask is None else placement.mask("vi", vi_mask),
        )


def registered_numbers(pair: ImagePair, placement: Placement | None, nothing: int = 0) -> Array | None:
    """The numbers of the infrared image HxW in the frame, see `Placement.numbers`; None: it has only 8 bits.

    `placement` None: the frame is the image itself. Raises ImageReadError.
    """
    found = infrared_numbers(pair.ir, pair.reading)
    if found is None:
        return None
    size = (found[0].shape[0], found[0].shape[1])
    return (placement or Placement.of(by_size(size, size), VISIBLE)).numbers(*found, nothing)
