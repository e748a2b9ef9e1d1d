"""All segments of an image: a grid of point prompts, quality filters, non-maximum suppression.

The parameters and the result are those of segment_anything's `SamAutomaticMaskGenerator` (Kirillov et al., "Segment
Anything", ICCV 2023, appendix "Automatic mask generation details"); the way there is shorter:

- the decoder computes what the prompts share once an image (`decoder.py`), the encoder never writes its attention down
  (`encoder.py`),
- the predicted IoU is known before the masks are; masks below the threshold are neither made nor enlarged,
- the decoder's two bilinear enlargements (to the encoder's input, then to the image) are linear along each axis, hence
  one matrix per axis does both at once (`postprocess.py`),
- survivors wait for the suppression as packed bits of their own box.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from segment_anything.modeling import ImageEncoderViT, Sam
from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes, remove_small_regions
from torch import Tensor

from thfuse_sam.devices import DTYPES, is_out_of_memory
from thfuse_sam.errors import DeviceError, UsageError
from thfuse_sam.masks.format import LabelMap, label_map
from thfuse_sam.sam.decoder import DecodedPoints, Decoder, PointDecoder, StockDecoder
from thfuse_sam.sam.encoder import encode_images
from thfuse_sam.sam.postprocess import Candidates, PackedMask, count_pixels, enlarge, mask_boxes, stable_masks
from thfuse_sam.sam.precision import check_precision, resolve_precision

# SAM's own thresholds. A mask below them is too rough to speak for the points inside it, whatever the settings accept.
_EXPLAINING_IOU = 0.88
_EXPLAINING_STABILITY = 0.95

_EDGE_PIXELS = 20  # a box this near to a crop's edge is taken for cut off there
_CHUNK_PIXELS_CPU = 2**21  # logits enlarged at once: few enough to stay in the processor's cache
_CHUNK_PIXELS_GPU = 2**27

# A CPU is slower at blocks of memory that the C library hands back to the system each time: those above this size. With
# blocks of 12 MiB, one point of `vit_t` in bf16 cost 2,400 page faults, with 8 MiB 130.
_BLOCK_BYTES_CPU = 8 * 2**20
_MAX_POINTS_GPU = 256  # by then the GPU is busy
_BLOCKS_AT_ONCE = 16  # blocks of one prompt's image side that exist at the same time, with those of the upscaling

log = logging.getLogger(__name__)

_T = TypeVar("_T")

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
    points_per_batch: int | Literal["auto"] = 64  # points decoded at once; no influence on the result but rounding
    pred_iou_thresh: float = 0.88  # in [0, 1]; masks must be predicted to be better; 0: keep all
    stability_score_thresh: float = 0.95  # in [0, 1]; masks must be at least as stable; 0: keep all
    stability_score_offset: float = 1.0  # logits; stability compares the masks at thresholds so far up and down
    box_nms_thresh: float = 0.7  # IoU of boxes, in [0, 1]; duplicates within a crop overlap by more
    crop_n_layers: int = 0  # layers of crops; layer i has 4**i of them
    crop_nms_thresh: float = 0.7  # IoU of boxes, in [0, 1]; duplicates from different crops overlap by more
    crop_overlap_ratio: float = 512 / 1500  # overlap of the first layer's crops, as a part of the shorter side
    crop_n_points_downscale_factor: int = 1  # layer i has points_per_side / factor**i points a side
    min_mask_region_area: int = 0  # pixels; smaller holes are filled, smaller islands removed; 0: keep all
    precision: str = "fp32"  # fp32, bf16, fp16, or auto: 16 bits where the device is fast at it, see `precision.py`
    adaptive_points: bool = False  # leave out points inside the smallest good mask of another; a few masks get lost

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name not in _RANGES or (field.name, getattr(self, field.name)) == ("points_per_batch", "auto"):
                continue
            # Plain numbers, so that equal settings are written down equally.
            whole = isinstance(field.default, int)
            object.__setattr__(self, field.name, _checked(field.name, getattr(self, field.name), whole))
        check_precision(self.precision)
        if not isinstance(self.adaptive_points, bool):
            raise UsageError(f"`adaptive_points` {self.adaptive_points}: must be true or false")
        factor = self.crop_n_points_downscale_factor
        if self.points_per_side < factor**self.crop_n_layers:
            raise UsageError(
                f"`crop_n_points_downscale_factor` {factor}: leaves no point in crop layer {self.crop_n_layers} "
                f"of `points_per_side` {self.points_per_side}; use a smaller factor"
            )

    def signature(self) -> dict[str, float | int]:
        """What decides about masks, besides the precision, which the device may decide: for a mask tree's manifest.

        Settings that came later than the first trees are left out at their defaults, so that these trees stay valid.
        """
        settings = dataclasses.asdict(self)
        del settings["points_per_batch"], settings["precision"]
        if not self.adaptive_points:
            del settings["adaptive_points"]
        return settings


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

    features: Tensor  # float32 1xCxhxw
    input_size: tuple[int, int]  # height, width that the encoder saw, without its padding
    image_size: tuple[int, int]  # height, width of the image or crop

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Plain arrays to store: features float16 Cxhxw; input_size and image_size int64, height and width."""
        return {
            "features": self.features[0].half().cpu().numpy(),
            "input_size": np.array(self.input_size, dtype=np.int64),
            "image_size": np.array(self.image_size, dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "ImageEmbedding":
        """The embedding of which these are the arrays, on the CPU. Raises ValueError where they cannot be."""
        missing = {"features", "input_size", "image_size"} - set(arrays)
        if missing:
            raise ValueError(f"not an image embedding: without {', '.join(sorted(missing))}")
        features, *sizes = (np.asarray(arrays[name]) for name in ("features", "input_size", "image_size"))
        if features.ndim != 3 or features.dtype != np.float16 or not np.isfinite(features).all():
            raise ValueError("not an image embedding: features must be finite float16 CxHxW")
        if any(size.shape != (2,) or size.dtype.kind not in "iu" or size.min() < 1 for size in sizes):
            raise ValueError("not an image embedding: sizes must be two positive whole numbers")
        (input_height, input_width), (height, width) = (size.tolist() for size in sizes)
        return cls(torch.from_numpy(features.astype(np.float32))[None], (input_height, input_width), (height, width))


class _Crop(NamedTuple):
    box: tuple[int, int, int, int]  # x0, y0, x1, y1, ends exclusive
    layer: int

    @property
    def size(self) -> tuple[int, int]:
        return self.box[3] - self.box[1], self.box[2] - self.box[0]

    @property
    def area(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def rows(self) -> slice:
        return slice(self.box[1], self.box[3])

    @property
    def columns(self) -> slice:
        return slice(self.box[0], self.box[2])


class AutomaticMaskGenerator:
    """Finds the segments of an image with a Segment Anything model of any size.

    The model's weights stay as they are, in float32, whatever the precision.

    Args:
        sam: in eval mode, on the device to compute on.
        settings: None for segment_anything's defaults.

    Attributes:
        precision: the one of `PRECISIONS` that `settings.precision` means on the model's device.
        decoder: of the masks.
    """

    def __init__(self, sam: Sam, settings: GeneratorSettings | None = None) -> None:
        self.sam = sam
        self.settings = settings or GeneratorSettings()
        self.precision = resolve_precision(self.settings.precision, sam.device)
        dtype = DTYPES[self.precision]
        # Convolutional encoders cost little beside the decoder, and what they round away changes which masks pass.
        self._encoder_dtype = dtype if type(sam.image_encoder) is ImageEncoderViT else torch.float32
        self.decoder: Decoder = PointDecoder(sam, dtype) if PointDecoder.supports(sam) else StockDecoder(sam, dtype)
        self._point_grids = build_all_layer_point_grids(
            self.settings.points_per_side, self.settings.crop_n_layers, self.settings.crop_n_points_downscale_factor
        )
        self._max_points: int | None = None  # at once, where more did not fit into memory
        self._max_images: int | None = None

    def generate(self, image: npt.NDArray[np.uint8]) -> list[Instance]:
        """The segments of an image (uint8 HxWx3, RGB, any size), in the stock generator's order; [] where none is.

        The result depends on nothing but the image, the weights, the settings and, by rounding, the device.
        Raises DeviceError where memory does not suffice for a single point.
        """
        _require_image(image)
        size = image.shape[:2]
        crops = self._crops(size)
        # One after the other: an embedding that was made in a batch may differ in its last digits.
        found = [self._segment(self.encode(image[crop.rows, crop.columns]), crop, size) for crop in crops]
        return self._finish(found, size)

    def label_map(self, image: npt.NDArray[np.uint8]) -> LabelMap:
        """The segments of an image (uint8 HxWx3, RGB) as one label map HxW; zeros where no segment is."""
        return label_map((instance.mask for instance in self.generate(image)), image.shape[:2])

    def encode(self, image: npt.NDArray[np.uint8]) -> ImageEmbedding:
        """Run the image encoder on an image or crop (uint8 HxWx3, RGB). Raises DeviceError: out of memory."""
        return self.encode_batch([image])[0]

    def encode_batch(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[ImageEmbedding]:
        """Run the image encoder on images (uint8 HxWx3, RGB, any sizes), all at once or as many as memory holds.

        By rounding, an image's embedding may depend on how many others there are. Raises DeviceError: out of memory.
        """
        for image in images:
            _require_image(image)
        embeddings: list[ImageEmbedding] = []
        while len(embeddings) < len(images):
            some = images[len(embeddings) :][: self._max_images]
            made = _unless_out_of_memory(lambda some=some: self._encode(some))  # type: ignore[misc]
            if made is not None:
                embeddings += made
            elif len(some) == 1:
                raise DeviceError(
                    f"`device` {self.sam.device}: not enough memory for the image encoder; free some, "
                    "use another device or a smaller model type"
                )
            else:
                self._max_images = len(some) // 2
        return embeddings

    def generate_from(self, embedding: ImageEmbedding) -> list[Instance]:
        """As `generate`, from the embedding of a whole image, with this generator's settings.

        Raises:
            UsageError: the settings ask for crops, of which the embedding knows nothing, or the embedding is not of
                this kind of model.
            DeviceError: memory does not suffice for a single point.
        """
        if self.settings.crop_n_layers > 0:
            raise UsageError(
                f"`crop_n_layers` {self.settings.crop_n_layers}: an image embedding holds no crops; use 0, or make the "
                "masks from the images"
            )
        if embedding.input_size != self._input_size(embedding.image_size):
            raise UsageError(
                f"an image embedding made from {embedding.input_size} pixels of an image {embedding.image_size} is not "
                "this model's; make it again with this model"
            )
        height, width = embedding.image_size
        whole = _Crop((0, 0, width, height), layer=0)
        return self._finish([self._segment(embedding, whole, embedding.image_size)], embedding.image_size)

    def label_map_from(self, embedding: ImageEmbedding) -> LabelMap:
        """As `label_map`, from the embedding of a whole image; errors as for `generate_from`."""
        return label_map((instance.mask for instance in self.generate_from(embedding)), embedding.image_size)

    def _crops(self, size: tuple[int, int]) -> list[_Crop]:
        boxes, layers = generate_crop_boxes(size, self.settings.crop_n_layers, self.settings.crop_overlap_ratio)
        crops = [_Crop(tuple(box), layer) for box, layer in zip(boxes, layers, strict=True)]
        # An image of few pixels has crops without any.
        return [crop for crop in crops if min(crop.size) > 0]

    def _input_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image in the encoder's input, whose longer side it fills."""
        height, width = image_size
        scale = self.sam.image_encoder.img_size / max(height, width)
        # At least one pixel: a very long and narrow image would vanish.
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    @torch.no_grad()
    def _encode(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[ImageEmbedding]:
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        input_sizes = [self._input_size(size) for size in sizes]
        inputs = []
        for image, (height, width) in zip(images, input_sizes, strict=True):
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            tensor = torch.from_numpy(np.array(resized)).to(self.sam.device).permute(2, 0, 1).contiguous()
            inputs.append(self.sam.preprocess(tensor)[None])
        # Of a single image no second copy lies in memory while the encoder runs, when memory is fullest.
        batch = torch.cat(inputs) if len(inputs) > 1 else inputs[0]
        inputs.clear()
        features = encode_images(self.sam.image_encoder, batch, self._encoder_dtype)
        return [
            ImageEmbedding(one[None], input_size, size)
            for one, input_size, size in zip(features, input_sizes, sizes, strict=True)
        ]

    @torch.no_grad()
    def _segment(self, embedding: ImageEmbedding, crop: _Crop, image_size: tuple[int, int]) -> Candidates:
        """The masks of one crop, without duplicates."""
        embedding = embedding._replace(features=embedding.features.to(self.sam.device))
        prepared = self.decoder.prepare(embedding.features, embedding.input_size)
        grid = self._point_grids[crop.layer] * np.array(crop.size[::-1])
        # The whole grid is one level of points, unless later levels can leave out what earlier ones have explained.
        levels = _coarse_to_fine(len(grid)) if self.settings.adaptive_points else [np.arange(len(grid))]
        explained = np.zeros(crop.size, dtype=bool)
        found = []
        for level in levels:
            points = grid[level]
            column, row = np.minimum(points.astype(int), np.array(crop.size[::-1]) - 1).T
            found.append(self._try_points(embedding, prepared, points[~explained[row, column]], crop, image_size))
            for candidates, smallest in found[-1]:
                for index in smallest:
                    packed = candidates.masks[index]
                    explained |= packed.unpack(image_size)[crop.rows, crop.columns]
        joined = Candidates.join(candidates for level_found in found for candidates, _ in level_found)
        return joined.suppress(joined.predicted_ious, self.settings.box_nms_thresh)

    def _try_points(
        self,
        embedding: ImageEmbedding,
        prepared: Any,
        points: npt.NDArray[np.float64],
        crop: _Crop,
        image_size: tuple[int, int],
    ) -> list[tuple[Candidates, list[int]]]:
        """Prompt with points (Px2: x, y in the crop), as many at once as memory holds.

        Returns, for consecutive points, the masks that pass the filters and which of these are the smallest ones of
        their prompts (see `_filter`).
        """
        scale = [new / old for new, old in zip(embedding.input_size, embedding.image_size, strict=True)]
        coordinates = torch.as_tensor(points * np.array(scale[::-1]), device=self.sam.device)
        found: list[tuple[Candidates, list[int]]] = []
        first = 0
        while first < len(points):
            some = slice(first, first + self._points_at_once(embedding))
            passed = _unless_out_of_memory(
                lambda some=some: self._filter(  # type: ignore[misc]
                    self.decoder.decode(prepared, coordinates[some]), points[some], embedding, crop, image_size
                )
            )
            tried = len(points[some])
            if passed is not None:
                found.append(passed)
                first += tried
            elif tried == 1:
                height, width = embedding.image_size
                raise DeviceError(
                    f"`points_per_batch` 1: not enough memory on {self.sam.device} for one point of {height}x{width} "
                    "pixels; free some, use another `device` or smaller images"
                )
            else:
                self._max_points = tried // 2
                log.info("out of memory; from now on %d points at once", self._max_points)
        return found

    def _points_at_once(self, embedding: ImageEmbedding) -> int:
        asked = self.settings.points_per_batch
        if self._max_points is not None:
            return self._max_points if asked == "auto" else min(self._max_points, asked)
        if asked != "auto":
            return asked
        block = embedding.features.numel() * DTYPES[self.precision].itemsize
        if self.sam.device.type == "cpu":
            return max(1, _BLOCK_BYTES_CPU // block)
        free, _ = torch.cuda.mem_get_info(self.sam.device)
        # Settled once: what is free later depends on what this generator holds.
        self._max_points = max(1, min(_MAX_POINTS_GPU, free // 2 // (_BLOCKS_AT_ONCE * block)))
        return self._max_points

    def _filter(
        self,
        decoded: DecodedPoints,
        points: npt.NDArray[np.float64],
        embedding: ImageEmbedding,
        crop: _Crop,
        image_size: tuple[int, int],
    ) -> tuple[Candidates, list[int]]:
        """The masks of some points (px2 in the crop) that pass the filters.

        With adaptive points also the indices of those that are good and the smallest of their prompt's masks, passed or
        not: a point inside such a mask would most likely give the same masks again, larger ones included.
        """
        outputs = decoded.predicted_ious.shape[1]
        ious = decoded.predicted_ious.flatten()
        if self.settings.pred_iou_thresh > 0:
            kept = (ious > self.settings.pred_iou_thresh).nonzero()[:, 0]
        else:
            kept = torch.arange(len(ious), device=ious.device)
        smallest: Tensor | None = None
        if self.settings.adaptive_points and bool((ious[kept] > _EXPLAINING_IOU).any()):
            logits, smallest = self._logits_and_smallest(decoded, kept, outputs)
        else:
            logits = decoded.logits(kept)
        ious, kept = ious[kept].cpu(), kept.cpu()
        offset = torch.tensor([crop.box[0], crop.box[1]])
        prompts = torch.from_numpy(points)[kept // outputs] + offset

        height, width = embedding.image_size
        pixels = _CHUNK_PIXELS_CPU if logits.device.type == "cpu" else _CHUNK_PIXELS_GPU
        length = max(1, pixels // (height * width))
        found, passed = [], []
        for first in range(0, len(kept), length):
            chunk = logits[first : first + length]
            enlarged = enlarge(chunk, self.sam.image_encoder.img_size, embedding.input_size, embedding.image_size)
            indices, scores, masks = stable_masks(
                enlarged,
                self.sam.mask_threshold,
                self.settings.stability_score_offset,
                self.settings.stability_score_thresh,
            )
            boxes = mask_boxes(masks)
            image_boxes = boxes + offset.repeat(2)
            whole = ~_cut_off(image_boxes, crop, image_size) & (count_pixels(masks) > 0).cpu()
            local = masks.cpu().numpy()
            packed = [
                PackedMask.pack(local[index], boxes[index].tolist(), (crop.box[1], crop.box[0]))
                for index in whole.nonzero()[:, 0].tolist()
            ]
            chosen = indices[whole] + first
            passed.append(chosen)
            found.append(
                Candidates(
                    packed,
                    image_boxes[whole],
                    ious[chosen],
                    scores[whole],
                    prompts[chosen],
                    torch.full((len(packed),), crop.area),
                )
            )
        candidates = Candidates.join(found)
        if smallest is None or not passed:
            return candidates, []
        good = candidates.predicted_ious > _EXPLAINING_IOU
        good &= candidates.stability_scores >= _EXPLAINING_STABILITY
        return candidates, (smallest[torch.cat(passed)] & good).nonzero()[:, 0].tolist()

    def _logits_and_smallest(self, decoded: DecodedPoints, kept: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
        """Logits of the masks `kept`, and which of these are the smallest of their prompt's masks: bool, on the CPU."""
        prompts = (kept // outputs).unique()
        every = (prompts[:, None] * outputs + torch.arange(outputs, device=kept.device)).flatten()
        logits = decoded.logits(every)
        areas = count_pixels(logits > self.sam.mask_threshold).view(-1, outputs)
        smallest = prompts * outputs + areas.argmin(1).to(kept.device)
        return logits[torch.searchsorted(every, kept)], torch.isin(kept, smallest).cpu()

    def _finish(self, found: Sequence[Candidates], size: tuple[int, int]) -> list[Instance]:
        """The segments of an image of `size`, given those of each of its crops."""
        candidates = Candidates.join(found)
        if len(found) > 1:
            # A small crop shows more detail: of two equal masks its one stays.
            candidates = candidates.suppress(1 / candidates.crop_areas, self.settings.crop_nms_thresh)
        if self.settings.min_mask_region_area > 0:
            candidates = self._without_small_regions(candidates, size)
        return list(_instances(candidates, size))

    def _without_small_regions(self, candidates: Candidates, size: tuple[int, int]) -> Candidates:
        """Fill small holes, remove small islands, then drop the duplicates that this made."""
        masks, boxes, unchanged = [], [], []
        for packed, box in zip(candidates.masks, candidates.boxes, strict=True):
            mask = packed.unpack(size)
            mask, filled = remove_small_regions(mask, self.settings.min_mask_region_area, mode="holes")
            mask, removed = remove_small_regions(mask, self.settings.min_mask_region_area, mode="islands")
            if filled or removed:
                box = mask_boxes(torch.from_numpy(mask)[None])[0]
                packed = PackedMask.pack(mask, box.tolist())
            masks.append(packed)
            boxes.append(box)
            unchanged.append(not (filled or removed))
        if not masks:
            return candidates
        candidates = dataclasses.replace(candidates, masks=masks, boxes=torch.stack(boxes))
        threshold = max(self.settings.box_nms_thresh, self.settings.crop_nms_thresh)
        # Of two equal masks the one that needed no repair stays.
        return candidates.suppress(torch.tensor(unchanged, dtype=torch.float32), threshold)


def _coarse_to_fine(count: int) -> list[npt.NDArray[np.intp]]:
    """Indices of a square grid of `count` points, row by row, in five levels, each closer together than the last."""
    side = math.isqrt(count)
    row, column = np.divmod(np.arange(count), side)
    level = np.full(count, 4)
    level[(row % 2 == 0) & (column % 2 == 0)] = 3
    level[(row % 2 == 1) & (column % 2 == 1)] = 2
    level[(row % 4 == 3) & (column % 4 == 3)] = 1
    level[(row % 4 == 1) & (column % 4 == 1)] = 0
    return [np.flatnonzero(level == number) for number in range(5)]


def _unless_out_of_memory(work: Callable[[], _T]) -> _T | None:
    """What `work` returns; None where memory did not suffice, after giving back what it had taken."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:  # PyTorch's own class is a RuntimeError, on a CPU it is a plain one
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _require_image(image: npt.NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected an image uint8 HxWx3, got {image.dtype} {image.shape}")


def _cut_off(boxes: Tensor, crop: _Crop, image_size: tuple[int, int]) -> Tensor:
    """Which boxes (Nx4, whole image) end near an edge of the crop that is no edge of the image."""
    crop_edges = torch.tensor(crop.box)
    image_edges = torch.tensor([0, 0, image_size[1], image_size[0]])
    near_crop = (boxes - crop_edges).abs() <= _EDGE_PIXELS
    near_image = (boxes - image_edges).abs() <= _EDGE_PIXELS
    return (near_crop & ~near_image).any(1)


def _instances(candidates: Candidates, size: tuple[int, int]) -> Iterator[Instance]:
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
        raise UsageError(f"`{name}` {value}: must be {kind} from {low:g} to {high:.10g}")
    return int(number) if whole else number
