"""All segments of an image: a grid of point prompts, quality filters, non-maximum suppression.

The parameters and the result are those of segment_anything's `SamAutomaticMaskGenerator` (Kirillov et al., "Segment
Anything", ICCV 2023, appendix "Automatic mask generation details"); the way there is shorter:

- candidates whose predicted IoU is too low are dropped while they are small,
- the decoder's two bilinear enlargements (to the encoder's input, then to the image) are linear along each axis, hence
  one matrix per axis does both at once,
- survivors wait for the suppression as packed bits of their own box.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from segment_anything.modeling import Sam
from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes, remove_small_regions
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms

from thfuse_sam.errors import UsageError
from thfuse_sam.masks.format import LabelMap, label_map

_EDGE_PIXELS = 20  # a box this near to a crop's edge is taken for cut off there
_CHUNK_PIXELS_CPU = 2**21  # logits enlarged at once: few enough to stay in the processor's cache
_CHUNK_PIXELS_GPU = 2**27
_STRIP = 64  # output rows (columns) that are interpolated together

# Smallest and largest value of each setting.
_RANGES: dict[str, tuple[float, float]] = {
    "points_per_side": (1, 512),
    "points_per_batch": (1, 65536),
    "pred_iou_thresh": (0, 1),
    "stability_score_thresh": (0, 1),
    "stability_score_offset": (0, 100),
    "box_nms_thresh": (0, 1),
    "crop_n_layers": (0, 4),
    "crop_nms_thresh": (0, 1),
    "crop_overlap_ratio": (0, 1),
    "crop_n_points_downscale_factor": (1, 512),
    "min_mask_region_area": (0, 2**31 - 1),
}


@dataclass(frozen=True)
class GeneratorSettings:
    """Settings of the automatic mask generator, under segment_anything's names. Raises UsageError for a bad value."""

    points_per_side: int = 32  # points along each side of the grid
    points_per_batch: int = 64  # points that the decoder takes at once; no influence on the result but rounding
    pred_iou_thresh: float = 0.88  # in [0, 1]; masks must be predicted to be better; 0: keep all
    stability_score_thresh: float = 0.95  # in [0, 1]; masks must be at least as stable; 0: keep all
    stability_score_offset: float = 1.0  # logits; stability compares the masks at thresholds so far up and down
    box_nms_thresh: float = 0.7  # IoU of boxes, in [0, 1]; duplicates within a crop overlap by more
    crop_n_layers: int = 0  # layers of crops; layer i has 4**i of them
    crop_nms_thresh: float = 0.7  # IoU of boxes, in [0, 1]; duplicates from different crops overlap by more
    crop_overlap_ratio: float = 512 / 1500  # overlap of the first layer's crops, as a part of the shorter side
    crop_n_points_downscale_factor: int = 1  # layer i has points_per_side / factor**i points a side
    min_mask_region_area: int = 0  # pixels; smaller holes are filled, smaller islands removed; 0: keep all

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            # Plain numbers, so that equal settings are written down equally.
            whole = isinstance(field.default, int)
            object.__setattr__(self, field.name, _checked(field.name, getattr(self, field.name), whole))
        factor = self.crop_n_points_downscale_factor
        if self.points_per_side < factor**self.crop_n_layers:
            raise UsageError(
                f"--crop_n_points_downscale_factor {factor}: leaves no point in crop layer {self.crop_n_layers} "
                f"of --points_per_side {self.points_per_side}; use a smaller factor"
            )


@dataclass(frozen=True)
class Instance:
    """One segment of an image. Coordinates are pixels of the whole image."""

    mask: npt.NDArray[np.bool_]  # HxW
    bbox: tuple[int, int, int, int]  # x, y of the first pixel; width, height as SAM counts: last minus first pixel
    predicted_iou: float  # the model's own estimate of the mask's quality
    stability_score: float  # IoU of the masks at a raised and a lowered threshold, in [0, 1]
    point: tuple[float, float]  # x, y of the prompt
    area: int  # pixels


class ImageEmbedding(NamedTuple):
    """What the image encoder made of an image or of a crop."""

    features: Tensor  # 1xCxhxw
    input_size: tuple[int, int]  # height, width that the encoder saw, without its padding
    image_size: tuple[int, int]  # height, width of the image or crop


class _Crop(NamedTuple):
    box: tuple[int, int, int, int]  # x0, y0, x1, y1, ends exclusive
    layer: int

    @property
    def size(self) -> tuple[int, int]:
        return self.box[3] - self.box[1], self.box[2] - self.box[0]

    @property
    def area(self) -> int:
        return self.size[0] * self.size[1]


class _PackedMask(NamedTuple):
    """A mask as bits, of its bounding box only."""

    bits: npt.NDArray[np.uint8]
    top: int
    left: int
    shape: tuple[int, int]  # height, width of the box

    @classmethod
    def pack(cls, mask: npt.NDArray[np.bool_], box: Sequence[int], offset: tuple[int, int] = (0, 0)) -> "_PackedMask":
        """Pack a mask HxW whose True pixels lie in `box` (x0, y0, x1, y1, inclusive); `offset` = y, x of its origin."""
        left, top, right, bottom = box
        inside = mask[top : bottom + 1, left : right + 1]
        return cls(np.packbits(inside), top + offset[0], left + offset[1], (inside.shape[0], inside.shape[1]))

    def unpack(self, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """The mask in an image of `shape` = (height, width)."""
        height, width = self.shape
        mask = np.zeros(shape, dtype=bool)
        inside = np.unpackbits(self.bits, count=height * width).reshape(height, width)
        mask[self.top : self.top + height, self.left : self.left + width] = inside
        return mask


@dataclass(frozen=True)
class _Candidates:
    """N masks on their way through the filters, on the CPU, in the coordinates of the whole image."""

    masks: list[_PackedMask]
    boxes: Tensor  # Nx4 int64: x0, y0, x1, y1, inclusive
    predicted_ious: Tensor  # N float32
    stability_scores: Tensor  # N float32
    points: Tensor  # Nx2 float64: x, y
    crop_areas: Tensor  # N int64, pixels of the crop that each mask was found in

    def select(self, indices: Tensor) -> "_Candidates":
        return _Candidates(
            [self.masks[index] for index in indices.tolist()],
            self.boxes[indices],
            self.predicted_ious[indices],
            self.stability_scores[indices],
            self.points[indices],
            self.crop_areas[indices],
        )

    def suppress(self, scores: Tensor, threshold: float) -> "_Candidates":
        """Without those whose box overlaps a better scored one's by more than `threshold`; best scored first."""
        kept = batched_nms(self.boxes.float(), scores, torch.zeros(len(self.masks)), threshold)
        return self.select(kept)

    @staticmethod
    def join(parts: Iterable["_Candidates"]) -> "_Candidates":
        # The empty one gives every column its type where nothing was found.
        parts = [_NO_CANDIDATES, *parts]
        return _Candidates(
            list(itertools.chain.from_iterable(part.masks for part in parts)),
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.predicted_ious for part in parts]),
            torch.cat([part.stability_scores for part in parts]),
            torch.cat([part.points for part in parts]),
            torch.cat([part.crop_areas for part in parts]),
        )


_NO_CANDIDATES = _Candidates(
    masks=[],
    boxes=torch.zeros((0, 4), dtype=torch.int64),
    predicted_ious=torch.zeros(0),
    stability_scores=torch.zeros(0),
    points=torch.zeros((0, 2), dtype=torch.float64),
    crop_areas=torch.zeros(0, dtype=torch.int64),
)


class AutomaticMaskGenerator:
    """Finds the segments of an image with a Segment Anything model of any size.

    Args:
        sam: in eval mode, on the device to compute on.
        settings: None for segment_anything's defaults.
    """

    def __init__(self, sam: Sam, settings: GeneratorSettings | None = None) -> None:
        self.sam = sam
        self.settings = settings or GeneratorSettings()
        self._point_grids = build_all_layer_point_grids(
            self.settings.points_per_side, self.settings.crop_n_layers, self.settings.crop_n_points_downscale_factor
        )

    @torch.no_grad()
    def generate(self, image: npt.NDArray[np.uint8]) -> list[Instance]:
        """The segments of an image (uint8 HxWx3, RGB, any size), in the stock generator's order; [] where none is.

        The result depends on nothing but the image, the weights and the settings.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"expected an image uint8 HxWx3, got {image.dtype} {image.shape}")
        size = image.shape[:2]
        crops = self._crops(size)
        candidates = _Candidates.join(self._process_crop(image, crop) for crop in crops)
        if len(crops) > 1:
            # A small crop shows more detail: of two equal masks its one stays.
            candidates = candidates.suppress(1 / candidates.crop_areas, self.settings.crop_nms_thresh)
        if self.settings.min_mask_region_area > 0:
            candidates = self._without_small_regions(candidates, size)
        return list(_instances(candidates, size))

    def label_map(self, image: npt.NDArray[np.uint8]) -> LabelMap:
        """The segments of an image (uint8 HxWx3, RGB) as one label map HxW; zeros where no segment is."""
        return label_map((instance.mask for instance in self.generate(image)), image.shape[:2])

    def encode(self, image: npt.NDArray[np.uint8]) -> ImageEmbedding:
        """Run the image encoder on an image or crop (uint8 HxWx3, RGB)."""
        height, width = image.shape[:2]
        scale = self.sam.image_encoder.img_size / max(height, width)
        # At least one pixel: a very long and narrow image would vanish.
        input_size = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        resized = Image.fromarray(image).resize(input_size[::-1], Image.Resampling.BILINEAR)
        tensor = torch.from_numpy(np.array(resized)).to(self.sam.device).permute(2, 0, 1).contiguous()
        features = self.sam.image_encoder(self.sam.preprocess(tensor[None]))
        return ImageEmbedding(features, input_size, (height, width))

    def decode(self, embedding: ImageEmbedding, points: npt.NDArray[np.float64]) -> Iterator[tuple[Tensor, Tensor]]:
        """Run the mask decoder with each point (Px2: x, y in pixels of the embedded image) as a prompt of its own.

        Yields, for consecutive batches of p points, logits float32 px3xhxw at the decoder's own resolution (with the
        encoder's padding) and predicted IoUs float32 px3.
        """
        ratios = [new / old for new, old in zip(embedding.input_size, embedding.image_size, strict=True)]
        coordinates = torch.as_tensor(points * np.array(ratios[::-1]), device=self.sam.device)
        positions = self.sam.prompt_encoder.get_dense_pe()
        for batch in coordinates.split(self.settings.points_per_batch):
            labels = torch.ones((len(batch), 1), dtype=torch.int, device=batch.device)
            sparse, dense = self.sam.prompt_encoder(points=(batch[:, None], labels), boxes=None, masks=None)
            logits, predicted_ious = self.sam.mask_decoder(
                image_embeddings=embedding.features,
                image_pe=positions,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
            yield logits.float(), predicted_ious.float()

    def _crops(self, size: tuple[int, int]) -> list[_Crop]:
        boxes, layers = generate_crop_boxes(size, self.settings.crop_n_layers, self.settings.crop_overlap_ratio)
        crops = [_Crop(tuple(box), layer) for box, layer in zip(boxes, layers, strict=True)]
        # An image of few pixels has crops without any.
        return [crop for crop in crops if min(crop.size) > 0]

    def _process_crop(self, image: npt.NDArray[np.uint8], crop: _Crop) -> _Candidates:
        x0, y0, x1, y1 = crop.box
        embedding = self.encode(image[y0:y1, x0:x1])
        points = self._point_grids[crop.layer] * np.array(crop.size[::-1])
        found = []
        first = 0
        for logits, predicted_ious in self.decode(embedding, points):
            batch = points[first : first + len(logits)]
            first += len(logits)
            found.append(self._filter_batch(logits, predicted_ious, batch, embedding, crop, image.shape[:2]))
        candidates = _Candidates.join(found)
        return candidates.suppress(candidates.predicted_ious, self.settings.box_nms_thresh)

    def _filter_batch(
        self,
        logits: Tensor,
        predicted_ious: Tensor,
        points: npt.NDArray[np.float64],
        embedding: ImageEmbedding,
        crop: _Crop,
        image_size: tuple[int, int],
    ) -> _Candidates:
        """The masks of one batch of points (px3xhxw, px3, px2 in the crop) that pass the filters."""
        outputs = logits.shape[1]
        ious = predicted_ious.flatten()
        if self.settings.pred_iou_thresh > 0:
            kept = (ious > self.settings.pred_iou_thresh).nonzero()[:, 0]
        else:
            kept = torch.arange(len(ious), device=ious.device)
        low_resolution = logits.flatten(0, 1)[kept]
        ious = ious[kept].cpu()
        offset = torch.tensor([crop.box[0], crop.box[1]])
        prompts = torch.from_numpy(points)[kept.cpu() // outputs] + offset

        height, width = embedding.image_size
        pixels = _CHUNK_PIXELS_CPU if logits.device.type == "cpu" else _CHUNK_PIXELS_GPU
        length = max(1, pixels // (height * width))
        found = []
        for first in range(0, len(kept), length):
            chunk = low_resolution[first : first + length]
            enlarged = enlarge(chunk, self.sam.image_encoder.img_size, embedding.input_size, embedding.image_size)
            indices, scores, masks = self._stable_masks(enlarged)
            boxes = mask_boxes(masks)
            image_boxes = boxes + offset.repeat(2)
            whole = ~_cut_off(image_boxes, crop, image_size) & (_count(masks) > 0).cpu()
            local = masks.cpu().numpy()
            packed = [
                _PackedMask.pack(local[index], boxes[index].tolist(), (crop.box[1], crop.box[0]))
                for index in whole.nonzero()[:, 0].tolist()
            ]
            chosen = indices[whole] + first
            found.append(
                _Candidates(
                    packed,
                    image_boxes[whole],
                    ious[chosen],
                    scores[whole],
                    prompts[chosen],
                    torch.full((len(packed),), crop.area),
                )
            )
        return _Candidates.join(found)

    def _stable_masks(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of logits NxHxW: indices (CPU) of the stable ones, their stability scores (CPU), their masks (bool HxW)."""
        threshold, offset = self.sam.mask_threshold, self.settings.stability_score_offset
        scores = _count(_above(logits, threshold + offset)) / _count(_above(logits, threshold - offset))
        if self.settings.stability_score_thresh > 0:
            indices = (scores >= self.settings.stability_score_thresh).nonzero()[:, 0]
        else:
            indices = torch.arange(len(scores), device=scores.device)
        return indices.cpu(), scores[indices].cpu(), _above(logits[indices], threshold)

    def _without_small_regions(self, candidates: _Candidates, size: tuple[int, int]) -> _Candidates:
        """Fill small holes, remove small islands, then drop the duplicates that this made."""
        masks, boxes, unchanged = [], [], []
        for packed, box in zip(candidates.masks, candidates.boxes, strict=True):
            mask = packed.unpack(size)
            mask, filled = remove_small_regions(mask, self.settings.min_mask_region_area, mode="holes")
            mask, removed = remove_small_regions(mask, self.settings.min_mask_region_area, mode="islands")
            if filled or removed:
                box = mask_boxes(torch.from_numpy(mask)[None])[0]
                packed = _PackedMask.pack(mask, box.tolist())
            masks.append(packed)
            boxes.append(box)
            unchanged.append(not (filled or removed))
        if not masks:
            return candidates
        candidates = dataclasses.replace(candidates, masks=masks, boxes=torch.stack(boxes))
        threshold = max(self.settings.box_nms_thresh, self.settings.crop_nms_thresh)
        # Of two equal masks the one that needed no repair stays.
        return candidates.suppress(torch.tensor(unchanged, dtype=torch.float32), threshold)


def enlarge(logits: Tensor, padded_size: int, input_size: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Resize the decoder's logits to the image, as `Sam.postprocess_masks` does in two steps.

    Args:
        logits: float32 NxLxL, with the padding that makes the encoder's input a square.
        padded_size: side of the encoder's input in pixels.
        input_size: height and width of the image within that input.
        image_size: height and width of the result.

    Returns:
        float32 Nxheightxwidth; equal to the two steps but for rounding.
    """
    rows = _strips(logits.shape[1], padded_size, input_size[0], image_size[0])
    columns = _strips(logits.shape[2], padded_size, input_size[1], image_size[1])
    wide = torch.cat([logits[:, :, a:b] @ weights.T.to(logits.device) for a, b, weights in columns], dim=2)
    return torch.cat([weights.to(logits.device) @ wide[:, a:b] for a, b, weights in rows], dim=1)


def mask_boxes(masks: Tensor) -> Tensor:
    """Boxes (x0, y0, x1, y1 of the first and last pixels) around masks bool NxHxW: int64 Nx4 on the CPU.

    An empty mask has the box 0, 0, 0, 0.
    """
    height, width = masks.shape[1:]
    if len(masks) == 0:
        return torch.zeros((0, 4), dtype=torch.int64)
    # As bytes, because maxima of bytes are computed many at a time.
    rows, columns = masks.view(torch.uint8).amax(2), masks.view(torch.uint8).amax(1)
    ends = [width - 1 - columns.flip(1).argmax(1), height - 1 - rows.flip(1).argmax(1)]
    boxes = torch.stack([columns.argmax(1), rows.argmax(1), *ends], dim=1)
    return (boxes * rows.amax(1, keepdim=True)).cpu()


@functools.lru_cache(maxsize=64)
def _strips(low: int, padded: int, seen: int, final: int) -> list[tuple[int, int, Tensor]]:
    """The interpolation along one axis, `low` values -> `padded` -> the first `seen` -> `final`, in strips.

    A strip (start, stop, weights) makes consecutive outputs from the inputs start:stop. A whole matrix would be nearly
    all zeros.
    """
    matrix = (_interpolation(seen, final) @ _interpolation(low, padded)[:seen]).float()
    strips = []
    for first in range(0, final, _STRIP):
        weights = matrix[first : first + _STRIP]
        used = (weights != 0).any(0).nonzero()[:, 0]
        start, stop = int(used[0]), int(used[-1]) + 1
        strips.append((start, stop, weights[:, start:stop].contiguous()))
    return strips


def _interpolation(inputs: int, outputs: int) -> Tensor:
    """Matrix (outputs x inputs) of PyTorch's bilinear interpolation along one axis.

    The weights are PyTorch's own float32 ones, as float64 so that a product of two matrices does not lose digits.
    """
    identity = torch.eye(inputs)[None, None]
    return F.interpolate(identity, size=(outputs, inputs), mode="bilinear", align_corners=False)[0, 0].double()


def _above(logits: Tensor, threshold: float) -> Tensor:
    if logits.device.type == "cpu":
        # Equal to PyTorch's comparison and several times as fast.
        return torch.from_numpy(np.greater(logits.numpy(), np.float32(threshold)))
    return logits > threshold


def _count(masks: Tensor) -> Tensor:
    """Numbers of True pixels of masks NxHxW."""
    return masks.sum(-1, dtype=torch.int32).sum(-1, dtype=torch.int32)


def _cut_off(boxes: Tensor, crop: _Crop, image_size: tuple[int, int]) -> Tensor:
    """Which boxes (Nx4, whole image) end near an edge of the crop that is no edge of the image."""
    crop_edges = torch.tensor(crop.box)
    image_edges = torch.tensor([0, 0, image_size[1], image_size[0]])
    near_crop = (boxes - crop_edges).abs() <= _EDGE_PIXELS
    near_image = (boxes - image_edges).abs() <= _EDGE_PIXELS
    return (near_crop & ~near_image).any(1)


def _instances(candidates: _Candidates, size: tuple[int, int]) -> Iterator[Instance]:
    for index, packed in enumerate(candidates.masks):
        mask = packed.unpack(size)
        x0, y0, x1, y1 = candidates.boxes[index].tolist()
        x, y = candidates.points[index].tolist()
        yield Instance(
            mask=mask,
            bbox=(x0, y0, x1 - x0, y1 - y0),
            predicted_iou=candidates.predicted_ious[index].item(),
            stability_score=candidates.stability_scores[index].item(),
            point=(x, y),
            area=int(np.count_nonzero(mask)),
        )


def _checked(name: str, value: float, whole: bool) -> float:
    """The value of setting `name` as a plain int (`whole`) or float. Raises UsageError."""
    low, high = _RANGES[name]
    number = None
    if (
        isinstance(value, (int, float, np.integer, np.floating))
        and not isinstance(value, bool)
        and math.isfinite(value)
    ):
        number = float(value)
    if number is None or not low <= number <= high or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"--{name} {value}: must be {kind} from {low:g} to {high:.10g}")
    return int(number) if whole else number
