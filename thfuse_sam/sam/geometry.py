"""SAM's geometry: an image, the encoder's input, the image tokens and the mask logits.

Four grids lie over one another (Kirillov et al., "Segment Anything", ICCV 2023):

- the image's own pixels, (height, width);
- the encoder's input: the image, resized until its longer side is `img_size`, at the top left of a padded square;
- the image tokens of the embedding, one for each patch of PATCH_SIZE x PATCH_SIZE pixels of the input;
- the logits of masks, LOGITS_PER_TOKEN along each side of a token: one for each LOGIT_STRIDE x LOGIT_STRIDE pixels of
  the input.

Later models stretch the image over the whole square, without padding, and may have patches of another size.
"""

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from thfuse_sam.arrays import Size
from thfuse_sam.devices import upload

PATCH_SIZE = 16  # pixels of the encoder's input along one side of an image token
LOGITS_PER_TOKEN = 4  # mask logits along one side of an image token
LOGIT_STRIDE = PATCH_SIZE // LOGITS_PER_TOKEN  # pixels of the encoder's input along one side of a mask logit


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where an image lies in the encoder's input."""

    image_size: Size
    input_size: Size  # without the padding
    padded_size: int  # side of the padded square: the encoder's `img_size`
    logit_stride: float = LOGIT_STRIDE  # pixels of the input along one side of a mask logit
    at_once: bool = False  # logits are resized to the image in one step; else to the input's square first

    @classmethod
    def of(cls, image_size: Size, padded_size: int) -> "Frame":
        """The frame of an image of (height, width), with SAM's rounding."""
        scale = padded_size / max(image_size)
        # At least one pixel: the shorter side of a very long and narrow image would round to 0.
        height, width = (max(1, int(side * scale + 0.5)) for side in image_size)
        return cls(image_size, (height, width), padded_size)

    @classmethod
    def stretched(cls, image_size: Size, side: int, logit_stride: float) -> "Frame":
        """The frame of an image that fills a square input of `side` pixels."""
        return cls(image_size, (side, side), side, logit_stride, at_once=True)

    @property
    def scale(self) -> npt.NDArray[np.float64]:
        """Pixels of the input for one pixel of the image, along x and along y."""
        return np.array([self.input_size[1] / self.image_size[1], self.input_size[0] / self.image_size[0]])

    @property
    def logits_side(self) -> int:
        """Logits along one side of the padded square; mask prompts have as many."""
        return round(self.padded_size / self.logit_stride)

    def coordinates(self, xy: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """(..., 2) or (..., 4) x, y pixels of the image -> pixels of the input."""
        return np.asarray(xy * np.tile(self.scale, xy.shape[-1] // 2), dtype=np.float32)


def resize_image(image: npt.NDArray[np.uint8], frame: Frame, device: torch.device | str = "cpu") -> Tensor:
    """An image uint8 HxWx3 RGB -> uint8 3xhxw at the input's size, by SAM's own resampling, on `device`."""
    height, width = frame.input_size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return upload(torch.from_numpy(np.array(resized)), torch.device(device)).permute(2, 0, 1).contiguous()
