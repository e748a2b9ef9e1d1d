"""Masks in Python: `masks` for one image, `Sam` for a model that is kept, `Masks` for what they find."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thfuse_sam.api.inputs import (
    ImageInput,
    ValueRange,
    as_infrared,
    as_infrared_and_missing,
    as_path,
    as_visible,
    described,
    given_options,
)
from thfuse_sam.arrays import Array, ImageArray, Mask, Size, size_of
from thfuse_sam.datasets.prompts import ObjectPrompt
from thfuse_sam.devices import resolve_device
from thfuse_sam.errors import ImageSizeError, UsageError, counted, naming, renaming, shown
from thfuse_sam.finetune.prediction import Segment, as_segments, prompted_predictor
from thfuse_sam.images import Modality, as_rgb, size_text
from thfuse_sam.masks.format import LabelMap, paint_label_map
from thfuse_sam.masks.instances import without
from thfuse_sam.masks.overlay import draw_overlay
from thfuse_sam.options.fields import AUTO
from thfuse_sam.options.generator import GeneratorOptions, GeneratorSettings
from thfuse_sam.options.shared import Polarity
from thfuse_sam.sam.checkpoints import resolve_tuned
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.loading import load_sam
from thfuse_sam.sam.mask_model import AnySam
from thfuse_sam.sam.registry import own_settings


@dataclasses.dataclass(frozen=True, eq=False)
class Masks:
    """The masks of one image. `numpy.asarray` of it is its label map.

    Attributes:
        image: uint8 HxWx3, RGB, as the model saw it.
        label_map: uint8 or uint16 HxW; 0 is no segment, k the k-th of `instances`; smaller ones lie over larger ones.
        instances: the whole masks, which may overlap.

    Example:
        >>> import numpy as np
        >>> import thfuse_sam as th
        >>> found = th.masks(np.zeros((48, 64), np.uint8), sam="vit_nano", device="cpu", points_per_side=2)
        >>> found
        <Masks: ... segments, 64x48>
        >>> np.asarray(found).shape, found.overlay().shape
        ((48, 64), (48, 64, 3))
    """

    image: ImageArray
    label_map: LabelMap
    instances: list[Segment]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.label_map, dtype=dtype) if copy else np.asarray(self.label_map, dtype=dtype)

    def __len__(self) -> int:
        return len(self.instances)

    def __repr__(self) -> str:
        height, width = self.shape
        return f"<Masks: {counted(len(self), 'segment')}, {width}x{height}>"

    @property
    def shape(self) -> Size:
        """Height and width."""
        return size_of(self.label_map)

    def overlay(self, *, opacity: float = 0.45) -> ImageArray:
        """The image with its segments drawn over it, `opacity` from 0 to 1: uint8 HxWx3, RGB. Raises UsageError."""
        if not (isinstance(opacity, (int, float)) and 0 <= opacity <= 1):
            raise UsageError(f"`opacity` {shown(opacity)}: give a number from 0 to 1")
        return draw_overlay(self.image, self.label_map, opacity=opacity)


class Sam:
    """A Segment Anything model that is kept in memory. Made by `Sam.load`. Only one thread at a time may use it.

    Attributes:
        model_type: "vit_h", "vit_l", "vit_b", "vit_t", "vit_nano" or "hf".
        checkpoint: the file of its weights; of "hf" the folder.
        generator: the mask generator, with its `settings`.

    Example:
        >>> import numpy as np
        >>> import thfuse_sam as th
        >>> sam = th.Sam.load("vit_nano", device="cpu", points_per_side=2)
        >>> image = np.zeros((48, 64, 3), np.uint8)
        >>> sam.generate(image).shape
        (48, 64)
        >>> len(sam.predict(image, boxes=[(10, 10, 30, 30)], points=[[(5, 5)]]))
        2
    """

    def __init__(self, model: AnySam, model_type: str, checkpoint: Path, settings: GeneratorSettings) -> None:
        self.model_type, self.checkpoint = model_type, checkpoint
        self.generator = AutomaticMaskGenerator(model, settings)

    def __repr__(self) -> str:
        return f"<Sam: {self.model_type} from {self.checkpoint} on {self.generator.sam.device}>"

    @classmethod
    def load(
        cls,
        model: str = AUTO,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        base_checkpoint: str | os.PathLike[str] | None = None,
        device: str | torch.device = AUTO,
        **settings: Any,
    ) -> "Sam":
        """Load a model, with its own defaults for masks.

        Args:
            model: the model type, or "auto": that of the checkpoint; without one `vit_t`, which is downloaded, or
                `vit_nano`, which ships. "hf": a model for Hugging Face's transformers.
            checkpoint: a file of weights, also one that `finetune` wrote; None: the published weights. For "hf" a
                folder, or owner/name.
            base_checkpoint: the weights from which `finetune` started, where they are not found by themselves.
            device: "auto", "cpu", "cuda" or "cuda:1".
            settings: changes to the mask generator, such as `points_per_side`, `pred_iou_thresh` or `precision`
                ("fp32", "bf16", "fp16", "auto"); see docs/generator.md.

        Raises:
            UsageError: no such model type, device or setting.
            CheckpointError: the file is missing, damaged or of another type, or cannot be downloaded.
        """
        options = given_options(GeneratorOptions, settings, "setting")
        path = None if checkpoint is None else as_path(checkpoint, "checkpoint")
        base = None if base_checkpoint is None else as_path(base_checkpoint, "base_checkpoint")
        with (
            renaming(sam_model_type="model", model_type="model", sam_checkpoint="checkpoint"),
            naming("checkpoint", path),
        ):
            resolved = resolve_tuned(model, path, base=base)
            sam = load_sam(resolved, resolve_device(device))
        return cls(sam, resolved.model_type, resolved.checkpoint, options.generator_settings(own_settings(sam)))

    def generate(
        self,
        image: ImageInput,
        *,
        modality: Modality = "vi",
        infrared: ImageInput | None = None,
        value_range: ValueRange | None = None,
        ir_polarity: Polarity = "white-hot",
    ) -> Masks:
        """Masks of everything in an image, as `thfuse masks` makes them.

        Args:
            image: a path, a PIL image, or an array HxW or HxWx3 (RGB).
            modality: "ir" for an infrared image.
            infrared: of a visible image, the infrared one of the same scene and size. A model that looks at warm
                places, as `vit_nano` does, then finds more of them.
            value_range: the values that become black and white, of arrays of other types than uint8 and of infrared
                files of more than 8 bits.
            ir_polarity: "black-hot" where what is warm is dark in infrared images.

        Raises:
            ImageReadError: the file cannot be read.
            UsageError: the array is no image.
            DeviceError: memory does not suffice.
        """
        pixels, missing, warm = _images(image, modality, infrared, value_range, ir_polarity)
        segments = as_segments(without(self.generator.generate(pixels, warm), missing))
        return Masks(pixels, paint_label_map((segment.mask for segment in segments), pixels.shape[:2]), segments)

    def predict(
        self,
        image: ImageInput,
        *,
        points: Sequence[Sequence[Sequence[float]]] | Array = (),
        boxes: Sequence[Sequence[float]] | Array = (),
        modality: Modality = "vi",
        value_range: ValueRange | None = None,
    ) -> Masks:
        """One mask for each prompt, first those of `points`, then those of `boxes`, as `thfuse predict` makes them.

        Args:
            image, modality, value_range: as for `generate`.
            points: for each object its points (x, y), or (x, y, 0) for one outside of it, in pixels.
            boxes: (x0, y0, x1, y1) around each object, in pixels.

        Raises:
            UsageError: no prompt, or one that lies outside of the image.
        """
        for name, given in (("points", points), ("boxes", boxes)):
            if not isinstance(given, Iterable):
                raise UsageError(f"`{name}` {shown(given)}: give a list of them, one entry for each object")
        prompts = [_point_prompt(one) for one in points] + [_box_prompt(box) for box in boxes]
        if not prompts:
            raise UsageError("`points` and `boxes` are empty; give a prompt, or use `generate` for everything")
        pixels, missing, _ = _images(image, modality, None, value_range, "white-hot")
        segments = prompted_predictor(self.generator.sam, prompts)(pixels, missing)
        labels = paint_label_map((segment.mask for segment in segments), pixels.shape[:2], numbered_by_area=False)
        return Masks(pixels, labels, segments)


def masks(
    image: ImageInput,
    sam: str | Sam = AUTO,
    *,
    modality: Modality = "vi",
    infrared: ImageInput | None = None,
    value_range: ValueRange | None = None,
    ir_polarity: Polarity = "white-hot",
    device: str | torch.device = AUTO,
    **settings: Any,
) -> Masks:
    """Masks of everything in one image, as `thfuse masks` makes them.

    A model that is named by its type is kept for the next call with the same `sam`, `device` and settings.

    Args:
        image, modality, infrared, value_range, ir_polarity: see `Sam.generate`.
        sam: a model type, or a `Sam`, which has its own device and settings.
        device, settings: see `Sam.load`.

    Example:
        >>> import numpy as np
        >>> import thfuse_sam as th
        >>> found = th.masks(np.zeros((48, 64), np.uint8), sam="vit_nano", device="cpu", points_per_side=2)
        >>> int(found.label_map.max()), found.instances
        (0, [])
    """
    if isinstance(sam, Sam):
        require_no_settings(settings if device == AUTO else {**settings, "device": device})
        return sam.generate(
            image, modality=modality, infrared=infrared, value_range=value_range, ir_polarity=ir_polarity
        )
    if not isinstance(sam, str):
        raise UsageError(f"`sam` {described(sam)}: give a model type, or a model that `Sam.load` has loaded")
    with renaming(model="sam"):
        kept = _kept_sam(sam, str(device), given_options(GeneratorOptions, settings, "setting"))
    return kept.generate(image, modality=modality, infrared=infrared, value_range=value_range, ir_polarity=ir_polarity)


def require_no_settings(given: Iterable[str]) -> None:
    """Raise UsageError for arguments that a loaded model, given beside them, would leave without effect."""
    if names := ", ".join(f"`{name}`" for name in given):
        raise UsageError(f"{names}: `sam` is a loaded model and has its own; give them to `Sam.load`")


@functools.lru_cache(maxsize=1)
def _kept_sam(model: str, device: str, settings: GeneratorOptions) -> Sam:
    return Sam.load(model, device=device, **vars(settings))


def _images(
    image: ImageInput, modality: str, infrared: ImageInput | None, value_range: ValueRange | None, ir_polarity: Polarity
) -> tuple[ImageArray, Mask | None, ImageArray | None]:
    """What the model sees, uint8 HxWx3; where it has no data; and the infrared image, uint8 HxW, if there is one."""
    if modality not in ("ir", "vi"):
        raise UsageError(f"`modality` {modality}: give ir or vi")
    if modality == "ir" and infrared is not None:
        raise UsageError('`infrared`: is for a visible `image`; leave it out, or give `modality="vi"`')
    if modality == "vi" and infrared is None and ir_polarity != "white-hot":
        raise UsageError(f'`ir_polarity` {ir_polarity}: is for infrared images; give `modality="ir"`, or `infrared`')
    if modality == "ir":
        own, missing = as_infrared_and_missing(image, "image", value_range, ir_polarity)
        return as_rgb(own), missing, own
    warm = None if infrared is None else as_infrared(infrared, "infrared", value_range, ir_polarity)
    visible = as_visible(image, "image", value_range)
    if warm is not None and warm.shape != visible.shape[:2]:
        raise ImageSizeError(
            f"`infrared` is {size_text(warm.shape)} and `image` {size_text(visible.shape)} (width x height); align them"
        )
    return visible, None, warm


def _point_prompt(given: Sequence[Sequence[float]]) -> ObjectPrompt:
    with contextlib.suppress(TypeError, ValueError):
        points = np.array([point if len(point) == 3 else (*point, 1) for point in given], float)
        if points.shape == (len(given), 3) and 1 in points[:, 2] and np.isin(points[:, 2], (0, 1)).all():
            return ObjectPrompt(points[:, :2], points[:, 2].astype(np.int32))
    raise UsageError(
        f"`points` {shown(given)}: give for each object [(x, y), (x, y, 0), ...]: 0 is outside, at least one inside"
    )


def _box_prompt(box: Sequence[float]) -> ObjectPrompt:
    with contextlib.suppress(TypeError, ValueError):
        corners = np.asarray(box, float)
        if corners.shape == (4,):
            return ObjectPrompt(box=corners)
    raise UsageError(f"`boxes` {shown(box)}: give (x0, y0, x1, y1) for each object")
