"""Annotated images that tests of fine-tuning share: bright rectangles on noise, and a small random model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from thfuse_sam.datasets.segmentation import SegmentationDataset, SegmentationSample
from thfuse_sam.files import file_sha256
from thfuse_sam.sam.checkpoints import ResolvedSam
from thfuse_sam.sam.nano import build_vit_nano

SHAPES = ((40, 64), (64, 48), (50, 50))


class FakeObjects(SegmentationDataset):
    """Images with one to three rectangles each; `on_disk` says that their embeddings are worth keeping."""

    def __init__(self, count: int = 5, *, on_disk: bool = True) -> None:
        self.count, self.on_disk, self.reads = count, on_disk, 0

    @property
    def names(self) -> list[str]:
        return [f"image{index}" for index in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> SegmentationSample:
        self.reads += 1
        random = np.random.default_rng(index)
        height, width = SHAPES[index % len(SHAPES)]
        image = random.integers(0, 60, (height, width, 3), dtype=np.uint8)
        masks = {}
        for number in range(1, index % 3 + 2):
            mask = np.zeros((height, width), bool)
            top, left = int(random.integers(0, height // 2)), int(random.integers(0, width // 2))
            mask[top : top + height // 3, left : left + width // 3] = True
            image[mask] = (60 * number + 20, 200, 255 - 60 * number)
            masks[number] = mask
        sample = SegmentationSample.from_masks(f"image{index}", image, masks)
        return replace(sample, source=Path(f"image{index}.png") if self.on_disk else None)


def write_base(path: Path, size: int = 64) -> ResolvedSam:
    """A random `vit_nano` as a checkpoint file."""
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(build_vit_nano(size).state_dict(), path)
    return ResolvedSam("vit_nano", path, file_sha256(path))
