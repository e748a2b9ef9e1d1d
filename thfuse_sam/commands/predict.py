"""Making masks of images, and writing the model that makes them as ONNX, according to `PredictOptions`."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from thfuse_sam.commands.infrared import infrared_reading
from thfuse_sam.commands.inputs import open_sam, warn_of_older
from thfuse_sam.datasets.named_images import list_images
from thfuse_sam.datasets.prompts import ObjectPrompt
from thfuse_sam.devices import resolve_device
from thfuse_sam.errors import ImageReadError, OptionError, UsageError, counted, naming
from thfuse_sam.files import remove_abandoned, require_apart, require_writable
from thfuse_sam.finetune.prediction import (
    OVERLAYS,
    ImagePredictor,
    PredictionWriter,
    automatic_predictor,
    prompted_predictor,
    require_prompts_inside,
)
from thfuse_sam.images import image_size, read_for_sam_and_missing
from thfuse_sam.options.predict import PredictOptions
from thfuse_sam.progress import progress_bar
from thfuse_sam.report.prompts import draw_objects
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.hugging_face import HuggingFaceSam
from thfuse_sam.sam.onnx import export_sam_onnx
from thfuse_sam.sam.registry import own_settings
from thfuse_sam.thermal import AS_STORED, InfraredReading

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What was predicted and written."""

    model_type: str
    images: int  # with their masks written
    objects: int
    failures: list[str]  # one line for each image that could not be read


def export_model(options: PredictOptions, folder: Path) -> None:
    """Write the model as ONNX to `folder`, and check it. Raises ThFuseError."""
    require_writable("export_onnx", folder)
    sam, model_type = open_sam(options, torch.device("cpu"))
    if isinstance(sam, HuggingFaceSam):
        raise UsageError("`export_onnx`: a model of Hugging Face's transformers cannot be written; name another type")
    difference = export_sam_onnx(sam, folder)
    log.info("%s written to %s; onnxruntime differs from it by %.1e at most", model_type, folder, difference)


def predict_masks(options: PredictOptions) -> Prediction:
    """Write the masks of each image: one for each prompt, or, without prompts, of everything. Raises ThFuseError."""
    if options.input is None:
        raise UsageError("`input` is not given; name an image or a folder of images")
    prompts = _prompts(options)
    images = _images(options.input)
    for path in images.values() if prompts else ():
        with contextlib.suppress(ImageReadError):  # listed as a failure when its turn comes
            require_prompts_inside(prompts, image_size(path), f", {path}")
    reading = infrared_reading(options, list(images.values())) if options.modality == "ir" else AS_STORED
    require_writable("output_dir", options.output_dir)
    folders = ["."] * ("png" in options.format) + [OVERLAYS] * options.overlay  # of pictures named as the images
    pictures = (options.output_dir / folder / f"{name}.png" for folder in folders for name in images)
    require_apart("output_dir", options.output_dir, pictures, images.values())
    device = resolve_device(options.device)
    sam, model_type = open_sam(options, device)
    if prompts:
        predictor = prompted_predictor(sam, prompts)
    else:
        settings = options.generator_settings(own_settings(sam))
        predictor = automatic_predictor(AutomaticMaskGenerator(sam, settings), options.modality)
    if options.output_dir.is_dir():
        remove_abandoned(options.output_dir)
    prediction = _predict(options, images, reading, predictor, prompts, model_type)
    found = f"{counted(prediction.objects, 'mask')} of {counted(prediction.images, 'image')}"
    log.info("%s by %s in %s", found, model_type, options.output_dir)
    for failure in prediction.failures:
        log.error("failed: %s", failure)
    return prediction


def _prompts(options: PredictOptions) -> list[ObjectPrompt]:
    if any(not any(point.label for point in points) for points in options.points):
        raise UsageError("`points`: an object has no point inside; give at least one X,Y")
    prompts = [
        ObjectPrompt(np.array([(p.x, p.y) for p in points]), np.array([p.label for p in points], np.int32))
        for points in options.points
    ]
    return prompts + [ObjectPrompt(box=np.array([box.x0, box.y0, box.x1, box.y1])) for box in options.boxes]


def _images(path: Path) -> dict[str, Path]:
    """The images by name, which is the path below the folder without suffix. Raises OptionError."""
    if path.is_file():
        return {path.stem: path}
    if not path.is_dir():
        raise OptionError("input", path, "no such file or folder; give an image or a folder of images")
    images = list_images(path)
    if not images:
        raise OptionError("input", path, "holds no image; give a folder of PNG, JPEG, BMP or TIFF files")
    return images


def _predict(
    options: PredictOptions,
    images: dict[str, Path],
    reading: InfraredReading,
    predictor: ImagePredictor,
    prompts: Sequence[ObjectPrompt],
    model_type: str,
) -> Prediction:
    draw = partial(draw_objects, prompts=prompts, longer_side=0)
    writer = PredictionWriter(options.output_dir, options.format, draw if options.overlay else None)
    failures: list[str] = []
    objects = 0
    for name, path in progress_bar(images.items(), unit=" images"):
        try:
            with naming("input", options.input):
                image, missing = read_for_sam_and_missing(path, options.modality, reading)
        except ImageReadError as error:
            if len(images) == 1:
                raise
            failures.append(str(error))
            continue
        masks = predictor(image, missing)
        objects += len(masks)
        writer.write(name, path.name if len(images) == 1 else f"{name}{path.suffix}", image, masks)
    writer.close()
    of_images = {path.resolve().parent for path in images.values()}  # in which other PNG files are images, too
    found = [path for path in writer.found() if path.suffix != ".png" or path.resolve().parent not in of_images]
    warn_of_older(found, writer.written, "mask file")
    return Prediction(model_type, len(images) - len(failures), objects, failures)
