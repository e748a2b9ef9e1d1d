"""Which masks of decoded points stay: the filters by predicted IoU, stability, and edges of the crop.

On a GPU the masks stay where they are, as packed bits, and everything that decides about them is a few numbers each,
which are read once for all: the GPU never waits for the CPU. On a CPU they are read at once, so that a mask that one
filter drops costs no more work.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thfuse_sam.devices import Chunks, Download, upload
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.sam.candidates import Candidates, PackedMask
from thfuse_sam.sam.crops import Crop
from thfuse_sam.sam.decoder import DecodedPrompts
from thfuse_sam.sam.postprocess import above, count_pixels, mask_boxes, pack_bits, threshold_counts, upsample_logits

# SAM's default thresholds. With `adaptive_points`, points inside a mask that reaches both are skipped. A mask below
# them is too rough for that, even if the settings accept it.
_COVERING_IOU = 0.88
_COVERING_STABILITY = 0.95

FREE_MEMORY = "free memory, use another `device` or smaller images"

_CHUNK_PIXELS_CPU = 2**21  # upsampled logits that exist at once: few enough to stay in the processor's cache
_CHUNK_PIXELS_GPU = 2**26  # and so many that the masks of one batch of points are usually one chunk
_WAITING_BYTES = 2**28  # packed masks that wait on a GPU before those that have passed are brought to the CPU


@dataclass(frozen=True)
class _Measured:
    """K masks that passed the filter by predicted IoU, with the numbers that the other filters need."""

    # Kx8 int32: pixels above the raised threshold, above the lowered one, of the mask; its box in the crop; whether it
    # is the smallest of its point's masks.
    numbers: Tensor
    masks: Tensor  # on a CPU bool KxHxW, on a GPU packed bits
    predicted_ious: Tensor  # float32 K, on the CPU
    prompts: Tensor  # float64 Kx4, on the CPU: as in `Candidates`


class MaskFilter:
    """The filters of one crop.

    Args:
        mask_threshold: logits above it belong to a mask.
        logit_chunks, pixel_chunks: divide masks so that their logits, and their upsampled logits, fit into memory.
    """

    def __init__(
        self, crop: Crop, settings: GeneratorSettings, mask_threshold: float, logit_chunks: Chunks, pixel_chunks: Chunks
    ) -> None:
        self._crop = crop
        self._settings = settings
        self._mask_threshold = mask_threshold
        self._logit_chunks = logit_chunks
        self._pixel_chunks = pixel_chunks
        height, width = crop.size
        self._no_memory = f"not enough memory for one mask of {height}x{width} pixels (height x width); {FREE_MEMORY}"
        self._measured: list[_Measured] = []
        self._passed: list[Candidates] = []

    def add(self, decoded: DecodedPrompts, predicted_ious: Download, prompts: npt.NDArray[np.float64]) -> None:
        """Filter the masks of P decoded points (Px2: x, y in the crop) or boxes (Px4: x0, y0, x1, y1), of which the CPU
        needs to know the IoUs.
        """
        masks_per_prompt = decoded.predicted_ious.shape[1]
        ious = predicted_ious.wait().flatten()
        if self._settings.pred_iou_thresh > 0:
            kept = (ious > self._settings.pred_iou_thresh).nonzero()[:, 0]
        else:
            kept = torch.arange(len(ious))
        if self._settings.adaptive_points and bool((ious[kept] > _COVERING_IOU).any()):
            logits, smallest = self._logits_and_smallest(decoded, kept)
        else:
            logits = self._logits(decoded, kept)
            smallest = torch.zeros(len(kept), dtype=torch.bool, device=logits.device)
        corners = torch.from_numpy(np.tile(prompts, 4 // prompts.shape[1]))
        corners = corners[kept // masks_per_prompt] + torch.tensor(self._crop.box[:2]).tile(2)
        columns = (logits, ious[kept], corners, smallest)
        chunk_pixels = _CHUNK_PIXELS_CPU if logits.device.type == "cpu" else _CHUNK_PIXELS_GPU
        length = max(1, chunk_pixels // self._crop.area)
        for measured in self._pixel_chunks.map(
            lambda chunk: self._measure(*(column[chunk] for column in columns)), len(kept), length, self._no_memory
        ):
            self._measured.append(measured)
            if logits.device.type == "cpu" or sum(one.masks.numel() for one in self._measured) > _WAITING_BYTES:
                self._passed.append(self._read()().fetch()())

    def finish(self) -> Callable[[], Candidates]:
        """Begin to read what decides about the masks that were added; the function that is returned ends it."""
        passed, read = self._passed, self._read()
        self._passed = []
        return lambda: Candidates.join([*passed, read()])

    def _logits(self, decoded: DecodedPrompts, indices: Tensor) -> Tensor:
        """The logits of the masks `indices`: float32 Kxrxc."""
        if len(indices) == 0:
            return decoded.logits(indices)
        count = len(indices)
        parts = list(
            self._logit_chunks.map(lambda chunk: decoded.logits(indices[chunk]), count, count, self._no_memory)
        )
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _logits_and_smallest(self, decoded: DecodedPrompts, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the masks `kept`, and which of these are the smallest of their prompt's masks: bool."""
        masks_per_prompt = decoded.predicted_ious.shape[1]
        prompts, prompt_of_mask = (kept // masks_per_prompt).unique(return_inverse=True)
        siblings = (prompts[:, None] * masks_per_prompt + torch.arange(masks_per_prompt)).flatten()
        logits = self._logits(decoded, siblings)
        smallest = count_pixels(logits > self._mask_threshold).view(-1, masks_per_prompt).argmin(1)
        position, prompt_of_mask, mask_of_prompt = (
            upload(index, logits.device)
            for index in (torch.searchsorted(siblings, kept), prompt_of_mask, kept % masks_per_prompt)
        )
        return logits[position], smallest[prompt_of_mask] == mask_of_prompt

    def _measure(self, logits: Tensor, predicted_ious: Tensor, prompts: Tensor, smallest: Tensor) -> _Measured:
        """Upsample some masks (logits Kxrxc) and measure them."""
        logits = upsample_logits(logits, self._crop.frame)
        counts = torch.stack(
            threshold_counts(logits, self._mask_threshold, self._settings.stability_score_offset), dim=1
        )
        masks = above(logits, self._mask_threshold)
        on_cpu = masks.device.type == "cpu"
        if on_cpu:
            kept = self._is_stable(counts[:, 0] / counts[:, 1]).nonzero()[:, 0]
            columns = (counts, masks, predicted_ious, prompts, smallest)
            counts, masks, predicted_ious, prompts, smallest = (column[kept] for column in columns)
        numbers = [counts, count_pixels(masks)[:, None], mask_boxes(masks), smallest[:, None]]
        return _Measured(
            torch.cat([column.int() for column in numbers], dim=1),
            masks if on_cpu else pack_bits(masks),
            predicted_ious,
            prompts,
        )

    def _is_stable(self, scores: Tensor) -> Tensor:
        """Which scores pass; those of empty masks are NaN and pass at threshold 0 only."""
        threshold = self._settings.stability_score_thresh
        return scores >= threshold if threshold > 0 else torch.ones_like(scores, dtype=torch.bool)

    def _read(self) -> Callable[[], Candidates]:
        """As `finish`, of the masks that still wait."""
        measured, self._measured = self._measured, []
        download = Download(torch.cat([one.numbers for one in measured])) if measured else None
        return lambda: self._passing(measured, download.wait() if download is not None else torch.zeros((0, 8)).int())

    def _passing(self, measured: Sequence[_Measured], numbers: Tensor) -> Candidates:
        """Those masks that are stable, not empty, and not cut off by an edge of the crop."""
        higher, lower, pixels, crop_boxes, smallest = (
            part.squeeze(1) for part in numbers.split([1, 1, 1, 4, 1], dim=1)
        )
        crop_boxes = crop_boxes.long()
        x, y = self._crop.box[:2]
        scores, boxes = higher.float() / lower, crop_boxes + torch.tensor([x, y, x, y])
        kept = (self._is_stable(scores) & (pixels > 0) & ~self._crop.cuts_off(boxes)).nonzero()[:, 0]
        ious = torch.cat([torch.zeros(0, dtype=torch.float32), *(one.predicted_ious for one in measured)])[kept]
        prompts = torch.cat([torch.zeros((0, 4), dtype=torch.float64), *(one.prompts for one in measured)])[kept]
        # A point inside such a mask would most likely give the same masks again, larger ones included.
        covers_points = smallest[kept].bool() & (ious > _COVERING_IOU) & (scores[kept] >= _COVERING_STABILITY)
        masks = [mask for one in measured for mask in one.masks.unbind(0)]
        packed = [self._pack(masks[index], crop_boxes[index]) for index in kept.tolist()]
        areas = torch.full((len(packed),), self._crop.area)
        return Candidates(packed, boxes[kept], ious, scores[kept], prompts, covers_points, areas)

    def _pack(self, mask: Tensor, box: Tensor) -> PackedMask:
        """A row of `_Measured.masks`: on the CPU the bits of its own box, on a GPU all its bits, which `fetch` cuts."""
        x, y = self._crop.box[:2]
        if mask.device.type == "cpu":
            return PackedMask.pack(mask.numpy(), box.tolist(), (y, x))
        return PackedMask(mask, y, x, self._crop.size)
