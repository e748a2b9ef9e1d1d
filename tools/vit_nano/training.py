"""Training of `vit_nano`: its loss, its files, and how many steps fit into the time. `training.trainer` runs it."""

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from thfuse_sam.files import write_atomically
from thfuse_sam.interrupts import StopRequest
from thfuse_sam.training.batches import Batch, EpochBatches, make_loader
from thfuse_sam.training.checkpoint import Checkpoint, NetworkSpec
from thfuse_sam.training.distributed import make_fabric
from thfuse_sam.training.loop import Progress, StepParts, StepSettings, train_epoch
from thfuse_sam.training.task import TrainingTask
from tools.scenes import Scene
from tools.vit_nano.images import Photo
from tools.vit_nano.objective import batch_loss
from tools.vit_nano.options import NanoSettings
from tools.vit_nano.region_head import RegionHead
from tools.vit_nano.targets import TargetDataset

PROBE_STEPS = 20  # number of steps whose time is measured
_SAM_PREFIX = "sam."  # begins the keys of those weights in a checkpoint that are shipped


class NanoModel(nn.Module):
    """The model and its auxiliary head as one module: a batch of `TargetDataset` in, loss parts out."""

    def __init__(self, sam: Sam, head: RegionHead, settings: NanoSettings) -> None:
        super().__init__()
        self.sam, self.head = sam, head
        self._settings = settings

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        # `batch_loss` decides itself what is computed in 16 bits; the losses are not.
        with torch.autocast(batch["images"].device.type, enabled=False):
            return batch_loss(self.sam, self.head, self._settings, batch)


class NanoTask(TrainingTask):
    """Trains a `vit_nano` on shapes, scenes and photos. The averaged weights are what ships, in fp16."""

    sample_noun = "images"
    best_file = "best.safetensors"
    latest_file = "vit_nano.safetensors"
    must_match = ("prompts", "crop_size", "crop_height", "whole", "shares", "pasted")
    may_differ = frozenset(("init", "minutes", "regions", "rendered", "threads"))
    module: NanoModel
    settings: NanoSettings

    def __init__(
        self,
        sam: Sam,
        scenes: Sequence[Scene],
        photos: Sequence[Photo],
        settings: NanoSettings,
        people: Sequence[Sequence[Photo]] = (),
        former: Mapping[str, Tensor] | None = None,
    ) -> None:
        """What it is trained on is as in `TargetDataset`; `former` are weights to mix into those that are saved."""
        self.former = former or {}
        size = int(sam.image_encoder.img_size)
        super().__init__(
            NanoModel(sam, RegionHead(), settings),
            NetworkSpec("vit_nano", {"image_size": size}),
            TargetDataset(size, scenes, photos, settings, people),
            None,
            settings,
        )

    def optimizer(self) -> torch.optim.Optimizer:
        settings = self.settings
        return torch.optim.AdamW(
            self.module.parameters(), settings.lr, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
        )

    def loss(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        parts: Mapping[str, Tensor] = network(batch)
        return parts

    def kept_file(self, epoch: int) -> str:
        return f"epoch{epoch}.safetensors"

    def save(self, path: Path, checkpoint: Checkpoint) -> None:
        """Write the model without its head as fp16 safetensors, mixed with the `former` weights if there are any.

        A mixture of weights from before and after a fine-tuning keeps more of what both can do than either (Wortsman et
        al., "Robust fine-tuning of zero-shot models", CVPR 2022).
        """
        weights = {}
        for name, value in checkpoint.weights.items():
            if name.startswith(_SAM_PREFIX):
                own, name = value.cpu(), name.removeprefix(_SAM_PREFIX)
                if own.is_floating_point():
                    former = self.former.get(name, own).float()
                    own = own.float().lerp(former, self.settings.former_share).half()
                weights[name] = own.contiguous()
        write_atomically(path, lambda file: file.write(safetensors.torch.save(weights)))


def steps_within(minutes: float, task: NanoTask, device: torch.device) -> int:
    """How many optimiser steps of `task` take `minutes` on `device`, estimated from some steps of a copied model."""
    settings = task.settings
    fabric = make_fabric(device, settings.precision)
    model = copy.deepcopy(task.module).to(device)
    network, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters()))
    batches = EpochBatches(
        len(task.train_set), settings.batch_size, settings.seed, step_size=settings.batch_size * settings.accumulate
    )
    loader: Any = fabric.setup_dataloaders(make_loader(task.train_set, batches, num_workers=settings.num_workers or 0))
    times: list[float] = []
    steps = StepSettings(
        lambda step: settings.lr / settings.warmup_steps if settings.warmup_steps else settings.lr,
        settings.grad_clip,
        max_steps=PROBE_STEPS,
        after_step=lambda step: times.append(time.monotonic()),
    )
    started = time.monotonic()
    with StopRequest() as stop:
        parts = StepParts(fabric, network, optimizer, loader, task.loss, task.counts, steps, batches.plan)
        train_epoch(parts, Progress(), stop)
    # The first step waits for the workers to start.
    seconds = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else times[0] - started
    return max(round(60 * minutes / seconds), 1)
