"""From the decoder's logits to masks: upsampling, thresholds, boxes, packed bits.

Nothing here waits for a GPU. The results are those of segment_anything's `utils.amg`, which stores masks in run-length
encoding in between.
"""

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thfuse_sam.devices import upload
from thfuse_sam.sam.geometry import Frame

_STRIP = 64  # rows, or columns, of the output that are interpolated together


def threshold_counts(logits: Tensor, mask_threshold: float, offset: float) -> tuple[Tensor, Tensor]:
    """Pixels above the raised and above the lowered threshold, of logits NxHxW: int32 N each.

    The first divided by the second is the stability score: the IoU of the masks at thresholds that are higher and lower
    than `mask_threshold` by `offset`.
    """
    higher, lower = (count_pixels(above(logits, mask_threshold + change)) for change in (offset, -offset))
    return higher, lower


def upsample_logits(logits: Tensor, frame: Frame) -> Tensor:
    """Resize the decoder's logits to the image as the model does: `Sam.postprocess_masks` in two steps, others at once.

    Args:
        logits: float32 Nxrxc; rows and columns at the end that hold nothing but padding may be missing.
        frame: where the image lies in the encoder's input.

    Returns:
        float32 NxHxW; equal but for rounding.
    """
    low = frame.logits_side
    padded, unpadded = (low, (low, low)) if frame.at_once else (frame.padded_size, frame.input_size)
    sizes = zip(unpadded, frame.image_size, strict=True)
    rows, columns = (_strips(low, padded, *axis, logits.device) for axis in sizes)
    wide = torch.cat([logits[:, :, a:b] @ weights.T for a, b, weights in columns], dim=2)
    upsampled = logits.new_empty((len(logits), *frame.image_size))
    for (a, b, weights), strip in zip(rows, upsampled.split(_STRIP, dim=1), strict=True):
        torch.bmm(weights.expand(len(logits), -1, -1), wide[:, a:b], out=strip)
    return upsampled


def mask_boxes(masks: Tensor) -> Tensor:
    """Boxes (x0, y0, x1, y1 of the first and last pixels) around masks bool NxHxW: int64 Nx4.

    An empty mask has the box 0, 0, 0, 0.
    """
    height, width = masks.shape[1:]
    if len(masks) == 0:
        return torch.zeros((0, 4), dtype=torch.int64, device=masks.device)
    # As bytes, whose maxima are computed by vector instructions.
    rows, columns = masks.view(torch.uint8).amax(2), masks.view(torch.uint8).amax(1)
    ends = [width - 1 - columns.flip(1).argmax(1), height - 1 - rows.flip(1).argmax(1)]
    boxes = torch.stack([columns.argmax(1), rows.argmax(1), *ends], dim=1)
    return boxes * rows.amax(1, keepdim=True)


def pack_bits(masks: Tensor) -> Tensor:
    """Masks bool NxHxW -> uint8 NxB, eight pixels a byte, each mask as `np.packbits` packs it."""
    pixels = masks.flatten(1)
    if missing := -pixels.shape[1] % 8:
        pixels = F.pad(pixels, (0, missing))
    # Eight bytes of 0 or 1 times this number have their sum of powers of two, the first byte's the greatest, on top.
    return (pixels.view(torch.int64) * -0x7FBFDFEFF7FBFDFF >> 56).to(torch.uint8)


@functools.lru_cache(maxsize=64)
def _strips(low: int, padded: int, unpadded: int, final: int, device: torch.device) -> list[tuple[int, int, Tensor]]:
    """The interpolation along one axis, `low` values -> `padded` -> the first `unpadded` -> `final`, in strips.

    A strip (start, stop, weights) makes consecutive outputs from the inputs start:stop. One matrix for all outputs
    would consist almost entirely of zeros.
    """
    matrix = (_interpolation(unpadded, final) @ _interpolation(low, padded)[:unpadded]).float()
    strips = []
    for first in range(0, final, _STRIP):
        weights = matrix[first : first + _STRIP]
        used = (weights != 0).any(0).nonzero()[:, 0]
        start, stop = int(used[0]), int(used[-1]) + 1
        strips.append((start, stop, upload(weights[:, start:stop].contiguous(), device)))
    return strips


def _interpolation(inputs: int, outputs: int) -> Tensor:
    """Matrix (outputs x inputs) of PyTorch's bilinear interpolation along one axis.

    The weights are PyTorch's own float32 ones, as float64 so that a product of two matrices does not lose digits.
    """
    identity = torch.eye(inputs, dtype=torch.float32)[None, None]
    return F.interpolate(identity, size=(outputs, inputs), mode="bilinear", align_corners=False)[0, 0].double()


def above(logits: Tensor, threshold: float) -> Tensor:
    """Whether each logit is above the threshold."""
    if logits.device.type == "cpu":
        # Equal to PyTorch's comparison and several times as fast.
        return torch.from_numpy(np.greater(logits.numpy(), np.float32(threshold)))
    return logits > threshold


def count_pixels(masks: Tensor) -> Tensor:
    """Numbers of True pixels of masks NxHxW."""
    if masks.device.type == "cpu":
        return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.int32)  # 3 times as fast
    return masks.sum(-1, dtype=torch.int32).sum(-1, dtype=torch.int32)
