"""Masks of single images by a Segment Anything model: one for each given prompt, or all segments of the image."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from thfuse_sam.arrays import ImageArray, Mask, Size, size_of
from thfuse_sam.datasets.prompts import ObjectPrompt
from thfuse_sam.datasets.segmentation.formats.coco import CocoAnnotations
from thfuse_sam.errors import UsageError
from thfuse_sam.files import write_atomically, write_text
from thfuse_sam.finetune.samples import prompt_tensors
from thfuse_sam.images import Modality, write_image
from thfuse_sam.masks.format import paint_label_map, paint_order, write_mask
from thfuse_sam.masks.instances import Instance, without
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.mask_model import AnySam, mask_model

OVERLAYS = "overlays"  # folder of the pictures of masks, below that of the masks
_COCO_FILE = "annotations.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """One mask of an image.

    Attributes:
        mask: bool HxW.
        score: the model's own estimate of the mask's IoU.
        area: pixels.

    Example:
        >>> import numpy as np
        >>> import thfuse_sam as th
        >>> th.Segment(np.ones((2, 3), bool), 0.9).area
        6
    """

    mask: Mask
    score: float

    def __repr__(self) -> str:
        return f"<Segment: {self.area} pixels, score {self.score:.2f}>"

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.mask))


# Takes an image (uint8 HxWx3), and its pixels without data (bool HxW; None: all have), which no mask covers.
ImagePredictor = Callable[[ImageArray, Mask | None], list[Segment]]
Draw = Callable[[ImageArray, Sequence[Mask]], ImageArray]


def prompted_predictor(sam: AnySam, prompts: Sequence[ObjectPrompt]) -> ImagePredictor:
    """A function that gives one mask for each of `prompts`, in their order.

    It raises UsageError for a prompt that lies outside its image.
    """
    model = mask_model(sam)

    def run(image: ImageArray, missing: Mask | None) -> list[Segment]:
        shape = size_of(image)
        require_prompts_inside(prompts, shape)
        frame = model.frame(shape)
        embedding = model.encode(image, frame)
        objects = []
        for prompt in prompts:
            [mask], [score] = model.predict(embedding, frame, prompt_tensors([prompt], frame))
            objects.append(Segment(mask if missing is None else mask & ~missing, float(score)))
        return objects

    return run


def automatic_predictor(generator: AutomaticMaskGenerator, modality: Modality) -> ImagePredictor:
    """A function that gives the masks of all segments of an image, larger ones first."""

    def run(image: ImageArray, missing: Mask | None) -> list[Segment]:
        infrared = image[..., 0] if modality == "ir" else None  # grey, repeated three times
        return as_segments(without(generator.generate(image, infrared), missing))

    return run


def as_segments(instances: Sequence[Instance]) -> list[Segment]:
    """What the mask generator finds, larger segments first."""
    order = paint_order([instance.area for instance in instances])
    return [Segment(instances[index].mask, instances[index].predicted_iou) for index in order]


class PredictionWriter:
    """Writes predicted masks: `<name>.npy` and `<name>.png` (label maps), `annotations.json` (COCO), and what `draw`,
    if it is given, makes of an image and its masks.
    """

    def __init__(self, folder: Path, formats: Sequence[str], draw: Draw | None) -> None:
        self.folder, self.formats, self._draw = folder, tuple(formats), draw
        self.written: list[Path] = []
        self._annotations = CocoAnnotations("object")

    def write(self, name: str, file_name: str, image: ImageArray, objects: Sequence[Segment]) -> None:
        """Write the objects of one image (uint8 HxWx3); `name` is its path below its folder, without suffix.

        Raises OutputError.
        """
        shape = size_of(image)
        labels = paint_label_map((item.mask for item in objects), shape, numbered_by_area=False)
        # Not `with_suffix`: a dot may be a part of the name.
        if "npy" in self.formats:
            write_mask(self._own(f"{name}.npy"), labels)
        if "png" in self.formats:
            picture = Image.fromarray(labels)
            write_atomically(self._own(f"{name}.png"), lambda file: picture.save(file, format="PNG"))
        if self._draw is not None:
            picture_of_masks = self._draw(image, [item.mask for item in objects])
            write_image(self._own(f"{OVERLAYS}/{name}.png"), picture_of_masks)
        if "coco" in self.formats:
            self._annotations.add_image(file_name, shape)
            for item in objects:
                self._annotations.add_object(item.mask, "object", score=item.score)

    def close(self) -> None:
        """Write the file that describes all images. Raises OutputError."""
        if "coco" in self.formats:
            write_text(self._own(_COCO_FILE), json.dumps(self._annotations.content()) + "\n")

    def found(self) -> list[Path]:
        """Masks and pictures of masks in the folders that were written to, also those of an earlier run."""
        folders = sorted({path.parent for path in self.written} | {self.folder / OVERLAYS})
        files = (path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()))
        return [path for path in files if path.suffix in (".npy", ".png") or path.name == _COCO_FILE]

    def _own(self, name: str) -> Path:
        """The path of a file that is about to be written."""
        self.written.append(self.folder / name)
        return self.written[-1]


def require_prompts_inside(prompts: Sequence[ObjectPrompt], shape: Size, where: str = "") -> None:
    """Raise UsageError for a prompt outside an image of (height, width) `shape`, or in fractions of it, as some
    programs write; `where` names the image.
    """
    for prompt in prompts:
        values = [value for part in (prompt.points, prompt.box) if part is not None for value in np.ravel(part)]
        if values and max(values) <= 1 and any(value % 0.5 for value in values):  # not the middle of the first pixel
            given = ",".join(f"{value:g}" for value in values)
            raise UsageError(f"prompt {given}: seems to be in fractions of the image{where}; give pixels")
        _require_inside(prompt, shape, where)


def _require_inside(prompt: ObjectPrompt, shape: Size, where: str) -> None:
    height, width = shape
    for x, y in () if prompt.points is None else prompt.points:
        if not (0 <= x <= width and 0 <= y <= height):
            raise UsageError(f"`points` {x:g},{y:g}: lies outside the image of {width}x{height} pixels{where}")
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            given = f"{x0:g},{y0:g},{x1:g},{y1:g}"
            image = f"the image of {width}x{height} pixels{where}"
            if x0 < x1 and y0 < y1:
                raise UsageError(f"`boxes` {given}: reaches out of {image}; cut it off at the image's borders")
            raise UsageError(f"`boxes` {given}: is no box in {image}; give X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1")
