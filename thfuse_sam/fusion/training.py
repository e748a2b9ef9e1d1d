"""Training of a fusion network: its loss, its evaluation, its pictures. `training.trainer` does the rest of a run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning_fabric
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from thfuse_sam.arrays import ImageArray
from thfuse_sam.datasets.fusion import to_uint8
from thfuse_sam.images import MODALITIES
from thfuse_sam.masks.overlay import draw_overlay
from thfuse_sam.metrics import fusion_metrics
from thfuse_sam.models import INPUTS, FusionNetwork
from thfuse_sam.options.training import FusionSettings
from thfuse_sam.training.batches import Batch, EpochBatches, EpochDataset, make_loader, next_batch
from thfuse_sam.training.checkpoint import NetworkSpec
from thfuse_sam.training.loop import TOTAL
from thfuse_sam.training.task import Evaluation, ShowPicture, TrainingTask

PICTURES = 4  # most validation pairs shown in TensorBoard, all from the first validation batch


class FusionTask(TrainingTask):
    """Trains a fusion network on crops of pairs, samples of `FusionDataset`."""

    sample_noun = "pairs"
    # The folders that `dataset_path` leads to are recorded as `ir_dir` and `vi_dir`.
    may_differ = frozenset(("init", "val_metrics", "network", "dataset_path", "use_sam", "sam_checkpoint"))
    settings: FusionSettings

    def __init__(
        self,
        network: FusionNetwork,
        loss: nn.Module,
        train_set: EpochDataset,
        val_set: EpochDataset | None,
        settings: FusionSettings,
        *,
        counts_masks: bool = True,
    ) -> None:
        super().__init__(network, NetworkSpec(network.name, dict(network.options)), train_set, val_set, settings)
        self._loss = loss
        self._counts_masks = counts_masks
        self._val_loader: DataLoader[Any] | None = None

    def to(self, device: torch.device) -> None:
        super().to(device)
        self._loss.to(device)

    def loss(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return fusion_loss(self._loss, forward_batch(network, batch), batch)

    def counts(self, batch: Batch) -> dict[str, int]:
        """How many of the batch's images have a mask, and how many the placeholder instead, where masks are used."""
        if not self._counts_masks:
            return {}
        has_mask = torch.cat([batch["has_ir_mask"], batch["has_vi_mask"]])
        masks = int(has_mask.sum())
        return {"masks_found": masks, "placeholders": len(has_mask) - masks}

    def evaluate(self, fabric: lightning_fabric.Fabric, show: ShowPicture | None) -> Evaluation:
        """Mean loss parts and metrics over the validation pairs, which the first process computes for all."""
        values: dict[str, float] = fabric.broadcast(self._validate(fabric, show) if fabric.is_global_zero else {})
        return Evaluation(values[TOTAL], values, f"validation {values[TOTAL]:.4f}")

    def _validate(self, fabric: lightning_fabric.Fabric, show: ShowPicture | None) -> dict[str, float]:
        if self._val_loader is None:  # made once, because its workers live on into the next epochs
            batches = EpochBatches(len(self.val_set), self.settings.batch_size, seed=None)
            self._val_loader = make_loader(self.val_set, batches, num_workers=self.settings.num_workers or 0)
        values: dict[str, list[float]] = {}
        remaining = iter(self._val_loader)
        while (batch := next_batch(remaining)) is not None:
            batch = fabric.to_device(batch)
            fused = forward_batch(self.module, batch)
            for key, loss_value in fusion_loss(self._loss, fused, batch).items():
                values.setdefault(key, []).extend([float(loss_value)] * len(batch["name"]))
            for key, measured in batch_metrics(fused, batch, self.settings.val_metrics).items():
                values.setdefault(key, []).extend(measured)
            if show is not None:
                for name, picture in pictures(fused, batch, PICTURES).items():
                    show(f"val/{name}", picture)
                show = None  # one batch is enough
        return {key: sum(numbers) / len(numbers) for key, numbers in values.items() if numbers}


def forward_batch(network: nn.Module, batch: Batch) -> Tensor:
    """Fused images of a batch of `FusionDataset` samples: float B1HW in [0, 1]."""
    fused: Tensor = network(*(batch[key] for key in INPUTS))
    return fused


def fusion_loss(loss: nn.Module, fused: Tensor, batch: Batch) -> Mapping[str, Tensor]:
    """Loss parts of the fused images of a batch. Without any mask the parts that are about segments take no time."""
    labels = (batch[f"{modality}_labels"] if batch[f"has_{modality}_mask"].any() else None for modality in MODALITIES)
    parts: Mapping[str, Tensor] = loss(fused, batch["ir"], batch["vi"], *labels, batch.get("vi_rgb"))
    return parts


def batch_metrics(fused: Tensor, batch: Batch, names: Sequence[str]) -> dict[str, list[float]]:
    """Metrics of each image of a batch by name, without values that are not defined (images too small, or equal)."""
    values: dict[str, list[float]] = {name: [] for name in names}
    if not names:
        return values
    images = (to_uint8(image[:, 0]) for image in (fused, batch["ir"], batch["vi"]))
    for fused_image, ir, vi in zip(*images, strict=True):
        for name, value in fusion_metrics(fused_image, ir, vi, names).items():
            if math.isfinite(value):
                values[name].append(value)
    return values


def pictures(fused: Tensor, batch: Batch, number: int) -> dict[str, ImageArray]:
    """The first `number` samples of a batch by name, each a row of five images as uint8 Hx(5W)x3 RGB.

    From left to right: infrared, visible, fused, infrared with its segments drawn in, visible with its segments.
    """
    rows = {}
    sources = {"ir": batch["ir"], "vi": batch["vi"], "fused": fused}
    grey = {key: to_uint8(image[:number, 0]) for key, image in sources.items()}
    for index, name in enumerate(batch["name"][:number]):
        three_channel = {key: np.stack([images[index]] * 3, axis=2) for key, images in grey.items()}
        overlays = [
            draw_overlay(three_channel[key], batch[f"{key}_labels"][index].cpu().numpy()) for key in ("ir", "vi")
        ]
        rows[name] = np.concatenate([*three_channel.values(), *overlays], axis=1)
    return rows
