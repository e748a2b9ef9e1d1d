"""Writing a Segment Anything model as two ONNX files, encoder and decoder, checked against the model by onnxruntime.

Nothing of SAM's own scaling is left to whoever uses them: the encoder takes an image of any size, the decoder takes
prompts in pixels of that image, and its masks have the image's size.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.export import Dim

from thfuse_sam.errors import OutputError
from thfuse_sam.files import as_output_error, partial_path
from thfuse_sam.onnx_files import LARGEST_SIDE, onnx_program, open_session, require_exporter
from thfuse_sam.sam.geometry import LOGIT_STRIDE

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"  # an encoder of more than 1.5 GB has its weights in a file beside it
TOLERANCE = 0.01  # see `export_sam_onnx`
_ENCODER_NAMES = (("image",), ("embedding",))
_DECODER_NAMES = (("embedding", "size", "points", "labels"), ("masks", "scores"))


class SamEncoder(nn.Module):
    """A Segment Anything model's image encoder, with scaling, normalisation and padding.

    Args:
        sam: a model on the CPU, in evaluation mode.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, image: Tensor) -> Tensor:
        """An image uint8 HxWx3, RGB -> its embedding float32 1xCxhxw."""
        side = self.sam.image_encoder.img_size
        size = torch.stack([torch.full((), length, dtype=torch.float64) for length in image.shape[:2]])
        height, width = _input_size(size, side)
        rows = _antialiased(size[0] / height, side, image.shape[0])
        columns = _antialiased(size[1] / width, side, image.shape[1])
        # Rounded after each direction, as Pillow does.
        resized = _rounded(torch.einsum("xw,hwc->hxc", columns, image.float()))
        resized = _rounded(torch.einsum("yh,hxc->cyx", rows, resized))
        position = torch.arange(side)
        inside = (position < height)[:, None] & (position < width)
        pixels = torch.where(inside, (resized - self.sam.pixel_mean) / self.sam.pixel_std, 0.0)
        return self.sam.image_encoder(pixels[None])


class SamDecoder(nn.Module):
    """A Segment Anything model's prompt encoder and mask decoder.

    Args:
        sam: as for `SamEncoder`.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, embedding: Tensor, size: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The best masks of N prompts of P points each.

        Args:
            embedding: what the encoder made of the image.
            size: the image's height and width, int64 2.
            points: x, y in pixels of the image, float32 NxPx2.
            labels: int64 NxP: 1 inside and 0 outside of the object, 2 and 3 the corners of a box, left top and right
                bottom, -1 no point. A prompt without a box ends with one -1.

        Returns:
            masks bool NxHxW, and the model's own estimate of their IoU, float32 N.
        """
        encoder, side = self.sam.prompt_encoder, self.sam.image_encoder.img_size
        scaled = _input_size(size.double(), side)
        xy = (points * (scaled / size).flip(0)).float() + 0.5
        positions = encoder.pe_layer.forward_with_coords(xy, encoder.input_image_size)
        kinds = torch.cat([kind.weight for kind in (encoder.not_a_point_embed, *encoder.point_embeddings)])
        tokens = torch.where(labels[..., None] < 0, 0.0, positions) + kinds[labels + 1]
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, *embedding.shape[2:])
        logits, ious = self.sam.mask_decoder.predict_masks(embedding, encoder.get_dense_pe(), tokens, dense)
        # One point may mean a part or the whole: it has three masks. The first mask is for all other prompts.
        ambiguous = ((labels >= 0).sum(1) == 1)[:, None]
        ious = torch.where(ambiguous == (torch.arange(ious.shape[1]) > 0), ious, -torch.inf)
        scores, best = ious.max(dim=1)
        logits = logits[torch.arange(best.shape[0]), best]
        height, width = size.tolist()
        rows, columns = (_upsampling(*lengths, side) for lengths in ((scaled[0], height), (scaled[1], width)))
        return rows @ logits @ columns.T > self.sam.mask_threshold, scores


@torch.no_grad()
def export_sam_onnx(sam: Sam, folder: Path) -> float:
    """Write ENCODER and DECODER to `folder`, see `SamEncoder` and `SamDecoder`, after they have been checked.

    Args:
        sam: a model on the CPU, in evaluation mode.

    Returns:
        the largest difference of onnxruntime's results to the model's: of embeddings as a share of their largest value,
        of scores, and the share of pixels in which masks differ.

    Raises:
        UsageError: the packages that the export needs are not installed.
        OutputError: a file cannot be written, or computes something else.
    """
    require_exporter()
    encoder, decoder = SamEncoder(sam), SamDecoder(sam)
    with as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        partial = partial_path(folder / "onnx")
        try:
            partial.mkdir()
            _write(encoder, decoder, partial)
            difference = _difference(encoder, decoder, partial)
            if not difference <= TOLERANCE:
                raise OutputError(
                    f"`export_onnx` {folder}: onnxruntime's results differ from the model's by {difference:.2g}, more "
                    f"than {TOLERANCE:g}; nothing is written, try other versions of torch and onnxruntime"
                )
            for path in partial.iterdir():
                path.replace(folder / path.name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return difference


def _write(encoder: SamEncoder, decoder: SamDecoder, folder: Path) -> None:
    side = {name: Dim(name, min=1, max=LARGEST_SIDE) for name in ("height", "width", "prompts", "points")}
    image, points, labels = _example(60, 81)
    free: tuple[Any, ...] = ({0: side["height"], 1: side["width"]},)
    onnx_program(encoder, (image,), free, *_ENCODER_NAMES).save(folder / ENCODER)
    prompts = {0: side["prompts"], 1: side["points"]}
    example = (_empty_embedding(encoder.sam), torch.tensor(image.shape[:2]), points, labels)
    onnx_program(decoder, example, ({}, {}, prompts, prompts), *_DECODER_NAMES).save(folder / DECODER)


def _empty_embedding(sam: Sam) -> Tensor:
    return torch.zeros(1, sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size)


def _difference(encoder: SamEncoder, decoder: SamDecoder, folder: Path) -> float:
    """The files' difference to the modules, see `export_sam_onnx`, on other examples than those they were made with."""
    image, points, labels = _example(141, 103)
    embedding = encoder(image)
    [found] = open_session(folder / ENCODER).run(None, {"image": image.numpy()})
    differences = [(torch.from_numpy(found) - embedding).abs().max() / embedding.abs().max()]
    session = open_session(folder / DECODER)
    for rows in (slice(1), slice(1, 2), slice(3)):
        given = (embedding, torch.tensor(image.shape[:2]), points[rows], labels[rows])
        masks, scores = decoder(*given)
        feed = {name: value.numpy() for name, value in zip(_DECODER_NAMES[0], given, strict=True)}
        found_masks, found_scores = map(torch.from_numpy, session.run(None, feed))
        differences += [(found_masks != masks).float().mean(), (found_scores - scores).abs().max()]
    return float(torch.stack(differences).max())


def _example(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """An image of noise, and three prompts: a point, a box, and two points."""
    generator = torch.Generator().manual_seed(height)
    image = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    points = torch.tensor([[[30.0, 20], [0, 0], [0, 0]], [[5, 9], [50, 44], [0, 0]], [[40, 30], [7, 8], [0, 0]]])
    return image, points, torch.tensor([[1, -1, -1], [2, 3, -1], [1, 0, -1]])


def _input_size(size: Tensor, side: int) -> Tensor:
    """`Frame.of` for an exported program: (height, width) of the image -> of the input, float64 2."""
    return torch.floor(size * (side / size.max()) + 0.5).clamp(min=1)


def _antialiased(scale: Tensor, side: int, length: Any) -> Tensor:
    """What each of `length` pixels adds to each of `side` that are `scale` as large: Pillow's bilinear resampling."""
    centre = (torch.arange(side, dtype=torch.float64)[:, None] + 0.5) * scale
    weights = (1 - (torch.arange(length) + 0.5 - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True).clamp(min=1e-9)).float()


def _upsampling(resized: Tensor, wanted: Any, side: int) -> Tensor:
    """What each logit adds to each of `wanted` pixels of the image: first up to the input, then to the image."""
    centre = (torch.arange(wanted)[:, None] + 0.5) * (resized / wanted) - 0.5
    to_image = (1 - (torch.minimum(centre.clamp(min=0), resized - 1) - torch.arange(side)).abs()).clamp(min=0)
    logits = side // LOGIT_STRIDE
    centre = ((torch.arange(side)[:, None] + 0.5) / LOGIT_STRIDE - 0.5).clamp(0, logits - 1)
    to_input = (1 - (centre - torch.arange(logits)).abs()).clamp(min=0)
    return to_image.float() @ to_input.float()


def _rounded(values: Tensor) -> Tensor:
    return torch.floor(values + 0.5)
