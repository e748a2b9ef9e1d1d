"""Segment Anything with prompts, as a differentiable function: preprocessing, encoding, decoding.

`SamPredictor` of segment_anything does the same without gradients and for one prompt; a test holds both equal.

Three frames of pixels are in use: the image's own, (height, width); the encoder's input, in which the longest side is
`img_size` and the image lies at the top left of a padded square; and the decoder's logits, a quarter of the input.
"""

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

LOGITS_PER_CELL = 4  # places of the decoder's logits along one side of a cell of the image embedding


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where an image lies in the encoder's input."""

    image_size: tuple[int, int]  # height, width
    input_size: tuple[int, int]  # height, width, without the padding
    padded_size: int  # side of the padded square

    @classmethod
    def of(cls, image_size: tuple[int, int], padded_size: int) -> "Frame":
        """The frame of an image of (height, width), with SAM's rounding."""
        scale = padded_size / max(image_size)
        # At least one pixel: a very long and narrow image would vanish.
        height, width = (max(1, int(side * scale + 0.5)) for side in image_size)
        return cls(image_size, (height, width), padded_size)

    def coordinates(self, xy: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """(..., 2) or (..., 4) x, y pixels of the image -> pixels of the input."""
        ratio = np.array([self.input_size[1] / self.image_size[1], self.input_size[0] / self.image_size[0]])
        return np.asarray(xy * np.tile(ratio, xy.shape[-1] // 2), dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class PromptTensors:
    """Prompts of N objects of one image, all of one kind. Coordinates are pixels of the encoder's input."""

    points: Tensor | None = None  # float32 NxPx2: x, y
    labels: Tensor | None = None  # int32 NxP: 1 inside, 0 outside, -1 no point
    boxes: Tensor | None = None  # float32 Nx4: x0, y0, x1, y1
    masks: Tensor | None = None  # float32 Nx1xLxL, logits of an earlier prediction

    def is_single_point(self) -> bool:
        """Whether one point is all that is known: then a prompt can mean a part or the whole."""
        return self.points is not None and self.points.shape[1] == 1 and self.boxes is None and self.masks is None

    def rows(self, chosen: slice | Tensor) -> "PromptTensors":
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return PromptTensors(**{name: None if value is None else value[chosen] for name, value in values.items()})

    def to(self, device: torch.device) -> "PromptTensors":
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return PromptTensors(**{name: None if value is None else value.to(device) for name, value in values.items()})


def resize_image(image: npt.NDArray[np.uint8], frame: Frame) -> Tensor:
    """An image uint8 HxWx3 RGB -> uint8 3xhxw at the input's size, by SAM's own resampling."""
    height, width = frame.input_size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def encode(sam: Sam, images: list[Tensor]) -> Tensor:
    """Resized images (uint8 3xhxw each) -> embeddings BxCxExE. Gradients flow where the encoder is trained."""
    return sam.image_encoder(torch.stack([sam.preprocess(image.to(sam.device)) for image in images]))


def logits_side(sam: Sam) -> int:
    """Side of the decoder's logits, and of mask prompts."""
    return LOGITS_PER_CELL * int(sam.prompt_encoder.image_embedding_size[0])


def decode(sam: Sam, embedding: Tensor, prompts: PromptTensors, *, multimask: bool) -> tuple[Tensor, Tensor]:
    """Masks of the prompts of one image.

    Args:
        embedding: CxExE.
        prompts: of N objects, on the model's device.
        multimask: three masks a prompt (part, object, whole) in place of one.

    Returns:
        logits: NxKxLxL, K = 3 or 1.
        ious: NxK, the model's own estimate of each mask's IoU.
    """
    points = None if prompts.points is None or prompts.points.shape[1] == 0 else (prompts.points, prompts.labels)
    sparse, dense = sam.prompt_encoder(points=points, boxes=prompts.boxes, masks=prompts.masks)
    logits, ious = sam.mask_decoder(
        image_embeddings=embedding[None],
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
    )
    return logits, ious


def best_mask(logits: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
    """Of K masks a prompt (NxKxLxL, NxK) the one that the model rates best: NxLxL and N."""
    best = ious.argmax(dim=1)
    rows = torch.arange(len(best), device=best.device)
    return logits[rows, best], ious[rows, best]


@torch.no_grad()
def predict(
    sam: Sam, embedding: Tensor, frame: Frame, prompts: PromptTensors, *, multimask: bool | None = None
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Masks at the image's size and their estimated IoU: bool NxHxW, float32 N.

    `multimask` None: three masks for a single point, of which the best rated one is taken, else one.
    """
    several = prompts.is_single_point() if multimask is None else multimask
    logits, ious = best_mask(*decode(sam, embedding, prompts.to(sam.device), multimask=several))
    masks = sam.postprocess_masks(logits[:, None].float(), frame.input_size, frame.image_size)[:, 0]
    return (masks > sam.mask_threshold).cpu().numpy(), ious.float().cpu().numpy()


def low_resolution_targets(masks: npt.NDArray[np.bool_], frame: Frame, side: int) -> tuple[Tensor, Tensor]:
    """Labelled masks in the frame of the logits.

    Args:
        masks: bool NxHxW.
        side: L, of the logits.

    Returns:
        targets: float32 NxLxL, the share of each place that lies inside the mask.
        valid: float32 LxL, 1 where at least half of a place belongs to the image, else 0.
    """
    cells = frame.padded_size // side
    height, width = frame.input_size

    def pool(values: Tensor) -> Tensor:
        padded = F.pad(values, (0, frame.padded_size - width, 0, frame.padded_size - height))
        return F.avg_pool2d(padded[:, None], cells)[:, 0]

    covered = pool(torch.ones(1, height, width))[0]
    resized = F.interpolate(
        torch.from_numpy(masks).float()[:, None], (height, width), mode="bilinear", antialias=True, align_corners=False
    )[:, 0]
    # A place that the padding cuts has the share of its pixels inside the image.
    return (pool(resized) / covered.clamp(min=1e-6)).clamp(0, 1), (covered >= 0.5).float()


def mask_prompts(logits: npt.NDArray[np.float32], frame: Frame, side: int) -> Tensor:
    """Earlier masks as logits at the image's size (float32 NxHxW) -> mask prompts, float32 Nx1xLxL."""
    cells = frame.padded_size // side
    height, width = frame.input_size
    resized = F.interpolate(
        torch.from_numpy(logits)[:, None], (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    outside = float(logits.min(initial=0.0))
    padded = F.pad(resized, (0, frame.padded_size - width, 0, frame.padded_size - height), value=outside)
    return F.avg_pool2d(padded, cells)
