"""Training samples of a prompted model: an image or its embedding, prompts for some of its objects, and their targets.

Shapes: C channels; E image tokens and L mask logits along each side of the encoder's input (see `sam.geometry`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thfuse_sam.arrays import Array, Mask
from thfuse_sam.datasets.prompts import ObjectPrompt, PromptMix, sample_prompts
from thfuse_sam.datasets.segmentation import SegmentationDataset, SegmentationSample
from thfuse_sam.datasets.segmentation.augment import flipped
from thfuse_sam.finetune.embedding_cache import EmbeddingCache
from thfuse_sam.sam.geometry import Frame, resize_image
from thfuse_sam.sam.prompted import PromptTensors, low_resolution_targets, mask_prompts
from thfuse_sam.training.batches import Batch


@dataclasses.dataclass
class TrainingSample:
    """One image with N of its objects."""

    name: str
    image: Tensor | None  # uint8 3xhxw, resized; None if the embedding is known
    embedding: Tensor | None  # float16 CxExE; None if it has to be computed
    key: str | None  # names the embedding in the cache; None: it is not kept there
    frame: Frame
    targets: Tensor  # float32 NxLxL in [0, 1]
    valid: Tensor  # float32 LxL, 0 on padding
    groups: list[tuple[Tensor, PromptTensors]]  # objects (int64 indices) with prompts of one kind
    seed: tuple[int, ...]  # seed of the random choices that are made while the model runs


class PromptedSamples:
    """Makes `TrainingSample`s; each depends only on (seed, epoch, index)."""

    def __init__(
        self,
        dataset: SegmentationDataset,
        img_size: int,
        mix: PromptMix,
        *,
        n_objects: int,
        seed: int,
        flip: float = 0.0,
        cache: EmbeddingCache | None = None,
    ) -> None:
        """`img_size`: side of the encoder's input in pixels.

        `n_objects`: most objects of an image in one step; if it has more, some are drawn at random in every epoch.
        `flip`: probability, in [0, 1], that an image is mirrored left to right; above 0 no embedding is kept.
        """
        self.dataset, self.img_size, self.mix = dataset, img_size, mix
        self.n_objects, self.seed, self.flip = n_objects, seed, flip
        self.cache = None if flip else cache
        self._epoch = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self.dataset.set_epoch(epoch)

    def __getitem__(self, index: int) -> TrainingSample:
        sample = self.dataset[index]
        seed = (self.seed, self._epoch, index)
        rng = np.random.default_rng(seed)
        if self.flip and rng.random() < self.flip:
            sample = flipped(sample)
        ids = list(sample.object_ids)
        if len(ids) > self.n_objects:
            ids = sorted(int(chosen) for chosen in rng.choice(ids, self.n_objects, replace=False))
        frame = Frame.of(sample.shape, self.img_size)
        prompts = sample_prompts(sample, ids, self.mix, rng)
        targets, valid = low_resolution_targets(object_masks(sample, ids), frame, sample.ignored)
        embedding, key = find_embedding(sample, self.cache)
        return TrainingSample(
            name=sample.name,
            image=resize_image(sample.image, frame) if embedding is None else None,
            embedding=embedding,
            key=key,
            frame=frame,
            targets=targets,
            valid=valid,
            groups=group_prompts(prompts, frame),
            seed=seed,
        )


def object_masks(sample: SegmentationSample, object_ids: Sequence[int]) -> Mask:
    """Masks of objects, bool NxHxW."""
    return np.stack([sample.mask(object_id) for object_id in object_ids])


def find_embedding(sample: SegmentationSample, cache: EmbeddingCache | None) -> tuple[Tensor | None, str | None]:
    """The embedding of a sample (None: not in the cache), and the key to keep it under (None: it is not kept)."""
    if cache is None or sample.source is None:  # an image that was composed at random is never met again
        return None, None
    key = cache.key(sample.image)
    return cache.load(key), key


def group_prompts(prompts: Sequence[ObjectPrompt], frame: Frame) -> list[tuple[Tensor, PromptTensors]]:
    """Prompts by kind, as the model takes them: (int64 indices of the objects, their prompts) for each kind."""
    kinds: dict[tuple[int, bool, bool], list[int]] = {}
    for index, prompt in enumerate(prompts):
        kinds.setdefault(prompt.kind, []).append(index)
    return [
        (torch.tensor(indices), prompt_tensors([prompts[index] for index in indices], frame))
        for _, indices in sorted(kinds.items())
    ]


def prompt_tensors(prompts: Sequence[ObjectPrompt], frame: Frame) -> PromptTensors:
    """Prompts of one kind as the model takes them."""

    def stacked(name: str) -> Array | None:
        values = [getattr(prompt, name) for prompt in prompts]
        return None if values[0] is None else np.stack(values)

    points, labels, boxes, masks = map(stacked, ("points", "labels", "box", "mask"))
    return PromptTensors(
        points=None if points is None else torch.from_numpy(frame.coordinates(points)),
        labels=None if labels is None else torch.from_numpy(labels),
        boxes=None if boxes is None else torch.from_numpy(frame.coordinates(boxes)),
        masks=None if masks is None else mask_prompts(masks, frame),
    )


class SampleBatch:
    """The samples of a batch. Not a list, so that code which converts collections of tensors leaves them alone."""

    def __init__(self, items: list[TrainingSample]) -> None:
        self.items = items


def collate(samples: list[Any]) -> Batch:
    """A batch of samples, not stacked: their sizes and numbers of objects differ. The loop counts images by "name"."""
    return {"name": [sample.name for sample in samples], "samples": SampleBatch(samples)}
