"""Draw docs/overview.jpg, the README's picture, from a rendered scene: `python -m tools.overview`.

Left: infrared and visible, below them their masks. Right: fused, twice as large.
"""

from pathlib import Path

import cv2
import numpy as np
import torch

from thfuse_sam.arrays import ImageArray
from thfuse_sam.datasets.fusion import FusionDataset
from thfuse_sam.datasets.pairs import ImagePair
from thfuse_sam.fusion.colour import add_colour
from thfuse_sam.fusion.inference import fuse_lumas
from thfuse_sam.fusion.loading import load_network
from thfuse_sam.images import as_rgb, write_image
from thfuse_sam.masks.overlay import draw_overlay
from thfuse_sam.masks.source import LiveMasks
from thfuse_sam.options.generator import GENERATOR_DEFAULTS
from thfuse_sam.sam.checkpoints import resolve_sam
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.loading import load_sam
from tools.scenes import render_scene

SEED = 7
HEIGHT, WIDTH = 720, 960
GAP = 8  # pixels between pictures
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    scene = render_scene(SEED, height=HEIGHT, width=WIDTH, condition="night")
    folder = ROOT / "demo" / "overview"
    pair = ImagePair("scene", folder / "ir.png", folder / "vi.png")
    write_image(pair.ir, scene.infrared)
    write_image(pair.vi, scene.visible)
    generator = AutomaticMaskGenerator(load_sam(resolve_sam("vit_nano")), GENERATOR_DEFAULTS["vit_nano"])
    infrared = as_rgb(scene.infrared)
    overlays = [draw_overlay(image, generator.label_map(image, scene.infrared)) for image in (infrared, scene.visible)]
    network, _ = load_network(ROOT / "models" / "thfuse_lite.safetensors")
    sample = FusionDataset([pair], LiveMasks(generator.label_map))[0]
    (luma,) = fuse_lumas(network, [sample], torch.device("cpu"))
    fused = add_colour(luma, scene.visible)
    sources, masks = _side_by_side(infrared, scene.visible), _side_by_side(*overlays)
    left = np.vstack([sources, np.full((GAP, sources.shape[1], 3), 255, np.uint8), masks])
    left = left[: len(fused)]  # the gap makes the left half higher: the lower masks lose as many rows
    write_image(ROOT / "docs" / "overview.jpg", np.hstack([left, np.full((len(left), GAP, 3), 255, np.uint8), fused]))


def _side_by_side(*images: ImageArray) -> ImageArray:
    """Two images, uint8 HxWx3, at half their size."""
    first, second = (cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for image in images)
    return np.hstack([first, np.full((len(first), GAP, 3), 255, np.uint8), second])


if __name__ == "__main__":
    main()
