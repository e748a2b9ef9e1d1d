"""The figures on the card of `vit_nano`: interior-point IoU, masks per photo, time of an automatic run.

    python -m benchmarks.nano_card --scenes 40 --pennfudan DIR --photos DIR...

Scenes are rendered from seeds that neither the sample set nor any training uses on purpose (900000 and up).
`--pennfudan` wants `PNGImages/` and `PedMasks/` below DIR. Prints one markdown table.
"""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam

from benchmarks.common import command_line, markdown_table, timed
from thfuse_sam.datasets.named_images import list_images
from thfuse_sam.images import Modality, read_for_sam, read_visible
from thfuse_sam.options.generator import GENERATOR_DEFAULTS
from thfuse_sam.sam.checkpoints import resolve_sam
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.loading import load_sam
from tools.scenes import render_scene
from tools.vit_nano.evaluation import ObjectIou, prompted_ious

FIRST_SEED = 900_000


def scene_ious(sam: Sam, count: int) -> tuple[list[ObjectIou], list[ObjectIou]]:
    """IoUs of visible and infrared objects over `count` scenes."""
    visible: list[ObjectIou] = []
    infrared: list[ObjectIou] = []
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        scene = render_scene(seed, height=480, width=640)
        visible += prompted_ious(sam, scene.visible, scene.visible_labels)
        infrared += prompted_ious(sam, np.repeat(scene.infrared[..., None], 3, 2), scene.infrared_labels)
    return visible, infrared


def pennfudan_ious(sam: Sam, root: Path, names: str) -> list[ObjectIou]:
    """IoUs of all people in the photos whose names match the pattern."""
    masks = list_images(root / "PedMasks")
    ious: list[ObjectIou] = []
    for name, path in list_images(root / "PNGImages").items():
        if fnmatch.fnmatch(name, names):
            label_map = _label_image(masks.get(f"{name}_mask") or masks[name])
            ious += prompted_ious(sam, read_visible(path), label_map, min_area=0)
    return ious


def iou_rows(ious: Sequence[ObjectIou], what: str) -> list[tuple[str, str]]:
    """Two rows: mean IoU from points and from boxes."""
    shown = {"interior point": [iou.point for iou in ious], "box": [iou.box for iou in ious]}
    return [(f"IoU by {prompt}, {what} ({len(ious)})", f"{np.mean(values):.3f}") for prompt, values in shown.items()]


def _label_image(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def photo_masks(generator: AutomaticMaskGenerator, folder: Path, step: int) -> tuple[str, str]:
    """A row: how many masks every `step`th photo of a folder gets, and how much of it they cover."""
    modality: Modality = "ir" if folder.name == "ir" else "vi"
    counts, coverage = [], []
    for path in list(list_images(folder).values())[::step]:
        label_map = generator.label_map(read_for_sam(path, modality))
        counts.append(len(np.unique(label_map[label_map > 0])))
        coverage.append(float((label_map > 0).mean()))
    low, middle, high = np.percentile(counts, [5, 50, 95])
    name = f"masks per photo, {folder.parent.name}/{folder.name} ({len(counts)} photos): 5 %, median, 95 %"
    return name, f"{low:.0f}, {middle:.0f}, {high:.0f}; {np.mean(coverage):.0%} covered"


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line(__doc__)
    parser.add_argument("--checkpoint", type=Path, help="weights (default: the shipped ones)")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--pennfudan", type=Path)
    parser.add_argument("--pennfudan_names", default="Penn*", help="pattern of the photos left out of the training")
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--photo_step", type=int, default=1, help="take every n-th photo")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    resolved = resolve_sam("vit_nano", options.checkpoint)
    sam = load_sam(resolved)
    rows = [("SHA-256", f"`{resolved.sha256}`")]
    visible, infrared = scene_ious(sam, options.scenes)
    for name, ious in (("visible", visible), ("infrared", infrared), ("both", visible + infrared)):
        rows += iou_rows(ious, f"objects of {options.scenes} scenes, {name}")
    if options.pennfudan:
        names = options.pennfudan_names
        rows += iou_rows(pennfudan_ious(sam, options.pennfudan, names), f"people of Penn-Fudan, {names}")
    generator = AutomaticMaskGenerator(sam, GENERATOR_DEFAULTS["vit_nano"])
    rows += [photo_masks(generator, folder, options.photo_step) for folder in options.photos]
    image = render_scene(FIRST_SEED, height=480, width=640).visible
    walls = []
    for _ in range(3):
        with timed() as spent:
            generator.generate(image)
        walls.append(spent.wall)
    rows.append((f"automatic run, 640x480, {options.threads} threads, best of 3", f"{min(walls):.2f} s"))
    print(markdown_table(("figure", "value"), rows, text_columns=2))


if __name__ == "__main__":
    main()
