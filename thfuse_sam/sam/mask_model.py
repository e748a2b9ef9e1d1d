"""What masks are made with: an image encoder and a mask decoder, whichever Segment Anything they belong to.

`MaskModel` is all that the mask generator and prompted prediction ask of a model. There are two: `FastSam` runs the
Segment Anything of 2023 with this project's encoder and decoder; `HuggingFaceSam` runs other models as they are.
"""

import copy
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import Tensor

from thfuse_sam.arrays import Size
from thfuse_sam.sam.decoder import Decoder, PointDecoder, ReferenceDecoder
from thfuse_sam.sam.encoder import convert_encoder, encode_images, run_block
from thfuse_sam.sam.geometry import Frame, resize_image
from thfuse_sam.sam.hugging_face import HuggingFaceSam
from thfuse_sam.sam.prompted import PromptTensors, predict

AnySam: TypeAlias = Sam | HuggingFaceSam
Embedding: TypeAlias = Tensor | tuple[Tensor, ...]  # float32, of one image: its tokens 1xCxhxw first, then finer ones


class MaskModel(Protocol):
    """A Segment Anything model at one precision, in eval mode."""

    @property
    def device(self) -> torch.device: ...

    @property
    def mask_threshold(self) -> float:
        """Logits above it belong to a mask."""

    @property
    def decoder(self) -> Decoder:
        """For many prompts of a point or a box each."""

    def frame(self, image_size: Size) -> Frame:
        """Where an image of (height, width) lies in the encoder's input."""

    def encode(self, image: npt.NDArray[np.uint8], frame: Frame) -> Embedding:
        """The embedding of an image (uint8 HxWx3, RGB) on the model's device."""

    def predict(
        self, embedding: Embedding, frame: Frame, prompts: PromptTensors
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """The best mask of each of N prompts, and its estimated IoU: bool NxHxW, float32 N."""

    def compiled(self) -> "MaskModel":
        """This model with what can be compiled compiled when it is used first, for many images on a GPU."""


class FastSam:
    """Segment Anything of 2023 with the encoder of `encoder.py` and, where it fits, the decoder of `decoder.py`.

    Args:
        sam: in eval mode; its weights stay as they are. On a GPU later changes of its encoder's weights are not seen.
        dtype: number format of what has the image's size.
        owns_sam: nobody else uses `sam`, so that its encoder may be converted in place.
    """

    def __init__(self, sam: Sam, dtype: torch.dtype = torch.float32, *, owns_sam: bool = False) -> None:
        self._sam = sam
        is_vit = type(sam.image_encoder) is ImageEncoderViT
        # Convolutional encoders cost little beside the decoder, and what they round away changes which masks pass.
        self._encoder_dtype = dtype if is_vit else torch.float32
        self._encoder = sam.image_encoder
        if sam.device.type == "cuda" and is_vit:
            self._encoder = convert_encoder(sam.image_encoder, dtype, in_place=owns_sam)
        self._compiled_block: Any = None
        self.decoder: Decoder = PointDecoder(sam, dtype) if PointDecoder.supports(sam) else ReferenceDecoder(sam, dtype)

    @property
    def device(self) -> torch.device:
        device: torch.device = self._sam.device
        return device

    @property
    def mask_threshold(self) -> float:
        return float(self._sam.mask_threshold)

    def frame(self, image_size: Size) -> Frame:
        return Frame.of(image_size, self._sam.image_encoder.img_size)

    @torch.no_grad()
    def encode(self, image: npt.NDArray[np.uint8], frame: Frame) -> Tensor:
        return encode_images(
            self._encoder,
            self._sam.preprocess(resize_image(image, frame, self.device))[None],
            self._encoder_dtype,
            compiled_block=self._compiled_block,
        )

    def predict(
        self, embedding: Embedding, frame: Frame, prompts: PromptTensors
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        assert isinstance(embedding, Tensor)
        return predict(self._sam, embedding[0], frame, prompts)

    def compiled(self) -> "FastSam":
        model = copy.copy(self)
        model._compiled_block = torch.compile(run_block)
        if isinstance(self.decoder, PointDecoder):
            model.decoder = self.decoder.compiled()
        return model


def mask_model(sam: AnySam, dtype: torch.dtype = torch.float32, *, owns_sam: bool = False) -> MaskModel:
    """`sam` as a model to make masks with; arguments as in `FastSam`."""
    return sam.at(dtype) if isinstance(sam, HuggingFaceSam) else FastSam(sam, dtype, owns_sam=owns_sam)


def embedding_parts(embedding: Embedding) -> tuple[Tensor, ...]:
    """The tensors of an embedding; the first one is that of the image tokens."""
    return (embedding,) if isinstance(embedding, Tensor) else embedding
