"""A trained model's masks on random weights, for measuring mask generators.

A decoder's speed does not depend on its weights. What it puts out is replaced by regions of the image, with predicted
IoUs and logits as sharp as a trained model's, so that filters and suppression have their usual work; the oracle counts
its own time.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from segment_anything.utils.amg import build_all_layer_point_grids
from torch import Tensor

from thfuse_sam.devices import upload
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.sam.decoder import DecodedPrompts, Decoder
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.geometry import Frame

REGIONS = (220, 110, 40)  # of an image, for each of the decoder's three masks


class RegionOracle:
    """Logits and predicted IoUs for points of one image: the regions that a point lies in, at three scales.

    Args:
        image: uint8 HxWx3, RGB.
        side: of the encoder's input in pixels.
    """

    def __init__(self, image: npt.NDArray[np.uint8], side: int, regions: Sequence[int] = REGIONS) -> None:
        self.seconds = 0.0  # of processor time that threads have spent in here
        self.points = 0  # that it has answered
        self._lock = threading.Lock()  # on both
        low = side // 4
        scale = low / max(image.shape[:2])
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        small = cv2.pyrMeanShiftFiltering(cv2.resize(image, size, interpolation=cv2.INTER_AREA), 6, 18).astype(np.uint8)
        self._random = np.random.default_rng(0)
        self._labels = [self._segment(small, count) for count in regions]
        self._regions = [self._describe(labels, low) for labels in self._labels]

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points Nx2 (x, y in the encoder's input) -> logits Nx3xLxL, predicted IoUs Nx3, on the points' device."""
        started = time.thread_time()
        logits, ious = zip(*(self._at(x, y) for x, y in (points.cpu().numpy() / 4).astype(int)), strict=True)
        output = torch.stack(logits).to(points.device), torch.tensor(ious, dtype=torch.float32, device=points.device)
        with self._lock:
            self.seconds += time.thread_time() - started
            self.points += len(points)
        return output

    def _at(self, x: int, y: int) -> tuple[Tensor, list[float]]:
        """Logits 3xLxL and predicted IoUs for one pixel of the logit grid."""
        regions = [
            described[int(labels[min(y, labels.shape[0] - 1), min(x, labels.shape[1] - 1)])]
            for labels, described in zip(self._labels, self._regions, strict=True)
        ]
        # Two points in one region do not make quite the same masks.
        shift = (x * 7919 + y * 104729) % 1000 / 1000 - 0.5
        logits = torch.stack([logits for logits, _ in regions]).float() + shift
        return logits, [quality + 0.04 * shift for _, quality in regions]

    def _segment(self, image: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.int32]:
        """A watershed from `count` random pixels: labels 1 and up."""
        height, width = image.shape[:2]
        edges = cv2.morphologyEx(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        labels = np.zeros((height, width), dtype=np.int32)
        count = min(count, height * width // 4 + 1)
        pixels = self._random.choice(height * width, count, replace=False)
        labels.flat[pixels] = np.arange(1, count + 1)
        flooded = cv2.watershed(cv2.merge([edges] * 3), labels)
        # The borders between regions belong to none of them: take the neighbour's.
        return cv2.dilate(np.maximum(flooded, 0).astype(np.float32), np.ones((3, 3))).astype(np.int32)

    def _describe(self, labels: npt.NDArray[np.int32], low: int) -> dict[int, tuple[Tensor, float]]:
        """Logits LxL and quality of each region. Better ones have sharper borders."""
        regions = {}
        for label in np.unique(labels):
            inside = (labels == label).astype(np.uint8)
            distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)
            full = np.full((low, low), -20, dtype=np.float32)
            full[: labels.shape[0], : labels.shape[1]] = distance
            quality = self._random.random()
            noise = self._random.normal(0, 0.25, (low, low))
            logits = (np.clip(full * (4 + 16 * quality), -25, 25) + noise).astype(np.float32)
            # In half precision: hundreds of them are held, and count in what is measured as peak memory.
            regions[int(label)] = torch.from_numpy(logits).half(), 0.7 + 0.28 * quality
        return regions


class LookUp:
    """A `RegionOracle`'s answers for all points of a grid over the whole image, for a device where nothing should wait
    for the CPU.
    """

    def __init__(
        self, image: npt.NDArray[np.uint8], sam: Sam, settings: GeneratorSettings, regions: Sequence[int] = REGIONS
    ) -> None:
        frame = Frame.of(image.shape[:2], sam.image_encoder.img_size)
        [grid] = build_all_layer_point_grids(settings.points_per_side, 0, 1)
        points = torch.from_numpy(grid * np.array(image.shape[1::-1]) * frame.scale)
        oracle = RegionOracle(image, sam.image_encoder.img_size, regions)
        answers = [oracle(batch) for batch in points.split(64)]
        self.logits = torch.cat([logits.half() for logits, _ in answers])
        self.predicted_ious = torch.cat([ious for _, ious in answers])
        self._side = settings.points_per_side
        self._steps = points[-1] * 2 / (2 * self._side - 1)  # x, y from one point of the grid to the next

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """As `RegionOracle`."""
        column, row = (points / self._steps).long().unbind(1)
        index = row * self._side + column
        return self.logits[index].float(), self.predicted_ious[index]

    @property
    def nbytes(self) -> int:
        return self.logits.nbytes + self.predicted_ious.nbytes

    def to(self, device: torch.device | str) -> "LookUp":
        """This look-up, moved to `device`."""
        self.logits, self.predicted_ious = self.logits.to(device), self.predicted_ious.to(device)
        self._steps = self._steps.to(device)
        return self

    def generator(self, sam: Sam, settings: GeneratorSettings) -> AutomaticMaskGenerator:
        """Our generator, with these answers in place of the decoder's output."""
        return own_generator(sam, self, settings)


Oracle = RegionOracle | LookUp


class OracleDecoder:
    """Runs a decoder of ours and puts the oracle's output in place of its."""

    def __init__(self, decoder: Decoder, oracle: Oracle) -> None:
        self._decoder = decoder
        self._oracle = oracle

    def prepare(self, features: Tensor, input_size: tuple[int, int]) -> Any:
        return self._decoder.prepare(features, input_size)

    def decode(self, context: Any, points: Tensor) -> DecodedPrompts:
        real = self._decoder.decode(context, points)
        oracle_logits, predicted_ious = self._oracle(points)

        def logits(indices: Tensor) -> Tensor:
            _, rows, columns = real.logits(indices).shape  # computed for its cost and its shape
            return oracle_logits.flatten(0, 1)[upload(indices, points.device), :rows, :columns]

        return DecodedPrompts(predicted_ious, logits)


def stock_masks(sam: Sam, image: npt.NDArray[np.uint8], oracle: Oracle, settings: dict[str, Any]) -> list[Any]:
    """The stock generator's records, with the oracle's output in place of the decoder's."""
    prompted: list[Tensor] = []  # the points of the last call
    prompt_encoder, mask_decoder = sam.prompt_encoder.forward, sam.mask_decoder.forward

    def encode_prompt(points: tuple[Tensor, Tensor], boxes: None, masks: None) -> tuple[Tensor, Tensor]:
        prompted[:] = [points[0][:, 0]]
        return prompt_encoder(points=points, boxes=boxes, masks=masks)

    def decode(**arguments: Any) -> tuple[Tensor, Tensor]:
        mask_decoder(**arguments)
        return oracle(prompted[0])

    sam.prompt_encoder.forward, sam.mask_decoder.forward = encode_prompt, decode
    try:
        return list(SamAutomaticMaskGenerator(sam, **settings).generate(image))
    finally:
        del sam.prompt_encoder.forward, sam.mask_decoder.forward


def transformers_pipeline(oracle: RegionOracle, device: torch.device) -> Callable[..., dict[str, Any]]:
    """Hugging Face's pipeline on a `vit_b`, with the oracle's output in place of the decoder's."""
    from transformers import SamConfig, SamImageProcessor, SamModel, pipeline

    model = SamModel(SamConfig()).eval()
    forward = model.forward

    def decode(input_points: Tensor, **inputs: Any) -> Any:
        outputs = forward(input_points=input_points, **inputs)
        logits, predicted_ious = oracle(input_points[0, :, 0])
        outputs["pred_masks"], outputs["iou_scores"] = logits[None], predicted_ious[None]
        return outputs

    model.forward = decode
    segment: Callable[..., dict[str, Any]] = pipeline(
        "mask-generation", model=model, image_processor=SamImageProcessor(), device=device
    )
    return segment


def own_generator(sam: Sam, oracle: Oracle, settings: GeneratorSettings) -> AutomaticMaskGenerator:
    """Our generator, with the oracle's output in place of the decoder's."""
    generator = AutomaticMaskGenerator(sam, settings)
    generator.decoder = OracleDecoder(generator.decoder, oracle)
    return generator
