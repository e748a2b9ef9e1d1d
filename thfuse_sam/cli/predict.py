"""`predict.py`: options -> model -> masks of an image or of a folder of images."""

import argparse
import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from segment_anything.modeling import Sam
from tqdm import tqdm

from thfuse_sam.cli import common
from thfuse_sam.datasets.pairs import list_images
from thfuse_sam.devices import resolve_device
from thfuse_sam.errors import ImageReadError, UsageError
from thfuse_sam.files import remove_abandoned
from thfuse_sam.finetune.prediction import (
    FORMATS,
    ImagePredictor,
    ObjectPrompt,
    PredictionWriter,
    automatic_predictor,
    prompted_predictor,
)
from thfuse_sam.images import MODALITIES, read_for_sam
from thfuse_sam.sam.checkpoints import AUTO
from thfuse_sam.sam.export import load_any
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.registry import MODEL_TYPES

GENERATOR_OPTIONS = {
    "points_per_side": (int, "points along each side of the grid"),
    "pred_iou_thresh": (float, "drop masks whose quality the model itself puts below this"),
    "stability_score_thresh": (float, "drop masks that change more than this with the cut-off"),
    "box_nms_thresh": (float, "of masks whose boxes overlap by more than this IoU, the best stays"),
    "min_mask_region_area": (int, "remove holes and islands smaller than this, in pixels"),
}

log = logging.getLogger(__name__)


def build_parser() -> common.CommandParser:
    parser = common.CommandParser(
        "predict.py",
        "Masks of an image, or of all images in a folder: one for each prompt, or of everything (without a prompt).",
    )
    group = parser.add_argument_group("images and model")
    add = group.add_argument
    add("--input", "--image", "-i", type=Path, required=True, help="an image or a folder of images")
    add("--modality", choices=MODALITIES, default="vi", help="ir reads 16-bit thermal images and grey")
    add("--checkpoint", "--sam_checkpoint", "-c", type=Path, help="SAM weights, whole or trained by finetune.py")
    add("--base_checkpoint", type=Path, help="what trained weights were tuned from (None: beside them or in the cache)")
    add("--model_type", "--sam_model_type", "-m", choices=(AUTO, *MODEL_TYPES), default=AUTO, help="which SAM")
    add("--device", "-g", default="auto", help="auto, cpu, cuda or cuda:1")

    group = parser.add_argument_group("prompts, the same for each image, in pixels")
    add = group.add_argument
    add(
        "--points",
        type=_point,
        nargs="+",
        action="append",
        default=[],
        metavar="X,Y[,0]",
        help="points of one object, 0 for outside; give the option again for another object",
    )
    add("--boxes", type=_box, nargs="+", default=[], metavar="X0,Y0,X1,Y1", help="one object each")

    group = parser.add_argument_group("without prompts", "None means the default of the model type")
    for name, (kind, text) in GENERATOR_OPTIONS.items():
        group.add_argument(f"--{name}", type=kind, help=text)

    group = parser.add_argument_group("output")
    add = group.add_argument
    add("--output_dir", type=Path, default=Path("results/predict"), help="folder of the masks")
    add("--format", nargs="+", choices=FORMATS, default=["npy"], help="label maps as .npy or PNG, COCO JSON")
    add("--overlay", action="store_true", help="also draw the masks over the images")
    parser.add_config_option()
    return parser


def _point(text: str) -> tuple[float, float, int]:
    values = _numbers(text, (2, 3), "X,Y or X,Y,1 (inside) or X,Y,0 (outside), such as 120,80")
    label = values[2] if len(values) == 3 else 1.0
    if label not in (0.0, 1.0):
        raise argparse.ArgumentTypeError(f"'{text}': a point is inside (1) or outside (0)")
    return values[0], values[1], int(label)


def _box(text: str) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = _numbers(text, (4,), "X0,Y0,X1,Y1, such as 10,20,200,180")
    return x0, y0, x1, y1


def _numbers(text: str, counts: tuple[int, ...], wanted: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts or not all(math.isfinite(value) for value in values):
        raise argparse.ArgumentTypeError(f"'{text}' is not {wanted}")
    return values


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return common.run(build_parser(), _predict, argv)


def _predict(options: argparse.Namespace) -> int:
    prompts = [ObjectPrompt(points=tuple(points)) for points in options.points]
    prompts += [ObjectPrompt(box=box) for box in options.boxes]
    if any(all(label == 0 for _, _, label in prompt.points) and prompt.box is None for prompt in prompts):
        raise UsageError("--points: an object has no point inside; give at least one X,Y")
    images = _images(options.input)
    common.require_writable("--output_dir", options.output_dir)
    device = resolve_device(options.device)
    sam, model_type = load_any(options.model_type, options.checkpoint, base=options.base_checkpoint, device=device)
    predictor = prompted_predictor(sam, prompts) if prompts else _automatic(options, sam, model_type)
    if options.output_dir.is_dir():
        remove_abandoned(options.output_dir)
    writer = PredictionWriter(options.output_dir, options.format, overlays=options.overlay)
    failures = []
    objects = 0
    for name, path in tqdm(images.items(), unit=" images", disable=None, leave=False):
        try:
            image = read_for_sam(path, options.modality)
        except ImageReadError as error:
            if len(images) == 1:
                raise
            failures.append(str(error))
            continue
        found = predictor(image)
        objects += len(found)
        writer.write(name, path.name if len(images) == 1 else f"{name}{path.suffix}", image, found)
    writer.close()
    log.info("%d masks of %d images by %s in %s", objects, len(images) - len(failures), model_type, options.output_dir)
    for failure in failures:
        log.error("failed: %s", failure)
    return 1 if failures else 0


def _images(path: Path) -> dict[str, Path]:
    """Name (below its folder, without suffix) -> file."""
    if path.is_file():
        return {path.stem: path}
    if not path.is_dir():
        raise UsageError(f"--input {path}: no such file or folder; give an image or a folder of images")
    images = list_images(path)
    if not images:
        raise UsageError(f"--input {path}: holds no image; give a folder of PNG, JPEG, BMP or TIFF files")
    return images


def _automatic(options: argparse.Namespace, sam: Sam, model_type: str) -> ImagePredictor:
    given = {name: value for name in GENERATOR_OPTIONS if (value := getattr(options, name)) is not None}
    settings = dataclasses.replace(MODEL_TYPES[model_type].defaults, **given)
    return automatic_predictor(AutomaticMaskGenerator(sam, settings))
