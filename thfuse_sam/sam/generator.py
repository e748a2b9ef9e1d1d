"""All segments of an image: a grid of point prompts, quality filters, non-maximum suppression.

The parameters and the result are those of segment_anything's `SamAutomaticMaskGenerator` (Kirillov et al., "Segment
Anything", ICCV 2023, appendix "Automatic mask generation details"), unless `adaptive_points` is on, which skips points
and loses a few masks, or warm places become prompts, too (`thermal_points.py`). Five things make this generator faster:

- The decoder computes once per image what all prompts of that image share (`decoder.py`), and the encoder never writes
  its attention to memory as a whole (`encoder.py`).
- The predicted IoU is known before the masks are: masks below the threshold are not upsampled, and not computed unless
  `adaptive_points` compares the sizes of a point's masks.
- The two bilinear upsamplings of the logits (to the encoder's input, then to the image) are linear along each axis.
  One matrix per axis does both at once (`postprocess.py`).
- Until the non-maximum suppression, a mask is kept as packed bits. On a GPU they wait there, and only those of masks
  that stay are copied, all at once (`filtering.py`).
- On a CPU each thread decodes points of its own: threads that share one operation wait for each other (`threads.py`).
"""

import copy
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.utils.amg import build_all_layer_point_grids, remove_small_regions

from thfuse_sam.arrays import ImageArray, Size
from thfuse_sam.cores import keep_freed_memory
from thfuse_sam.devices import DTYPES, Chunks, Download, free_memory, is_out_of_memory, unless_out_of_memory, upload
from thfuse_sam.errors import DeviceError, ThFuseError, UsageError
from thfuse_sam.masks.embeddings import ImageEmbedding
from thfuse_sam.masks.format import LabelMap, paint_label_map
from thfuse_sam.masks.instances import Instance
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.sam.candidates import Candidates, PackedMask
from thfuse_sam.sam.crops import Crop, coarse_to_fine, crops_of
from thfuse_sam.sam.decoder import DecodedPrompts
from thfuse_sam.sam.filtering import FREE_MEMORY, MaskFilter
from thfuse_sam.sam.geometry import Frame
from thfuse_sam.sam.mask_model import AnySam, Embedding, embedding_parts, mask_model
from thfuse_sam.sam.postprocess import mask_boxes
from thfuse_sam.sam.precision import resolve_precision
from thfuse_sam.sam.registry import own_settings
from thfuse_sam.sam.thermal_points import Boxes, fitting_candidates, for_warm_places, ratings, warm_boxes, without_parts
from thfuse_sam.threads import map_in_threads

MOST_THREADS = 8  # of a CPU that decode batches of their own; each needs memory for one
_BATCH_BYTES_CPU = 16 * 2**20  # of the image tokens of all points that are decoded together
_MAX_POINTS_GPU = 128  # points that are decoded together; enough to keep a GPU busy
_BUFFERS_PER_POINT = 16  # embedding-sized buffers needed at once to decode one point

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class AutomaticMaskGenerator:
    """Finds the segments of an image with a Segment Anything model of any size.

    The model's weights stay as they are, in float32, whatever the precision. On a GPU the generator keeps the image
    encoder's weights in its own precision besides.

    Args:
        sam: in eval mode, on the device to compute on. On a GPU later changes of its encoder's weights are not seen.
        settings: None for the model's own defaults (`build_sam` stores them in it), else segment_anything's.
        owns_sam: nobody else uses `sam`, so that its encoder may be converted in place.

    Attributes:
        precision: the key of `DTYPES` chosen for this device.
        model: `sam` as masks are made with it.
        decoder: the mask decoder, the model's own unless another one is set.
    """

    def __init__(self, sam: AnySam, settings: GeneratorSettings | None = None, *, owns_sam: bool = False) -> None:
        self.sam = sam
        self.settings = settings or own_settings(sam)
        self.precision = resolve_precision(self.settings.precision, sam.device)
        self.model = mask_model(sam, DTYPES[self.precision], owns_sam=owns_sam)
        self.decoder = self.model.decoder
        if sam.device.type == "cpu":
            keep_freed_memory()
        self._point_grids = build_all_layer_point_grids(
            self.settings.points_per_side, self.settings.crop_n_layers, self.settings.crop_n_points_downscale_factor
        )
        self._most_threads = MOST_THREADS
        self._point_chunks = Chunks("points are decoded")
        self._logit_chunks, self._pixel_chunks = Chunks("masks are upsampled"), Chunks("masks are enlarged")

    def compile(self) -> None:
        """Compile encoder and decoder with `torch.compile`, for many images on a GPU.

        Where that fails, all runs as it is. Compiled code rounds otherwise, so single pixels of masks may differ.
        """
        started, compiled = time.monotonic(), copy.copy(self)
        compiled.model = self.model.compiled()
        compiled.decoder = compiled.model.decoder
        # All masks, else nothing might be upsampled, and so compiled, before the first real image.
        compiled.settings = dataclasses.replace(self.settings, pred_iou_thresh=0.0)
        # Two warm places, because boxes have code of their own, and that for a single one fits no other number.
        infrared = np.zeros((480, 640), np.uint8)
        infrared[200:280, 200:240] = infrared[200:280, 400:440] = 255
        try:
            with torch._dynamo.config.patch(suppress_errors=False):
                compiled.generate(np.dstack([infrared] * 3), infrared)
        except ThFuseError:
            raise
        except Exception as error:  # whatever compilers raise
            reason = " ".join(str(error).split())[:200]
            log.warning("SAM runs as it is, because it cannot be compiled here: %s", reason)
            return
        torch._dynamo.config.suppress_errors = True  # of what a later image may need
        self.model, self.decoder = compiled.model, compiled.decoder
        log.info("compiled SAM in %.0f s", time.monotonic() - started)

    def generate(self, image: npt.NDArray[np.uint8], infrared: ImageArray | None = None) -> list[Instance]:
        """The segments of an image (uint8 HxWx3, RGB, any size), in the stock generator's order; [] if it has none.

        `infrared` is the infrared image of the same scene, uint8 HxW (of an infrared image, the image itself). With
        `thermal_points`, its warm places become prompts too, unless it has another size.

        The result depends on nothing but the two images, the weights, the settings and, by rounding, the device.
        Raises DeviceError if memory does not suffice for the encoder, or to decode a single point.
        """
        return self.segment(self.begin(image, infrared)).instances()

    def begin(self, image: npt.NDArray[np.uint8], infrared: ImageArray | None = None) -> "BegunImage":
        """The first step of `generate`: the image encoder, for whose end nobody waits. Raises DeviceError."""
        _require_image(image)
        crops = self._crops(image.shape[:2])
        features = self._encode(image[crops[0].rows, crops[0].columns], crops[0].frame)
        return BegunImage(image, crops, features, self._warm_boxes(infrared, image.shape[:2]))

    def segment(self, begun: "BegunImage") -> "SegmentedImage":
        """The second step of `generate`: all points are tried. Raises DeviceError."""
        crops, image, size = begun.crops, begun.image, begun.crops[0].image_size
        first = self._segment(crops[0], begun.features, begun.warm)
        if len(crops) == 1:
            return SegmentedImage(size, first, self._instances)
        parts = [first()]
        parts += [self._segment(crop, self._encode(image[crop.rows, crop.columns], crop.frame))() for crop in crops[1:]]
        # A small crop shows more detail: of two masks whose boxes overlap, the one from the smaller crop stays.
        joined = Candidates.join(parts)
        merged = joined.nms(1 / joined.crop_areas, self.settings.crop_nms_thresh)
        return SegmentedImage(size, lambda: merged, self._instances)

    def label_map(self, image: npt.NDArray[np.uint8], infrared: ImageArray | None = None) -> LabelMap:
        """The segments that `generate` finds as one label map HxW; zeros outside all segments."""
        return paint_label_map((instance.mask for instance in self.generate(image, infrared)), image.shape[:2])

    def encode(self, image: npt.NDArray[np.uint8]) -> ImageEmbedding:
        """Run the image encoder on an image (uint8 HxWx3, RGB). Raises DeviceError: out of memory."""
        _require_image(image)
        frame = self.model.frame(image.shape[:2])
        features, *finer = (part[0].cpu().numpy() for part in embedding_parts(self._encode(image, frame)))
        return ImageEmbedding(features, frame.input_size, frame.image_size, tuple(finer))

    def generate_from(self, embedding: ImageEmbedding, infrared: ImageArray | None = None) -> list[Instance]:
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
        arrays = [np.asarray(part, dtype=np.float32)[None] for part in (embedding.features, *embedding.finer)]
        parts = tuple(upload(torch.from_numpy(array), self.model.device) for array in arrays)
        features = parts if embedding.finer else parts[0]
        warm = self._warm_boxes(infrared, embedding.image_size)
        segmented = SegmentedImage(embedding.image_size, self._segment(crop, features, warm), self._instances)
        return segmented.instances()

    def label_map_from(self, embedding: ImageEmbedding, infrared: ImageArray | None = None) -> LabelMap:
        """As `label_map`, from the embedding of a whole image; errors as for `generate_from`."""
        instances = self.generate_from(embedding, infrared)
        return paint_label_map((instance.mask for instance in instances), embedding.image_size)

    def _warm_boxes(self, infrared: ImageArray | None, image_size: Size) -> Boxes | None:
        """Boxes (Nx4) around warm places to prompt with; None: nowhere, as there is no infrared image of that size."""
        settings = self.settings
        if settings.max_warm_places == 0 or infrared is None or infrared.shape != image_size:
            return None
        return warm_boxes(infrared, settings.max_warm_places)

    def _crops(self, image_size: Size) -> list[Crop]:
        settings = self.settings
        return list(crops_of(image_size, self.model.frame, settings.crop_n_layers, settings.crop_overlap_ratio))

    def _encode(self, image: npt.NDArray[np.uint8], frame: Frame) -> Embedding:
        """The embedding of an image or crop (uint8 HxWx3, RGB) on the model's device."""
        features = unless_out_of_memory(lambda: self.model.encode(image, frame))
        if features is None:
            raise DeviceError(
                f"`device` {self.model.device}: not enough memory for the image encoder; free memory, "
                "use another device or a smaller model type"
            )
        return features

    def _segment(self, crop: Crop, features: Embedding, warm: Boxes | None = None) -> Callable[[], Candidates]:
        """Try all points of one crop with its embedding `features`, and boxes (Nx4) in it.

        The function that is returned waits for the GPU: the masks that stay after non-maximum suppression.
        """
        # Live masks may be asked for by a training in half precision, and must be those that are precomputed.
        with torch.no_grad(), torch.autocast(self.model.device.type, enabled=False):
            return self._try_points(crop, features, warm)

    def _try_points(self, crop: Crop, features: Embedding, warm: Boxes | None) -> Callable[[], Candidates]:
        context = self.decoder.prepare(features, crop.frame.input_size)
        find = functools.partial(self._find, crop, context, self._points_at_once(features))
        grid = self._point_grids[crop.layer] * np.array(crop.size[::-1])
        if self.settings.adaptive_points:
            of_points = self._from_coarse_to_fine(crop, grid, find)
        else:
            of_points = find(self.settings, grid)
        of_places = find(for_warm_places(self.settings), np.zeros((0, 4)) if warm is None else warm)

        def suppressed() -> Candidates:
            joined = Candidates.join([of_points(), fitting_candidates(of_places())])
            return joined.nms(ratings(joined), self.settings.box_nms_thresh)

        return suppressed

    def _from_coarse_to_fine(
        self, crop: Crop, grid: npt.NDArray[np.float64], find: Callable[..., Callable[[], Candidates]]
    ) -> Callable[[], Candidates]:
        """As `_find` of all points, but without those that the masks of coarser ones have made unnecessary."""
        covered = np.zeros(crop.size, dtype=bool)  # the pixels where no further point is needed
        parts = []
        for level in coarse_to_fine(len(grid)):
            points = grid[level]
            column, row = np.minimum(points.astype(int), np.array(crop.size[::-1]) - 1).T
            parts.append(find(self.settings, points[~covered[row, column]])().fetch()())
            for index in parts[-1].covers_points.nonzero()[:, 0].tolist():
                covered |= parts[-1].masks[index].unpack(crop.image_size)[crop.rows, crop.columns]
        return lambda: Candidates.join(parts)

    def _find(
        self, crop: Crop, context: Any, at_once: int, settings: GeneratorSettings, prompts: npt.NDArray[np.float64]
    ) -> Callable[[], Candidates]:
        """Decode prompts as `_decode` does, and filter their masks; the function that is returned waits for the GPU."""

        @torch.no_grad()  # a thread has its own switch
        def filtered(prompts: npt.NDArray[np.float64]) -> Callable[[], Candidates]:
            masks = MaskFilter(crop, settings, self.model.mask_threshold, self._logit_chunks, self._pixel_chunks)
            for decoded in self._decode(crop, context, prompts, at_once):
                masks.add(*decoded)
            return masks.finish()

        if self.model.device.type != "cpu":
            return filtered(prompts)
        batches = [prompts[first : first + at_once] for first in range(0, max(1, len(prompts)), at_once)]
        try:
            parts = map_in_threads(lambda batch: filtered(batch)(), batches, self._most_threads)
        except (DeviceError, RuntimeError, MemoryError) as error:
            if self._most_threads == 1 or not (isinstance(error, DeviceError) or is_out_of_memory(error)):
                raise
            self._most_threads = 1
            log.info("out of memory; from now on points are decoded by one thread")
            parts = [filtered(batch)() for batch in batches]
        return lambda: Candidates.join(parts)

    def _points_at_once(self, features: Embedding) -> int:
        """How many points of an image with this embedding are decoded together, if memory allows."""
        asked = self.settings.points_per_batch
        if asked != "auto":
            return asked
        embedding_bytes = embedding_parts(features)[0].numel() * DTYPES[self.precision].itemsize
        if self.model.device.type == "cpu":
            return max(1, _BATCH_BYTES_CPU // embedding_bytes)
        if self._point_chunks.limit is None:
            # Decided once, because later this generator itself holds a part of the memory.
            free, _ = free_memory(self.model.device)
            self._point_chunks.limit = max(1, min(_MAX_POINTS_GPU, free // 2 // (_BUFFERS_PER_POINT * embedding_bytes)))
        return self._point_chunks.limit

    def _decode(
        self, crop: Crop, context: Any, prompts: npt.NDArray[np.float64], at_once: int
    ) -> Iterator[tuple[DecodedPrompts, Download, npt.NDArray[np.float64]]]:
        """Decode points (Px2: x, y in the crop) or boxes (Px4), `at_once` together: what `MaskFilter.add` takes.

        A GPU is one batch ahead of what is yielded, so that it has work while the CPU learns the predicted IoUs.
        """
        coordinates = upload(
            torch.as_tensor(prompts * np.tile(crop.frame.scale, prompts.shape[1] // 2)), self.model.device
        )

        def decode(batch: slice) -> tuple[DecodedPrompts, Download, npt.NDArray[np.float64]]:
            decoded = self.decoder.decode(context, coordinates[batch])
            return decoded, Download(decoded.predicted_ious), prompts[batch]

        height, width = crop.size
        no_memory = (
            f"`points_per_batch` 1: not enough memory on {self.model.device} to decode one point of a crop of "
            f"{height}x{width} pixels (height x width); {FREE_MEMORY}"
        )
        batches = self._point_chunks.map(decode, len(prompts), at_once, no_memory)
        return batches if self.model.device.type == "cpu" else _one_ahead(batches)

    def _instances(self, candidates: Candidates, size: Size) -> list[Instance]:
        """The segments of an image of (height, width) `size`."""
        if self.settings.min_mask_region_area > 0:
            candidates = self._without_small_regions(candidates, size)
        return list(_unpacked(without_parts(candidates, size), size))

    def _without_small_regions(self, candidates: Candidates, size: Size) -> Candidates:
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


@dataclasses.dataclass(frozen=True, eq=False)
class BegunImage:
    """An image that the encoder has begun to work on."""

    image: npt.NDArray[np.uint8]
    crops: list[Crop]
    features: Embedding  # of the first crop, which is the whole image
    warm: Boxes | None  # Nx4, see `AutomaticMaskGenerator._warm_boxes`


class SegmentedImage:
    """The segments of an image on which a GPU may be at work still.

    Args:
        size: height, width of the image.
        suppressed: waits for the numbers that decide which masks stay.
        finish: makes segments of masks whose bits are on the CPU.
    """

    def __init__(
        self,
        size: Size,
        suppressed: Callable[[], Candidates],
        finish: Callable[[Candidates, Size], list[Instance]],
    ) -> None:
        self.size = size
        self._suppressed = suppressed
        self._finish = finish
        self._fetch: Callable[[], Candidates] | None = None

    def settle(self) -> None:
        """Decide which masks stay and begin to fetch them. Let the GPU have other work before."""
        if self._fetch is None:
            self._fetch = self._suppressed().fetch()

    def instances(self) -> list[Instance]:
        """The segments. After `settle` from any thread."""
        self.settle()
        assert self._fetch is not None
        return self._finish(self._fetch(), self.size)


def _one_ahead(items: Iterator[_T]) -> Iterator[_T]:
    """`items`, each of which is made before the one before it is yielded."""
    before: list[_T] = []
    for item in items:
        yield from before
        before = [item]
    yield from before


def _require_image(image: npt.NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected an image uint8 HxWx3, got {image.dtype} {image.shape}")


def _unpacked(candidates: Candidates, size: Size) -> Iterator[Instance]:
    for index, packed in enumerate(candidates.masks):
        mask = packed.unpack(size)
        x0, y0, x1, y1 = candidates.boxes[index].tolist()
        x, y = candidates.prompts[index].view(2, 2).mean(dim=0).tolist()
        yield Instance(
            mask=mask,
            bbox=(x0, y0, x1 - x0, y1 - y0),
            predicted_iou=candidates.predicted_ious[index].item(),
            stability_score=candidates.stability_scores[index].item(),
            point=(x, y),
            area=int(np.count_nonzero(mask)),
        )
