"""All segments of an image: a grid of point prompts, quality filters, non-maximum suppression.

The parameters and the result are those of segment_anything's `SamAutomaticMaskGenerator` (Kirillov et al., "Segment
Anything", ICCV 2023, appendix "Automatic mask generation details"), unless `adaptive_points` is on, which skips points
and loses a few masks. This generator is faster for four reasons:

- The decoder computes once per image what all prompts of that image share (`decoder.py`), and the encoder never writes
  its attention to memory as a whole (`encoder.py`).
- The predicted IoU is known before the masks are: masks below the threshold are not upsampled, and not computed unless
  `adaptive_points` compares the sizes of a point's masks.
- The two bilinear upsamplings of the logits (to the encoder's input, then to the image) are linear along each axis.
  One matrix per axis does both at once (`postprocess.py`).
- Until the non-maximum suppression, a mask is kept as the packed bits of its own box.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.modeling import ImageEncoderViT, Sam
from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes, remove_small_regions
from torch import Tensor

from thfuse_sam.devices import DTYPES, is_out_of_memory
from thfuse_sam.errors import DeviceError, UsageError
from thfuse_sam.masks.embeddings import ImageEmbedding
from thfuse_sam.masks.format import LabelMap, paint_label_map
from thfuse_sam.masks.instances import Instance
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.sam.decoder import DecodedPoints, Decoder, PointDecoder, ReferenceDecoder
from thfuse_sam.sam.encoder import encode_images
from thfuse_sam.sam.geometry import Frame, resize_image
from thfuse_sam.sam.postprocess import Candidates, PackedMask, count_pixels, mask_boxes, stable_masks, upsample_logits
from thfuse_sam.sam.precision import resolve_precision

# SAM's default thresholds. With `adaptive_points`, points inside a mask that reaches both are skipped. A mask below
# them is too rough for that, even if the settings accept it.
_COVERING_IOU = 0.88
_COVERING_STABILITY = 0.95

_EDGE_PIXELS = 20  # a box that ends at most this far from a crop's edge counts as cut off there
_CHUNK_PIXELS_CPU = 2**21  # upsampled logits that exist at once: few enough to stay in the processor's cache
_CHUNK_PIXELS_GPU = 2**27

# Bytes of the image tokens of all points that are decoded together. glibc's malloc asks the system anew for each buffer
# above its mmap threshold (32 MiB at most) and returns it when it is freed, which slows a CPU down. With 12 MiB, one
# point of `vit_t` in bf16 cost 2,400 page faults; with 8 MiB it cost 130.
_BATCH_BYTES_CPU = 8 * 2**20
_MAX_POINTS_GPU = 256  # points that are decoded together; enough to keep a GPU busy
_BUFFERS_PER_POINT = 16  # embedding-sized buffers needed at once to decode one point

log = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Crop:
    """A part of an image that is encoded and segmented by itself; at layer 0 it is the whole image."""

    box: tuple[int, int, int, int]  # x0, y0, x1, y1, ends exclusive
    layer: int  # 0: the whole image; layer i has 4**i crops
    image_size: tuple[int, int]  # height, width of the whole image
    frame: Frame  # where the crop lies in the encoder's input

    @property
    def size(self) -> tuple[int, int]:
        return self.frame.image_size

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
        precision: the key of `DTYPES` chosen for this device.
        decoder: the mask decoder.
    """

    def __init__(self, sam: Sam, settings: GeneratorSettings | None = None) -> None:
        self.sam = sam
        self.settings = settings or GeneratorSettings()
        self.precision = resolve_precision(self.settings.precision, sam.device)
        dtype = DTYPES[self.precision]
        # Convolutional encoders cost little beside the decoder, and what they round away changes which masks pass.
        self._encoder_dtype = dtype if type(sam.image_encoder) is ImageEncoderViT else torch.float32
        self.decoder: Decoder = PointDecoder(sam, dtype) if PointDecoder.supports(sam) else ReferenceDecoder(sam, dtype)
        self._point_grids = build_all_layer_point_grids(
            self.settings.points_per_side, self.settings.crop_n_layers, self.settings.crop_n_points_downscale_factor
        )
        self._max_points: int | None = None  # most points that are decoded together; None: no limit known yet

    def generate(self, image: npt.NDArray[np.uint8]) -> list[Instance]:
        """The segments of an image (uint8 HxWx3, RGB, any size), in the stock generator's order; [] if it has none.

        The result depends on nothing but the image, the weights, the settings and, by rounding, the device.
        Raises DeviceError if memory does not suffice for the encoder, or to decode a single point.
        """
        _require_image(image)
        size = image.shape[:2]
        crops = self._crops(size)
        parts = [self._segment(crop, self._encode(image[crop.rows, crop.columns], crop.frame)) for crop in crops]
        return self._merge(parts, size)

    def label_map(self, image: npt.NDArray[np.uint8]) -> LabelMap:
        """The segments of an image (uint8 HxWx3, RGB) as one label map HxW; zeros outside all segments."""
        return paint_label_map((instance.mask for instance in self.generate(image)), image.shape[:2])

    def encode(self, image: npt.NDArray[np.uint8]) -> ImageEmbedding:
        """Run the image encoder on an image (uint8 HxWx3, RGB). Raises DeviceError: out of memory."""
        _require_image(image)
        frame = self._frame(image.shape[:2])
        return ImageEmbedding(self._encode(image, frame)[0].cpu().numpy(), frame.input_size, frame.image_size)

    def generate_from(self, embedding: ImageEmbedding) -> list[Instance]:
        """As `generate`, from the embedding of a whole image, with this generator's settings.

        Raises:
            UsageError: the settings ask for crops, of which the embedding knows nothing, or the embedding was made by
                another kind of model.
            DeviceError: memory does not suffice to decode a single point.
        """
        if self.settings.crop_n_layers > 0:
            raise UsageError(
                f"`crop_n_layers` {self.settings.crop_n_layers}: an image embedding holds no crops; use 0, or make the "
                "masks from the images"
            )
        [crop] = self._crops(embedding.image_size)
        if embedding.input_size != crop.frame.input_size:
            (height, width), (own_height, own_width) = embedding.input_size, crop.frame.input_size
            raise UsageError(
                f"the image embedding was made by another kind of model (input {height}x{width}, expected "
                f"{own_height}x{own_width}, height x width); make it again with this model"
            )
        features = torch.from_numpy(np.asarray(embedding.features, dtype=np.float32))[None].to(self.sam.device)
        return self._merge([self._segment(crop, features)], embedding.image_size)

    def label_map_from(self, embedding: ImageEmbedding) -> LabelMap:
        """As `label_map`, from the embedding of a whole image; errors as for `generate_from`."""
        return paint_label_map((instance.mask for instance in self.generate_from(embedding)), embedding.image_size)

    def _frame(self, image_size: tuple[int, int]) -> Frame:
        return Frame.of(image_size, self.sam.image_encoder.img_size)

    def _crops(self, image_size: tuple[int, int]) -> list[_Crop]:
        boxes, layers = generate_crop_boxes(image_size, self.settings.crop_n_layers, self.settings.crop_overlap_ratio)
        return [
            _Crop((x0, y0, x1, y1), layer, image_size, self._frame((y1 - y0, x1 - x0)))
            for (x0, y0, x1, y1), layer in zip(boxes, layers, strict=True)
            if x0 < x1 and y0 < y1  # an image of few pixels has crops without any
        ]

    @torch.no_grad()
    def _encode(self, image: npt.NDArray[np.uint8], frame: Frame) -> Tensor:
        """The embedding of an image or crop (uint8 HxWx3, RGB): float32 1xCxhxw on the model's device."""
        resized = resize_image(image, frame)
        features = _unless_out_of_memory(
            lambda: encode_images(
                self.sam.image_encoder, self.sam.preprocess(resized.to(self.sam.device))[None], self._encoder_dtype
            )
        )
        if features is None:
            raise DeviceError(
                f"`device` {self.sam.device}: not enough memory for the image encoder; free memory, "
                "use another device or a smaller model type"
            )
        return features

    @torch.no_grad()
    def _segment(self, crop: _Crop, features: Tensor) -> Candidates:
        """The masks of one crop with the embedding `features` (float32 1xCxhxw), after non-maximum suppression."""
        context = self.decoder.prepare(features, crop.frame.input_size)
        grid = self._point_grids[crop.layer] * np.array(crop.size[::-1])
        # All points at once, or from coarse to fine, where the masks of earlier points can make later ones unnecessary.
        levels = _coarse_to_fine(len(grid)) if self.settings.adaptive_points else [np.arange(len(grid))]
        covered = np.zeros(crop.size, dtype=bool)  # the pixels where no further point is needed
        parts = []
        for level in levels:
            points = grid[level]
            column, row = np.minimum(points.astype(int), np.array(crop.size[::-1]) - 1).T
            points = points[~covered[row, column]]
            for candidates in self._try_points(crop, context, points, self._points_at_once(features)):
                parts.append(candidates)
                for index in candidates.covers_points.nonzero()[:, 0].tolist():
                    covered |= candidates.masks[index].unpack(crop.image_size)[crop.rows, crop.columns]
        joined = Candidates.join(parts)
        return joined.nms(joined.predicted_ious, self.settings.box_nms_thresh)

    def _points_at_once(self, features: Tensor) -> int:
        """How many points of an image with this embedding are decoded together, if memory allows."""
        asked = self.settings.points_per_batch
        if asked != "auto":
            return asked
        embedding_bytes = features.numel() * DTYPES[self.precision].itemsize
        if self.sam.device.type == "cpu":
            return max(1, _BATCH_BYTES_CPU // embedding_bytes)
        if self._max_points is None:
            # Decided once, because later this generator itself holds a part of the memory.
            free, _ = torch.cuda.mem_get_info(self.sam.device)
            self._max_points = max(1, min(_MAX_POINTS_GPU, free // 2 // (_BUFFERS_PER_POINT * embedding_bytes)))
        return self._max_points

    def _try_points(
        self, crop: _Crop, context: Any, points: npt.NDArray[np.float64], at_once: int
    ) -> Iterator[Candidates]:
        """The masks of points (Px2: x, y in the crop) that pass the filters.

        `at_once` points are decoded together, or fewer where memory does not suffice.
        """
        coordinates = torch.as_tensor(points * crop.frame.scale, device=self.sam.device)
        first = 0
        while first < len(points):
            batch = slice(first, first + min(at_once, self._max_points or at_once))
            candidates = _unless_out_of_memory(
                lambda batch=batch: self._filter(  # type: ignore[misc]
                    crop, self.decoder.decode(context, coordinates[batch]), points[batch]
                )
            )
            tried = len(points[batch])
            if candidates is not None:
                yield candidates
                first += tried
            elif tried == 1:
                height, width = crop.size
                raise DeviceError(
                    f"`points_per_batch` 1: not enough memory on {self.sam.device} to decode one point of a crop of "
                    f"{height}x{width} pixels (height x width); free memory, use another `device` or smaller images"
                )
            else:
                self._max_points = tried // 2
                log.info("out of memory; from now on %d points are decoded together", self._max_points)

    def _filter(self, crop: _Crop, decoded: DecodedPoints, points: npt.NDArray[np.float64]) -> Candidates:
        """Those masks of P decoded points (Px2: x, y in the crop) that pass the filters."""
        masks_per_point = decoded.predicted_ious.shape[1]
        ious = decoded.predicted_ious.flatten()
        if self.settings.pred_iou_thresh > 0:
            kept = (ious > self.settings.pred_iou_thresh).nonzero()[:, 0]
        else:
            kept = torch.arange(len(ious), device=ious.device)
        if self.settings.adaptive_points and bool((ious[kept] > _COVERING_IOU).any()):
            logits, smallest = self._logits_and_smallest(decoded, kept)
        else:
            logits, smallest = decoded.logits(kept), torch.zeros(len(kept), dtype=torch.bool)
        ious, kept = ious[kept].cpu(), kept.cpu()
        prompts = torch.from_numpy(points)[kept // masks_per_point] + torch.tensor(crop.box[:2])

        chunk_pixels = _CHUNK_PIXELS_CPU if logits.device.type == "cpu" else _CHUNK_PIXELS_GPU
        length = max(1, chunk_pixels // crop.area)
        chunks = [column.split(length) for column in (logits, ious, prompts, smallest)]
        return Candidates.join([self._keep_stable(crop, *chunk) for chunk in zip(*chunks, strict=True)])

    def _logits_and_smallest(self, decoded: DecodedPoints, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the masks `kept`, and which of these are the smallest of their point's masks: bool, on the CPU."""
        masks_per_point = decoded.predicted_ious.shape[1]
        points = (kept // masks_per_point).unique()
        siblings = (points[:, None] * masks_per_point + torch.arange(masks_per_point, device=kept.device)).flatten()
        logits = decoded.logits(siblings)
        areas = count_pixels(logits > self.sam.mask_threshold).view(-1, masks_per_point)
        smallest = points * masks_per_point + areas.argmin(1).to(kept.device)
        return logits[torch.searchsorted(siblings, kept)], torch.isin(kept, smallest).cpu()

    def _keep_stable(
        self, crop: _Crop, logits: Tensor, predicted_ious: Tensor, points: Tensor, smallest: Tensor
    ) -> Candidates:
        """Those of K masks that are stable, not empty, and not cut off by an edge of the crop.

        Args:
            logits: float32 Kxrxc, from the decoder.
            predicted_ious: float32 K; on the CPU, as `points` and `smallest` are.
            points: float64 Kx2: x, y of the prompts in the whole image.
            smallest: bool K, whether a mask is the smallest of its point's masks.
        """
        indices, scores, masks = stable_masks(
            upsample_logits(logits, crop.frame),
            self.sam.mask_threshold,
            self.settings.stability_score_offset,
            self.settings.stability_score_thresh,
        )
        crop_boxes = mask_boxes(masks)
        x, y = crop.box[:2]
        boxes = crop_boxes + torch.tensor([x, y, x, y])
        whole = ~_cut_off(boxes, crop) & (count_pixels(masks) > 0).cpu()
        pixels = masks.cpu().numpy()
        packed = [
            PackedMask.pack(pixels[index], crop_boxes[index].tolist(), (y, x))
            for index in whole.nonzero()[:, 0].tolist()
        ]
        indices, scores = indices[whole], scores[whole]
        ious = predicted_ious[indices]
        # A point inside such a mask would most likely give the same masks again, larger ones included.
        covers_points = smallest[indices] & (ious > _COVERING_IOU) & (scores >= _COVERING_STABILITY)
        areas = torch.full((len(packed),), crop.area)
        return Candidates(packed, boxes[whole], ious, scores, points[indices], covers_points, areas)

    def _merge(self, parts: Sequence[Candidates], image_size: tuple[int, int]) -> list[Instance]:
        """The segments of an image, given those of each of its crops."""
        candidates = Candidates.join(parts)
        if len(parts) > 1:
            # A small crop shows more detail: of two masks whose boxes overlap, the one from the smaller crop stays.
            candidates = candidates.nms(1 / candidates.crop_areas, self.settings.crop_nms_thresh)
        if self.settings.min_mask_region_area > 0:
            candidates = self._without_small_regions(candidates, image_size)
        return list(_instances(candidates, image_size))

    def _without_small_regions(self, candidates: Candidates, size: tuple[int, int]) -> Candidates:
        """Fill small holes, remove small islands, then suppress masks whose boxes now overlap too much."""
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
        # Of two masks whose boxes overlap, the one that needed no repair stays.
        return candidates.nms(torch.tensor(unchanged, dtype=torch.float32), threshold)


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
    """What `work` returns; None if memory did not suffice, after PyTorch's unused GPU memory has been freed."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        # torch.OutOfMemoryError is a RuntimeError; on a CPU PyTorch raises a plain RuntimeError.
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _require_image(image: npt.NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected an image uint8 HxWx3, got {image.dtype} {image.shape}")


def _cut_off(boxes: Tensor, crop: _Crop) -> Tensor:
    """Which boxes (Nx4, whole image) end near an edge of the crop that is no edge of the image."""
    crop_edges = torch.tensor(crop.box)
    image_edges = torch.tensor([0, 0, crop.image_size[1], crop.image_size[0]])
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
