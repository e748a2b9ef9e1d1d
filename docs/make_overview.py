"""Draws docs/overview.jpg from a rendered scene: infrared, visible, both masks, fused. Run it from the checkout."""

from pathlib import Path

import numpy as np
import torch

from thfuse_sam.datasets.fusion import FusionDataset
from thfuse_sam.datasets.pairs import ImagePair
from thfuse_sam.datasets.synthetic import render_scene
from thfuse_sam.engine.checkpoint import load_network
from thfuse_sam.engine.fuse import add_colour, fuse_luma
from thfuse_sam.images import write_image
from thfuse_sam.masks.source import LiveMasks
from thfuse_sam.report.overlay import draw_overlay
from thfuse_sam.sam.checkpoints import resolve_sam
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.registry import MODEL_TYPES, build_sam

SEED = 7
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    scene = render_scene(SEED, height=360, width=480, condition="night")
    folder = ROOT / "demo" / "overview"
    pair = ImagePair("scene", folder / "ir.png", folder / "vi.png")
    write_image(pair.ir, scene.infrared)
    write_image(pair.vi, scene.visible)
    sam = resolve_sam("vit_nano")
    generator = AutomaticMaskGenerator(build_sam(sam.model_type, sam.checkpoint), MODEL_TYPES["vit_nano"].defaults)
    infrared = np.repeat(scene.infrared[..., None], 3, axis=2)
    overlays = [draw_overlay(image, generator.label_map(image)) for image in (infrared, scene.visible)]
    network, _ = load_network(ROOT / "models" / "thfuse_lite.safetensors")
    sample = FusionDataset([pair], LiveMasks(generator.label_map, None))[0]
    fused = add_colour(fuse_luma(network, sample, torch.device("cpu")), scene.visible)
    gap = np.full((360, 8, 3), 255, np.uint8)
    rows = [np.hstack([infrared, gap, scene.visible, gap, fused])]
    rows.append(np.full((8, rows[0].shape[1], 3), 255, np.uint8))
    blank = np.full_like(fused, 255)
    rows.append(np.hstack([overlays[0], gap, overlays[1], gap, blank]))
    write_image(ROOT / "docs" / "overview.jpg", np.vstack(rows))


if __name__ == "__main__":
    main()
