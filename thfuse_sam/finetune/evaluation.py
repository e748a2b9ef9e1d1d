"""How good a model's masks are, for each kind of prompt."""

import dataclasses
import functools
import importlib.util
import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.modeling import Sam

from thfuse_sam.arrays import Mask
from thfuse_sam.datasets.prompts import ObjectPrompt, PromptMix, sample_prompts
from thfuse_sam.datasets.segmentation import SegmentationDataset, SegmentationSample
from thfuse_sam.finetune.embedding_cache import EmbeddingCache
from thfuse_sam.finetune.samples import find_embedding, group_prompts, object_masks
from thfuse_sam.metrics.segmentation import ScoredMask, boundary_iou, coco_average_precision, mask_dice, mask_iou
from thfuse_sam.sam.geometry import Frame, resize_image
from thfuse_sam.sam.prompted import encode, predict
from thfuse_sam.training.distributed import run_processes

# Kinds of prompts for which results are given: an interior point, and a jittered box; equal in every evaluation.
KINDS: Mapping[str, PromptMix] = {"point": PromptMix(point=1.0), "box": PromptMix(box=1.0)}
ESTIMATE = "estimated_iou"  # the mean of the model's own estimates: neither better nor worse when high
TITLES = {"iou": "IoU", "dice": "Dice", "boundary_iou": "boundary IoU", "AP": "AP", "AP50": "AP50", "AP75": "AP75"}

# Kind of prompt -> figure -> value. The higher the better, but for "objects" (their number) and ESTIMATE.
Results = dict[str, dict[str, float]]

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _ObjectScores:
    """How good one object's mask is. It can be pickled, because processes send these to each other."""

    kind: str
    iou: float
    dice: float
    boundary_iou: float
    estimated_iou: float  # the model's own estimate
    scored: ScoredMask | None  # for COCO's AP; None if that is not computed


@dataclasses.dataclass(frozen=True)
class PredictedObjects:
    """Predicted masks of an image's N objects, in the order of its `object_ids`, without pixels that are ignored."""

    prompts: list[ObjectPrompt]
    masks: Mask  # NxHxW
    scores: npt.NDArray[np.float32]  # N, the model's own estimate of each mask's IoU


def evaluate_sam(
    sam: Sam,
    dataset: SegmentationDataset,
    *,
    n_objects: int,
    seed: int = 0,
    cache: EmbeddingCache | None = None,
    full: bool = True,
) -> Results:
    """Mean IoU and Dice over all objects of `dataset`, at the images' own size, for each of KINDS.

    The processes of a run share the work, and each gets the whole result.

    Args:
        sam: in eval mode; its mode is left as it is.
        n_objects: objects that the decoder takes at once; no influence on the result.
        seed: decides how the boxes are jittered.
        cache: keeps the model's embeddings; None: each is computed.
        full: compute ESTIMATE, boundary IoU and COCO AP too; the last two take longer than the model if there are many
            objects.
    """
    dataset.set_epoch(0)
    processes = run_processes()
    scores: list[_ObjectScores] = []
    for index in range(processes.rank, len(dataset), processes.count):
        sample, predictions = predict_objects(sam, dataset, index, n_objects=n_objects, seed=seed, cache=cache)
        truths = object_masks(sample, sample.object_ids)
        scores += [
            _score(kind, sample.name, mask, truth, float(estimate), full)
            for kind, objects in predictions.items()
            for mask, truth, estimate in zip(objects.masks, truths, objects.scores, strict=True)
        ]
    if processes.count > 1:
        scores_by_rank: list[list[_ObjectScores]] = [[] for _ in range(processes.count)]
        torch.distributed.all_gather_object(scores_by_rank, scores)
        scores = [score for part in scores_by_rank for score in part]
    return {kind: _mean_scores([score for score in scores if score.kind == kind], full) for kind in KINDS}


def mean_iou(results: Results) -> float:
    """The mean IoU over the kinds of prompts."""
    return sum(figures["iou"] for figures in results.values()) / len(results)


def fitting_threshold(threshold: float, zero_shot: Results, fine_tuned: Results) -> float:
    """The `pred_iou_thresh` for the tuned model that corresponds to `threshold` for the model before tuning.

    Tuning shifts the model's estimates of its masks' IoU, because it sees labelled objects alone, each of which has a
    right mask. The threshold of the automatic mask generator is shifted by as much: the mean over point prompts.
    """
    shift = fine_tuned["point"][ESTIMATE] - zero_shot["point"][ESTIMATE]
    return min(max(threshold + shift, 0.0), 0.99)


@torch.no_grad()
def predict_objects(
    sam: Sam,
    dataset: SegmentationDataset,
    index: int,
    *,
    n_objects: int,
    seed: int = 0,
    cache: EmbeddingCache | None = None,
) -> tuple[SegmentationSample, dict[str, PredictedObjects]]:
    """A sample, and the masks that `sam` predicts of its objects, for each of KINDS. Arguments as in `evaluate_sam`."""
    sample = dataset[index]
    ids = sample.object_ids
    frame = Frame.of(sample.shape, sam.image_encoder.img_size)
    embedding, key = find_embedding(sample, cache)
    if embedding is None:
        embedding = encode(sam, [resize_image(sample.image, frame)])[0]
        if cache is not None and key is not None:
            embedding = cache.store(key, embedding, frame)
    embedding = embedding.to(sam.device).float()
    predictions = {}
    for kind, mix in KINDS.items():
        prompts = sample_prompts(sample, ids, mix, np.random.default_rng((seed, index)))
        masks, scores = np.empty((len(ids), *sample.shape), bool), np.empty(len(ids), np.float32)
        for indices, tensors in group_prompts(prompts, frame):
            for first in range(0, len(indices), n_objects):
                chosen = slice(first, first + n_objects)
                rows = indices[chosen].numpy()
                masks[rows], scores[rows] = predict(sam, embedding, frame, tensors.rows(chosen))
        if sample.ignored is not None:
            masks &= ~sample.ignored
        predictions[kind] = PredictedObjects(prompts, masks, scores)
    return sample, predictions


def _score(kind: str, image: str, mask: Mask, truth: Mask, estimate: float, full: bool) -> _ObjectScores:
    return _ObjectScores(
        kind,
        mask_iou(mask, truth),
        mask_dice(mask, truth),
        boundary_iou(mask, truth) if full else math.nan,
        estimate,
        ScoredMask.of(image, mask, truth, estimate) if full else None,
    )


def _mean_scores(scores: Sequence[_ObjectScores], full: bool) -> dict[str, float]:
    figures: dict[str, float] = {"objects": len(scores)}
    for name in ("iou", "dice", "boundary_iou", ESTIMATE) if full else ("iou", "dice"):
        figures[name] = float(np.mean([getattr(score, name) for score in scores])) if scores else math.nan
    if full:
        if importlib.util.find_spec("faster_coco_eval") is not None:
            figures |= coco_average_precision([score.scored for score in scores if score.scored is not None])
        else:
            _log_missing_evaluator()
    return figures


@functools.cache  # once a run, not for each kind of prompt
def _log_missing_evaluator() -> None:
    log.info("no COCO AP: faster-coco-eval is not installed")
