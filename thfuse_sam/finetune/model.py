"""A Segment Anything model with its loss, as one module: a batch of samples in, loss parts out."""

import dataclasses

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from thfuse_sam.datasets.prompts import next_points
from thfuse_sam.finetune.embedding_cache import EmbeddingCache
from thfuse_sam.finetune.samples import TrainingSample
from thfuse_sam.losses.segmentation import SegmentationLoss
from thfuse_sam.sam.adapt import Adaptation, set_mode
from thfuse_sam.sam.geometry import LOGIT_STRIDE
from thfuse_sam.sam.prompted import PromptTensors, best_mask, decode, encode
from thfuse_sam.training.batches import Batch
from thfuse_sam.training.loop import TOTAL


class PromptedSam(nn.Module):
    """Losses of a model on a batch. One `forward` is one pass, which is what distributed training asks for."""

    def __init__(
        self,
        sam: Sam,
        adaptation: Adaptation,
        loss: SegmentationLoss,
        *,
        sub_iterations: int = 1,
        cache: EmbeddingCache | None = None,
    ) -> None:
        """`sam` is prepared (`adapt.prepare`).

        `sub_iterations`: passes of the decoder for each object. The first pass has the sample's prompt; each further
        pass is also prompted with the mask of the pass before and with a point from where that mask is wrong.
        """
        super().__init__()
        self.sam = sam
        self._adaptation, self._loss = adaptation, loss
        self._sub_iterations, self._cache = sub_iterations, cache

    def train(self, mode: bool = True) -> "PromptedSam":
        super().train(mode)
        set_mode(self.sam, self._adaptation, training=mode)
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The mean over images of the mean over each image's objects and passes; `TOTAL` alone has a gradient."""
        samples: list[TrainingSample] = batch["samples"].items
        images = [
            self._image_parts(embedding, sample)
            for embedding, sample in zip(self._embeddings(samples), samples, strict=True)
        ]
        parts = {key: torch.stack([image[key] for image in images]).mean() for key in images[0]}
        return {key: value if key == TOTAL else value.detach() for key, value in parts.items()}

    def _embeddings(self, samples: list[TrainingSample]) -> list[Tensor]:
        """The image embedding of each sample, CxExE on the model's device."""
        cached = [self._cached_embedding(sample) for sample in samples]
        unknown = [sample for sample, embedding in zip(samples, cached, strict=True) if embedding is None]
        images = [sample.image for sample in unknown if sample.image is not None]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._adaptation.encoder_is_fixed):
            computed = iter(encode(self.sam, images) if images else ())
        return [next(computed) if embedding is None else embedding for embedding in cached]

    def _cached_embedding(self, sample: TrainingSample) -> Tensor | None:
        """The embedding from the cache, or computed and stored there; None if it is not kept."""
        embedding = sample.embedding
        if sample.image is not None and sample.key is not None and self._cache is not None:
            # One by one: what is kept must not depend on the images beside it.
            with torch.no_grad():
                embedding = self._cache.store(sample.key, encode(self.sam, [sample.image])[0], sample.frame)
        return None if embedding is None else embedding.to(self.sam.device).float()

    def _image_parts(self, embedding: Tensor, sample: TrainingSample) -> dict[str, Tensor]:
        device = self.sam.device
        targets, valid = sample.targets.to(device), sample.valid.to(device)
        passes = [
            parts
            for number, (indices, prompts) in enumerate(sample.groups)
            for parts in self._passes(
                embedding, prompts.to(device), targets[indices.to(device)], valid, (*sample.seed, number)
            )
        ]
        # Every object has as many passes as any other one, so that this is the mean over objects and passes.
        return {key: torch.cat([parts[key] for parts in passes]).mean() for key in passes[0]}

    def _passes(
        self, embedding: Tensor, prompts: PromptTensors, targets: Tensor, valid: Tensor, seed: tuple[int, ...]
    ) -> list[dict[str, Tensor]]:
        """Loss parts (per object) of each pass."""
        rng = np.random.default_rng(seed)
        passes: list[dict[str, Tensor]] = []
        while True:
            logits, ious = decode(self.sam, embedding, prompts, multimask=prompts.is_single_point())
            passes.append(self._loss(logits, ious, targets, valid))
            if len(passes) == self._sub_iterations:
                return passes
            prompts = self._add_correction(prompts, logits, ious, targets, valid, rng)

    def _add_correction(
        self,
        prompts: PromptTensors,
        logits: Tensor,
        ious: Tensor,
        targets: Tensor,
        valid: Tensor,
        rng: np.random.Generator,
    ) -> PromptTensors:
        """The prompts, a point where the mask is wrong, and the mask itself."""
        mask = best_mask(logits, ious)[0].detach().float()
        inside = valid.cpu().numpy() > 0
        truth = targets.cpu().numpy() > 0.5
        # No point is drawn on padding: there the mask counts as correct.
        predicted = np.where(inside, (mask > 0).cpu().numpy(), truth)
        logit_points, point_labels = next_points(predicted, truth, rng)
        points = torch.from_numpy(logit_points * np.float32(LOGIT_STRIDE)).to(mask.device)
        labels = torch.from_numpy(point_labels).to(mask.device)
        if prompts.points is not None and prompts.labels is not None:
            points, labels = torch.cat([prompts.points, points], dim=1), torch.cat([prompts.labels, labels], dim=1)
        return dataclasses.replace(prompts, points=points, labels=labels, masks=mask[:, None])
