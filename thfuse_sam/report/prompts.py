"""Drawing annotated objects and their prompts over an image, for a person to look at."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from thfuse_sam.datasets.prompts import FOREGROUND, ObjectPrompt, interior_point
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.masks.format import paint_label_map
from thfuse_sam.masks.overlay import draw_overlay, segment_colors

_SMALLEST_SIDE = 640  # pixels that the longer side of a picture has at least, so that marks and text stay apart
_FONT_SIZE = 13  # pixels
_MARK = 5  # pixels, radius of a point
_COLORS = {FOREGROUND: (40, 220, 60), 0: (240, 40, 40)}
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def draw_sample(sample: SegmentationSample, prompts: Sequence[ObjectPrompt] = ()) -> Picture:
    """The image with its objects, class names, and prompts of all objects in the order of `object_ids`, if any.

    See `draw_objects`.
    """
    ids = sample.object_ids
    names = [sample.categories.get(object_id, "") for object_id in ids]
    return draw_objects(sample.image, [sample.mask(object_id) for object_id in ids], prompts, names)


def draw_objects(
    image: Picture, masks: Sequence[Mask], prompts: Sequence[ObjectPrompt] = (), names: Sequence[str] | None = None
) -> Picture:
    """The image with objects in colour, names, and prompts.

    Boxes have their object's colour; foreground points are green discs, background points red crosses; an earlier
    mask is outlined in white.

    Args:
        image: uint8 HxWx3, RGB.
        masks: bool HxW each; the number in this list decides the colour. Smaller ones lie over larger ones, whose
            outline is drawn whole.
        prompts: of all of them, in this order; empty for none.
        names: to write at the objects; None for none.

    Returns:
        uint8 HxWx3, RGB; made larger where the image is small.
    """
    height, width = image.shape[:2]
    factor = max(1, -(-_SMALLEST_SIDE // max(height, width)))
    areas = [int(np.count_nonzero(mask)) for mask in masks]
    labels = paint_label_map(masks, (height, width), numbered_by_area=False)
    shown = np.bincount(labels.ravel(), minlength=len(masks) + 1)[1:]
    enlarged = np.repeat(np.repeat(image, factor, 0), factor, 1)
    picture = Image.fromarray(draw_overlay(enlarged, np.repeat(np.repeat(labels, factor, 0), factor, 1), opacity=0.4))
    draw = ImageDraw.Draw(picture)
    colors = [tuple(int(value) for value in color) for color in segment_colors(len(masks))]
    for row, mask in enumerate(masks):
        if shown[row] < areas[row]:
            _draw_outline(draw, mask, factor, colors[row])
    for row, mask in enumerate(masks):
        if prompts:
            _draw_prompt(draw, prompts[row], factor, colors[row])
        if names is not None and names[row] and areas[row]:
            _draw_name(draw, names[row], interior_point(mask), factor)
    return np.asarray(picture)


def _draw_outline(draw: ImageDraw.ImageDraw, mask: Mask, factor: int, color: tuple[int, ...]) -> None:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for outline in outlines:
        points = [(float(x + 0.5) * factor, float(y + 0.5) * factor) for x, y in outline[:, 0]]
        if len(points) > 1:
            draw.line([*points, points[0]], fill=color, width=1)


def _draw_prompt(draw: ImageDraw.ImageDraw, prompt: ObjectPrompt, factor: int, color: tuple[int, ...]) -> None:
    if prompt.mask is not None:
        _draw_outline(draw, prompt.mask > 0, factor, _WHITE)
    if prompt.box is not None:
        corners = [float(value) * factor for value in prompt.box]
        draw.rectangle(corners, outline=_BLACK, width=4)
        draw.rectangle(corners, outline=color, width=2)
    if prompt.points is None or prompt.labels is None:
        return
    for (x, y), label in zip(prompt.points * factor, prompt.labels, strict=True):
        around = (float(x) - _MARK, float(y) - _MARK, float(x) + _MARK, float(y) + _MARK)
        if label == FOREGROUND:
            draw.ellipse(around, fill=_COLORS[FOREGROUND], outline=_WHITE, width=1)
        else:
            draw.line(around, fill=_COLORS[0], width=3)
            draw.line((around[0], around[3], around[2], around[1]), fill=_COLORS[0], width=3)


def _draw_name(draw: ImageDraw.ImageDraw, name: str, point: tuple[float, float], factor: int) -> None:
    font = ImageFont.load_default(size=_FONT_SIZE)
    # Below the point, which may carry a mark.
    place = (point[0] * factor, point[1] * factor + 2 * _MARK)
    draw.text(place, name, fill=_WHITE, font=font, anchor="mt", stroke_width=2, stroke_fill=_BLACK)
