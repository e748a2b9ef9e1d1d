"""Segment Anything with prompts, as a differentiable function: preprocessing, encoding, decoding.

`SamPredictor` of segment_anything does the same without gradients and for one prompt; a test holds both equal.
Shapes: C channels; E image tokens and L = 4 * E mask logits along each side of the encoder's input (see `geometry`).
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from thfuse_sam.sam.geometry import LOGIT_STRIDE, Frame


@dataclasses.dataclass(frozen=True)
class PromptTensors:
    """Prompts of N objects of one image, all of one kind. Coordinates are pixels of the encoder's input."""

    points: Tensor | None = None  # float32 NxPx2: x, y
    labels: Tensor | None = None  # int32 NxP: 1 inside, 0 outside, -1 no point
    boxes: Tensor | None = None  # float32 Nx4: x0, y0, x1, y1
    masks: Tensor | None = None  # float32 Nx1xLxL, the logits of an earlier prediction

    def is_single_point(self) -> bool:
        """Whether each prompt is one point and nothing else: it can then mean a part or the whole of an object."""
        return self.points is not None and self.points.shape[1] == 1 and self.boxes is None and self.masks is None

    def rows(self, chosen: slice | Tensor) -> "PromptTensors":
        """The prompts of some of the objects."""
        return self._map(lambda tensor: tensor[chosen])

    def to(self, device: torch.device) -> "PromptTensors":
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> "PromptTensors":
        tensors = (self.points, self.labels, self.boxes, self.masks)
        return PromptTensors(*(None if tensor is None else function(tensor) for tensor in tensors))


def encode(sam: Sam, images: list[Tensor]) -> Tensor:
    """Resized images (uint8 3xhxw each) -> embeddings BxCxExE. Gradients flow where the encoder is trained."""
    return sam.image_encoder(torch.stack([sam.preprocess(image.to(sam.device)) for image in images]))


def decode(sam: Sam, embedding: Tensor, prompts: PromptTensors, *, multimask: bool) -> tuple[Tensor, Tensor]:
    """Masks of the prompts of one image.

    Args:
        embedding: CxExE.
        prompts: prompts of N objects, on the model's device.
        multimask: three masks for each prompt (part, object, whole) instead of one.

    Returns:
        logits: NxKxLxL, K = 3 or 1.
        ious: NxK, the model's own estimate of each mask's IoU.
    """
    points = None if prompts.points is None or prompts.points.shape[1] == 0 else (prompts.points, prompts.labels)
    sparse, dense = sam.prompt_encoder(points=points, boxes=prompts.boxes, masks=prompts.masks)
    logits, ious = sam.mask_decoder(
        image_embeddings=embedding[None],
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse.float(),  # segment_anything begins them in PyTorch's default type
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
    )
    return logits, ious


def best_mask(logits: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
    """The mask that the model rates best among each prompt's K (logits NxKxLxL, IoUs NxK): logits NxLxL, IoUs N."""
    best = ious.argmax(dim=1)
    rows = torch.arange(len(best), device=best.device)
    return logits[rows, best], ious[rows, best]


@torch.no_grad()
def predict(
    sam: Sam, embedding: Tensor, frame: Frame, prompts: PromptTensors
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Masks at the image's size and their estimated IoU: bool NxHxW, float32 N.

    For a single point the model gives three masks; the one that it rates best is returned.
    """
    prompts = prompts.to(sam.device)
    logits, ious = best_mask(*decode(sam, embedding, prompts, multimask=prompts.is_single_point()))
    masks = sam.postprocess_masks(logits[:, None].float(), frame.input_size, frame.image_size)[:, 0]
    return (masks > sam.mask_threshold).cpu().numpy(), ious.float().cpu().numpy()


def low_resolution_targets(
    masks: npt.NDArray[np.bool_], frame: Frame, ignored: npt.NDArray[np.bool_] | None = None
) -> tuple[Tensor, Tensor]:
    """Labelled masks at the resolution of the logits.

    Args:
        masks: bool NxHxW, at the size of the image that `frame` describes.
        ignored: bool HxW, pixels that are neither object nor background; None: there are none.

    Returns:
        targets: float32 NxLxL in [0, 1], the fraction of each logit's pixels that lies inside the mask.
        valid: float32 LxL, 1 where at least half of a logit's pixels belong to the image and are not ignored, else 0.
    """
    counted = torch.ones(1, 1, *frame.input_size)
    if ignored is not None:
        counted -= _resize(torch.from_numpy(ignored).float()[None, None], frame)
    covered = _pool_padded(counted, frame)[0, 0]
    inside = _pool_padded(_resize(torch.from_numpy(masks).float()[:, None], frame), frame)[:, 0]
    # Pixels of the padding, and those that are ignored, do not count.
    return (inside / covered.clamp(min=1e-6)).clamp(0, 1), (covered >= 0.5).float()


def mask_prompts(logits: npt.NDArray[np.float32], frame: Frame) -> Tensor:
    """Earlier masks as logits at the image's size (float32 NxHxW) -> mask prompts, float32 Nx1xLxL."""
    resized = _resize(torch.from_numpy(logits)[:, None], frame)
    return _pool_padded(resized, frame, padding=float(logits.min(initial=0.0)))


def _resize(values: Tensor, frame: Frame) -> Tensor:
    """Nx1xHxW at the image's size -> Nx1xhxw at the input's size."""
    return F.interpolate(values, frame.input_size, mode="bilinear", antialias=True, align_corners=False)


def _pool_padded(values: Tensor, frame: Frame, padding: float = 0.0) -> Tensor:
    """Nx1xhxw at the input's size -> Nx1xLxL: padded to the square, then the mean of each logit's pixels."""
    height, width = frame.input_size
    padded = F.pad(values, (0, frame.padded_size - width, 0, frame.padded_size - height), value=padding)
    return F.avg_pool2d(padded, LOGIT_STRIDE)
