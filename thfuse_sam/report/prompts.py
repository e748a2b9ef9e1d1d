"""Drawing annotated objects and their prompts over an image, for a person to look at."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from thfuse_sam.arrays import ImageArray, Mask
from thfuse_sam.datasets.prompts import BACKGROUND, FOREGROUND, ObjectPrompt, interior_point
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.masks.format import paint_label_map
from thfuse_sam.masks.overlay import draw_overlay, segment_colors

_MIN_LONGER_SIDE = 640  # pixels, least length of a picture's longer side, so that marks and text stay apart
_FONT_SIZE = 13  # pixels
_MARK_RADIUS = 5  # pixels
_POINT_COLORS = {FOREGROUND: (40, 220, 60), BACKGROUND: (240, 40, 40)}
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def draw_sample(sample: SegmentationSample, prompts: Sequence[ObjectPrompt] = ()) -> ImageArray:
    """`draw_objects` of a sample: objects with their class names; `prompts` in the order of `object_ids`, or empty.

    Pixels that are ignored are greyed.
    """
    ids, image = sample.object_ids, sample.image
    if sample.ignored is not None:
        image = np.where(sample.ignored[..., None], image // 4 + np.uint8(96), image)
    names = [sample.categories.get(object_id, "") for object_id in ids]
    return draw_objects(image, [sample.mask(object_id) for object_id in ids], prompts, names)


def draw_objects(
    image: ImageArray,
    masks: Sequence[Mask],
    prompts: Sequence[ObjectPrompt] = (),
    names: Sequence[str] | None = None,
    *,
    longer_side: int = _MIN_LONGER_SIDE,
) -> ImageArray:
    """The image with objects in colour, names, and prompts.

    Boxes have their object's colour; foreground points are green discs, background points red crosses; an earlier
    mask is outlined in white.

    Args:
        image: uint8 HxWx3, RGB.
        masks: one per object, bool HxW; the position in this list decides the colour. Smaller ones lie over larger
            ones, whose outlines are drawn whole.
        prompts: one per mask, or empty for no prompts.
        names: text to write at each object, one per mask; None for no text.
        longer_side: least length of the picture's longer side, pixels; 0 for the image's own size.

    Returns:
        uint8 RGB, HxWx3 or a whole multiple of that size if the image is small.
    """
    height, width = image.shape[:2]
    factor = max(1, -(-longer_side // max(height, width)))
    areas = [int(np.count_nonzero(mask)) for mask in masks]
    labels = paint_label_map(masks, (height, width), numbered_by_area=False)
    visible_areas = np.bincount(labels.ravel(), minlength=len(masks) + 1)[1:]
    enlarged = np.repeat(np.repeat(image, factor, 0), factor, 1)
    picture = Image.fromarray(draw_overlay(enlarged, np.repeat(np.repeat(labels, factor, 0), factor, 1), opacity=0.4))
    draw = ImageDraw.Draw(picture)
    colors = [tuple(int(value) for value in color) for color in segment_colors(len(masks))]
    for index, mask in enumerate(masks):
        if visible_areas[index] < areas[index]:
            _draw_outline(draw, mask, factor, colors[index])
    for index, mask in enumerate(masks):
        if prompts:
            _draw_prompt(draw, prompts[index], factor, colors[index])
        if names is not None and names[index] and areas[index]:
            _draw_name(draw, names[index], interior_point(mask), factor)
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
        left, top, right, bottom = (
            float(x) - _MARK_RADIUS,
            float(y) - _MARK_RADIUS,
            float(x) + _MARK_RADIUS,
            float(y) + _MARK_RADIUS,
        )
        if label == FOREGROUND:
            draw.ellipse((left, top, right, bottom), fill=_POINT_COLORS[FOREGROUND], outline=_WHITE, width=1)
        else:
            draw.line((left, top, right, bottom), fill=_POINT_COLORS[BACKGROUND], width=3)
            draw.line((left, bottom, right, top), fill=_POINT_COLORS[BACKGROUND], width=3)


def _draw_name(draw: ImageDraw.ImageDraw, name: str, point: tuple[float, float], factor: int) -> None:
    font = ImageFont.load_default(size=_FONT_SIZE)
    # Below the point, where a prompt's mark may be drawn.
    position = (point[0] * factor, point[1] * factor + 2 * _MARK_RADIUS)
    draw.text(position, name, fill=_WHITE, font=font, anchor="mt", stroke_width=2, stroke_fill=_BLACK)
