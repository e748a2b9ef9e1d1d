"""Make `thfuse_tiny` from a trained `thfuse_lite`: it starts with its weights and learns to give the same images.

    python -m tools.tiny_network models/thfuse_lite.safetensors FILE.safetensors --dataset_path RoadScene171 MSRS80 \\
        --precomputed_masks_dir none masks/MSRS80
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, RandomSampler

from benchmarks.fusion_runs import masks_of
from thfuse_sam.datasets.fusion import FusionDataset, FusionSample
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.fusion.loading import load_network, save_network
from thfuse_sam.masks.source import NoMasks
from thfuse_sam.models import INPUTS, build_network
from thfuse_sam.models.thfuse_tiny import STEP, THFuseTiny
from thfuse_sam.options.shared import SWITCHED_OFF
from thfuse_sam.training.checkpoint import NetworkSpec

log = logging.getLogger("tiny_network")
EMA_DECAY = 0.995


def student_of(teacher: nn.Module, options: dict[str, float]) -> nn.Module:
    """An untrained student that at half the size fuses as its teacher does."""
    student = build_network(THFuseTiny.name, **options)
    weights = teacher.state_dict()
    # Each of the pixels that share a place counts as their mean did.
    weights["stem.conv.weight"] = weights["stem.conv.weight"].repeat_interleave(STEP**2, dim=1) / STEP**2
    student.load_state_dict(weights, strict=False)
    return student


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean difference of the images, and of their differences between neighbouring pixels."""
    steps = [(image.diff(dim=2), image.diff(dim=3)) for image in (student, teacher)]
    edges = sum(F.l1_loss(one, other) for one, other in zip(*steps, strict=True))
    return F.l1_loss(student, teacher) + 2 * edges


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tiny_network", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("teacher", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--dataset_path", type=Path, nargs="+", required=True)
    parser.add_argument("--precomputed_masks_dir", type=Path, nargs="+", required=True)
    parser.add_argument("--start", type=Path, help="an earlier result to go on from, of this teacher or a similar one")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch_size", type=int, default=6)
    parser.add_argument("--crop_size", type=int, default=160)
    parser.add_argument("--lr", type=float, default=2e-3)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    teacher, _ = load_network(options.teacher)
    teacher.train()  # its layers teach, without the stages after them
    student = student_of(teacher, teacher.options)
    if options.start is not None:
        student.load_state_dict(load_network(options.start)[0].state_dict())
    averaged = torch.optim.swa_utils.AveragedModel(
        student, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    parts = []
    for folder, tree in zip(options.dataset_path, options.precomputed_masks_dir, strict=True):
        pairs = find_pairs(folder)
        masks = NoMasks() if tree == SWITCHED_OFF else masks_of(tree, pairs)
        parts.append(FusionDataset(pairs.pairs, masks, crop_size=options.crop_size, augment=True))
    data = ConcatDataset[FusionSample](parts)
    sampler = RandomSampler(data, replacement=True, num_samples=options.steps * options.batch_size)
    optimiser = torch.optim.AdamW(student.parameters(), lr=options.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.lr, options.steps, pct_start=0.1)
    mean = 0.0
    for step, batch in enumerate(DataLoader(data, options.batch_size, sampler=sampler), start=1):
        if step % 40 == 0:
            for part in parts:
                part.set_epoch(step)
        inputs = [batch[name] for name in INPUTS[:-1]]
        with torch.no_grad():
            wanted = teacher(*inputs)
        loss = distance(student(*inputs), wanted)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        averaged.update_parameters(student)
        mean += (loss.item() - mean) / min(step, 100)
        if step % 100 == 0 or step == options.steps:
            log.info("step %d: %.5f", step, mean)
            save_network(options.output, averaged.module, NetworkSpec(THFuseTiny.name, teacher.options))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
