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
from thfuse_sam.sam.prompted import PromptTensors, best_mask, decode, encode
from thfuse_sam.training.batches import Batch


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

        `sub_iterations`: passes of the decoder for each object. The first has the sample's prompt, each further one
        its own mask as a prompt and a point from where that mask is wrong besides.
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
        """The mean over images of the mean over each image's objects and passes; "total" alone has a gradient."""
        samples: list[TrainingSample] = batch["samples"].items
        images = [
            self._image_parts(embedding, sample)
            for embedding, sample in zip(self._embeddings(samples), samples, strict=True)
        ]
        parts = {key: torch.stack([image[key] for image in images]).mean() for key in images[0]}
        return {key: value if key == "total" else value.detach() for key, value in parts.items()}

    def _embeddings(self, samples: list[TrainingSample]) -> list[Tensor]:
        """Of each sample, CxExE on the model's device; computed where unknown, and then kept."""
        embeddings: dict[int, Tensor] = {}
        unknown: list[int] = []
        for index, sample in enumerate(samples):
            if sample.embedding is not None:
                embeddings[index] = sample.embedding.to(self.sam.device).float()
            elif sample.key is not None and self._cache is not None and sample.image is not None:
                # One by one: what is kept must not depend on the images beside it.
                with torch.no_grad():
                    computed = encode(self.sam, [sample.image])[0]
                embeddings[index] = self._cache.store(sample.key, computed).to(self.sam.device).float()
            else:
                unknown.append(index)
        if unknown:
            images = [image for index in unknown if (image := samples[index].image) is not None]
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self._adaptation.encoder_is_fixed):
                computed = encode(self.sam, images)
            embeddings |= dict(zip(unknown, computed, strict=True))
        return [embeddings[index] for index in range(len(samples))]

    def _image_parts(self, embedding: Tensor, sample: TrainingSample) -> dict[str, Tensor]:
        device = self.sam.device
        targets, valid = sample.targets.to(device), sample.valid.to(device)
        rounds = [
            parts
            for number, (indices, prompts) in enumerate(sample.groups)
            for parts in self._rounds(
                embedding, prompts.to(device), targets[indices.to(device)], valid, (*sample.seed, number)
            )
        ]
        # Every object has as many passes as any other one, so that this is the mean over objects and passes.
        return {key: torch.cat([parts[key] for parts in rounds]).mean() for key in rounds[0]}

    def _rounds(
        self, embedding: Tensor, prompts: PromptTensors, targets: Tensor, valid: Tensor, seed: tuple[int, ...]
    ) -> list[dict[str, Tensor]]:
        """Loss parts (per object) of each pass."""
        rng = np.random.default_rng(seed)
        rounds: list[dict[str, Tensor]] = []
        while True:
            logits, ious = decode(self.sam, embedding, prompts, multimask=prompts.is_single_point())
            rounds.append(self._loss(logits, ious, targets, valid))
            if len(rounds) == self._sub_iterations:
                return rounds
            prompts = self._corrected(prompts, logits, ious, targets, valid, rng)

    def _corrected(
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
        wanted = targets.cpu().numpy() > 0.5
        # On padding no point is drawn: there the mask is taken for right.
        predicted = np.where(inside, (mask > 0).cpu().numpy(), wanted)
        places, labels = next_points(predicted, wanted, rng)
        pixels = self.sam.image_encoder.img_size / targets.shape[-1]
        points = torch.from_numpy(places * np.float32(pixels)).to(mask.device)
        kinds = torch.from_numpy(labels).to(mask.device)
        if prompts.points is not None and prompts.labels is not None:
            points, kinds = torch.cat([prompts.points, points], dim=1), torch.cat([prompts.labels, kinds], dim=1)
        return dataclasses.replace(prompts, points=points, labels=kinds, masks=mask[:, None])
