"""The training loop of `vit_nano`."""

import logging
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch.utils.data import DataLoader

from thfuse_sam.training.ema import EmaWeights
from tools.scenes import Scene
from tools.vit_nano.images import Photo
from tools.vit_nano.objective import batch_loss
from tools.vit_nano.options import NanoTrainingConfig
from tools.vit_nano.region_head import RegionHead
from tools.vit_nano.targets import TargetStream

logger = logging.getLogger(__name__)


def train_nano(
    sam: Sam,
    scenes: Sequence[Scene],
    photos: Sequence[Photo],
    config: NanoTrainingConfig,
    save: Callable[[Sam], None],
    head: RegionHead | None = None,
) -> RegionHead:
    """Train `sam` in place for `config.minutes`, on the device that it is on.

    Args:
        sam: a `vit_nano`, untrained or to be trained on.
        scenes: rendered scenes; may be empty.
        photos: photos with regions; may be empty.
        config: see NanoTrainingConfig.
        save: called with the model every five minutes and at the end.
        head: the auxiliary head of an earlier training, or None.
    """
    torch.manual_seed(config.seed)
    size = sam.image_encoder.img_size
    head = (head or RegionHead()).to(sam.device)
    stream = TargetStream(size, scenes, photos, config)
    loader = iter(DataLoader(stream, batch_size=config.batch_size, num_workers=config.workers))
    parameters = [*sam.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    average = EmaWeights(sam.state_dict(), config.ema_decay)
    start = saved = time.monotonic()
    step, history = 0, []
    while (elapsed := (time.monotonic() - start) / 60) < config.minutes:
        cosine = 0.5 * (1 + math.cos(math.pi * elapsed / config.minutes))
        decay = config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine
        optimizer.param_groups[0]["lr"] = config.lr * min(1, (step + 1) / 100) * decay
        batch = (tensor.to(sam.device, non_blocking=True) for tensor in next(loader))
        loss, parts = batch_loss(sam, head, config, *batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        average.update(sam.state_dict(), step)
        history.append(parts)
        if step % 50 == 0:
            means = (f"{name} {np.mean([part[name] for part in history[-50:]]):.3f}" for name in parts)
            logger.info("step %d, %.1f min: %s", step, elapsed, ", ".join(means))
        if time.monotonic() - saved > 300:
            with average.in_place_of(sam.state_dict(), sam.load_state_dict):
                save(sam)
            saved = time.monotonic()
    sam.load_state_dict(average.weights)
    save(sam)
    return head
