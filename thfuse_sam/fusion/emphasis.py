"""Emphasis: what somebody wants to see of single segments, on top of what the network makes of them.

The choices for a mask tree lie beside its masks, in `emphasis.json`: pair -> modality -> segment's label -> choice::

    {"a/0001": {"ir": {"3": "brighter"}, "vi": {"12": "vi"}}}
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import torch
from torch import nn

from thfuse_sam.arrays import ImageArray, Mask
from thfuse_sam.datasets.fusion import FusionSample, to_uint8
from thfuse_sam.errors import MaskReadError, UsageError
from thfuse_sam.fusion.inference import DEFAULT_INFERENCE, fuse_lumas
from thfuse_sam.images import MODALITIES, Modality
from thfuse_sam.masks.store import open_masks
from thfuse_sam.options.fuse import Emphasis, InferenceSettings

EMPHASIS_FILE = "emphasis.json"
_COPYING_NS = 60 * 10**9  # a copy or clone of a tree writes its files in any order
LEANING = 0.75  # share of the preferred source in a segment
BRIGHTER = 32.0  # grey levels of 255
FEATHER = 2.0  # pixels, sigma of the Gaussian that softens borders
_FORM = f'{{"PAIR": {{"ir" or "vi": {{"LABEL": choice}}}}}}, a choice being one of {", ".join(get_args(Emphasis))}'

log = logging.getLogger(__name__)

Choices = Mapping[tuple[Modality, int], Emphasis]  # (modality, label of the segment) -> choice


@dataclass(frozen=True)
class EmphasisPlan:
    """What is wanted of segments: `usual`, unless `chosen` says otherwise for a segment of the pair of that name."""

    usual: Emphasis | None = None  # None: as the network makes them
    chosen: Mapping[str, Choices] = field(default_factory=dict)


def fuse_emphasised(
    network: nn.Module,
    samples: Sequence[FusionSample],
    device: torch.device,
    settings: InferenceSettings = DEFAULT_INFERENCE,
    plan: EmphasisPlan | None = None,
) -> list[ImageArray]:
    """`fuse_lumas`, and in each segment that `plan` is about what it says; borders are soft."""
    plan = plan or EmphasisPlan()
    wanted = [_regions(sample, plan.usual, plan.chosen.get(sample["name"], {})) for sample in samples]
    unlifted = [_without_lift(sample, regions) for sample, regions in zip(samples, wanted, strict=True)]
    lumas = fuse_lumas(network, unlifted, device, settings)
    return [_emphasise(*values) for values in zip(lumas, samples, wanted, strict=True)]


def read_emphasis(root: Path) -> dict[str, Choices]:
    """The choices beside the masks of a tree, by the pair's name; none without a file. Raises UsageError."""
    path = root / EMPHASIS_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): dict(_choices(entry)) for name, entry in content.items()}
    except (AttributeError, OSError, RecursionError, ValueError) as error:
        said = "" if isinstance(error, AttributeError) else f" ({error})"  # something else than a mapping
        raise UsageError(f"{path}: no choices of emphasis{said}; write {_FORM}") from None


def pairs_with_newer_masks(root: Path, chosen: Mapping[str, Choices]) -> list[str]:
    """The pairs of `chosen` whose masks were written after the choices: a label may be another segment now."""
    store, latest = open_masks(root), (root / EMPHASIS_FILE).stat().st_mtime_ns + _COPYING_NS
    newer = []
    for name, choices in chosen.items():
        with contextlib.suppress(MaskReadError):  # it is told when the pair is fused
            if any(store.shape_and_time(modality, name)[1] > latest for modality in {of for of, _ in choices}):
                newer.append(name)
    return newer


def _choices(entry: Mapping[Any, Mapping[Any, Any]]) -> Iterator[tuple[tuple[Modality, int], Emphasis]]:
    for modality, labels in entry.items():
        for label, choice in labels.items():
            if modality not in MODALITIES or choice not in get_args(Emphasis):
                raise ValueError(f"{modality} {label}: {choice}")
            yield (modality, int(label)), choice


def _regions(sample: FusionSample, usual: Emphasis | None, choices: Choices) -> dict[Emphasis, Mask]:
    """Where which emphasis is wanted, bool HxW each. Of two choices for one pixel, the last named kind is seen."""
    regions: dict[Emphasis, Mask] = {}
    for modality in MODALITIES:
        labels = sample["ir_labels" if modality == "ir" else "vi_labels"].numpy()
        own = {label: choice for (of, label), choice in choices.items() if of == modality}
        for label in own:
            if not (labels == label).any():
                log.warning(
                    "%s: has no segment %d in its %s mask, so its emphasis is left out", sample["name"], label, modality
                )
        for choice in {usual, *own.values()} - {None}:
            assert choice is not None
            named = [label for label, other in own.items() if other == choice]
            inside = np.isin(labels, named)
            if choice == usual:
                inside |= (labels > 0) & ~np.isin(labels, list(own))
            regions[choice] = regions.get(choice, False) | inside
    return {choice: inside for choice, inside in regions.items() if inside.any()}


def _without_lift(sample: FusionSample, regions: Mapping[Emphasis, Mask]) -> FusionSample:
    """The sample without the infrared segments there that a choice is about: the network shall not lift them."""
    if not regions:
        return sample
    chosen = np.logical_or.reduce(list(regions.values()))
    labels = torch.where(torch.from_numpy(chosen), 0, sample["ir_labels"])
    return FusionSample(**{**sample, "ir_labels": labels})


def _emphasise(luma: ImageArray, sample: FusionSample, regions: Mapping[Emphasis, Mask]) -> ImageArray:
    result = luma.astype(np.float32)
    for choice in get_args(Emphasis):
        if choice == "neutral" or choice not in regions:
            continue
        share = cv2.GaussianBlur(regions[choice].astype(np.float32), (0, 0), FEATHER)
        if choice == "brighter":
            result += BRIGHTER * share
        else:
            result += LEANING * share * (to_uint8(sample["ir" if choice == "ir" else "vi"][0]) - result)
    return np.rint(result.clip(0, 255)).astype(np.uint8)
