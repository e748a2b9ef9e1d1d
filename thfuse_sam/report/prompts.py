"""Drawing annotated objects and their prompts over an image, for a person to look at."""

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from thfuse_sam.datasets.prompts import FOREGROUND, PADDING, Prompts, interior_point
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.report.overlay import draw_overlay, segment_colors

_SMALLEST_SIDE = 640  # pixels that the longer side of a picture has at least, so that marks and text stay apart
_FONT_SIZE = 13  # pixels
_MARK = 5  # pixels, radius of a point
_COLORS = {FOREGROUND: (40, 220, 60), 0: (240, 40, 40)}
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)

Picture = npt.NDArray[np.uint8]


def draw_sample(sample: SegmentationSample, prompts: Prompts | None = None) -> Picture:
    """The image with its objects in colour, class names, and prompts.

    Boxes have their object's colour; foreground points are green discs, background points red crosses; an earlier
    mask is outlined in white.

    Args:
        sample: what to draw.
        prompts: of all objects, in the order of `sample.object_ids`; None draws none.

    Returns:
        uint8 HxWx3, RGB; made larger where the image is small.
    """
    factor = max(1, -(-_SMALLEST_SIDE // max(sample.shape)))
    numbers = {object_id: row for row, object_id in enumerate(sample.object_ids, 1)}
    # Consecutive numbers take consecutive colours, whatever the objects' own numbers are.
    lookup = np.zeros(max(numbers) + 1, np.int32)
    for object_id, number in numbers.items():
        lookup[object_id] = number
    image = np.repeat(np.repeat(sample.image, factor, 0), factor, 1)
    shown = np.repeat(np.repeat(lookup[sample.labels], factor, 0), factor, 1)
    picture = Image.fromarray(draw_overlay(image, shown, opacity=0.4))
    draw = ImageDraw.Draw(picture)
    colors = [tuple(int(value) for value in color) for color in segment_colors(len(numbers))]
    for object_id, number in numbers.items():
        if object_id in sample.overlapped:  # the covered part has no colour, so its outline is drawn whole
            _draw_outline(draw, sample.mask(object_id), factor, colors[number - 1])
    for row, object_id in enumerate(sample.object_ids):
        if prompts is not None:
            _draw_prompt(draw, prompts, row, factor, colors[row])
        if object_id in sample.categories:
            _draw_name(draw, sample.categories[object_id], interior_point(sample.mask(object_id)), factor)
    return np.asarray(picture)


def _draw_outline(draw: ImageDraw.ImageDraw, mask: npt.NDArray[np.bool_], factor: int, color: tuple[int, ...]) -> None:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for outline in outlines:
        points = [(float(x + 0.5) * factor, float(y + 0.5) * factor) for x, y in outline[:, 0]]
        if len(points) > 1:
            draw.line([*points, points[0]], fill=color, width=1)


def _draw_prompt(draw: ImageDraw.ImageDraw, prompts: Prompts, row: int, factor: int, color: tuple[int, ...]) -> None:
    if prompts.masks is not None and not np.isnan(prompts.masks[row, 0, 0]):
        _draw_outline(draw, prompts.masks[row] > 0, factor, _WHITE)
    if prompts.boxes is not None and not np.isnan(prompts.boxes[row, 0]):
        corners = [float(value) * factor for value in prompts.boxes[row]]
        draw.rectangle(corners, outline=_BLACK, width=4)
        draw.rectangle(corners, outline=color, width=2)
    for (x, y), label in zip(prompts.points[row] * factor, prompts.point_labels[row], strict=True):
        if label == PADDING:
            continue
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
