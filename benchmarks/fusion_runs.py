"""Short trainings of the fusion network: evaluated for `ablation.py` and `loss_choice.py`, or timed."""

import argparse
import dataclasses
import hashlib
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.region_metrics import region_metrics
from thfuse_sam.datasets.fusion import FusionDataset, FusionSample, MixedPairs, to_uint8
from thfuse_sam.datasets.pairs import PairSet
from thfuse_sam.datasets.targets import read_targets
from thfuse_sam.files import write_json
from thfuse_sam.fusion.inference import fuse_lumas
from thfuse_sam.fusion.training import FusionTask, forward_batch, fusion_loss
from thfuse_sam.images import image_size
from thfuse_sam.losses import DEFAULT_WEIGHTS, FusionLoss
from thfuse_sam.masks.source import MaskSource, NoMasks, PrecomputedMasks
from thfuse_sam.metrics import TEN_METRICS, fusion_metrics
from thfuse_sam.metrics.targets import TargetScore, measure_targets, target_rows
from thfuse_sam.models import DEFAULT_NETWORK, build_network
from thfuse_sam.options.train import TrainOptions
from thfuse_sam.options.training import FusionSettings
from thfuse_sam.training.batches import EpochBatches, make_loader
from thfuse_sam.training.random_state import set_seed
from thfuse_sam.training.trainer import Trainer

REGION_METRICS = ("contrast_kept", "boundary_kept")
TARGET_METRICS = ("people's contrast kept", "people with 80 %", "people below 40 %")


@dataclass(frozen=True)
class Arm:
    """What one training is given."""

    masks: bool  # any at all, to the network or to the losses
    guidance: bool  # the network sees them
    region_losses: bool  # the losses see them


BOTH = Arm(masks=True, guidance=True, region_losses=True)


class Withheld:
    """A data set whose samples have the placeholder in place of guidance, or no segments, or neither."""

    def __init__(self, dataset: FusionDataset | MixedPairs, arm: Arm) -> None:
        self.dataset, self.arm = dataset, arm

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)

    def __getitem__(self, index: int) -> FusionSample:
        sample = self.dataset[index]
        for modality in ("ir", "vi"):
            if not self.arm.guidance:
                sample[f"{modality}_guidance"] = torch.full_like(sample[f"{modality}_guidance"], 0.5)  # type: ignore[literal-required]
            if not self.arm.region_losses:
                sample[f"{modality}_labels"] = torch.zeros_like(sample[f"{modality}_labels"])  # type: ignore[literal-required]
        return sample


def add_training_options(parser: argparse.ArgumentParser, **defaults: float) -> None:
    """The options of all trainings; `defaults` for epochs, batch_size, crop_size, lr and ema_decay."""
    parser.add_argument("--dataset_path", type=Path, nargs="+", required=True, help="pairs to train on")
    parser.add_argument("--masks", type=Path, nargs="+", required=True, help="mask tree of each --dataset_path")
    parser.add_argument("--max_steps", type=int, help="stop each training after so many steps")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help="default: %(default)s")
    parser.add_argument("--network", default=DEFAULT_NETWORK)
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints, figures and table.md")


def train(
    options: argparse.Namespace,
    data: Sequence[PairSet],
    arm: Arm,
    seed: int,
    weights: Mapping[str, float],
    device: torch.device,
    folder: Path,
) -> nn.Module:
    """A network after a training with `options` on `data`, whose mask trees are `options.masks`.

    Args:
        weights: parts of the loss that differ from the default ones.
        folder: for the checkpoints.
    """
    parts = {
        str(index): FusionDataset(
            pairs.pairs,
            masks_of(tree, pairs) if arm.masks else NoMasks(),
            crop_size=options.crop_size,
            augment=True,
            seed=seed + 1_000_003 * index,
        )
        for index, (pairs, tree) in enumerate(zip(data, options.masks, strict=True))
    }
    set_seed(seed)
    task = FusionTask(
        build_network(
            options.network,
            contrast_gain=TrainOptions.contrast_gain,
            sky=TrainOptions.sky,
            selection=TrainOptions.selection,
        ),
        FusionLoss({**DEFAULT_WEIGHTS, **weights}),
        Withheld(MixedPairs(parts), arm),
        None,
        FusionSettings(
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            ema_decay=options.ema_decay,
            seed=seed,
            save_interval=options.epochs,
            max_steps=options.max_steps,
        ),
    )
    trainer = Trainer(task, device=device, output_dir=folder)
    trainer.run()
    if trainer.ema is not None:
        task.module.load_state_dict(trainer.ema.weights)
    return task.module.eval()


@dataclass(frozen=True)
class StepTime:
    """One training step."""

    images: int  # pairs in its batch
    wait: float  # seconds until the batch was there
    total: float  # seconds of the whole step


def training_steps(
    dataset: FusionDataset,
    batch_size: int,
    *,
    network: str = DEFAULT_NETWORK,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
) -> Iterator[StepTime]:
    """Train a new network, epoch after epoch, as long as steps are asked for."""
    set_seed(0)
    batches = EpochBatches(len(dataset), batch_size, seed=0)
    loader = make_loader(dataset, batches, num_workers=num_workers)
    model, loss = build_network(network).to(device), FusionLoss().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in itertools.count():
        batches.start_at(epoch)
        started = time.perf_counter()
        # The first batch of an epoch waits for workers that have nothing ahead; that is a cost of epochs, counted too.
        for batch in loader:
            wait = time.perf_counter() - started
            on_device = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
            optimizer.zero_grad(set_to_none=True)
            total = fusion_loss(loss, forward_batch(model, on_device), on_device)["total"]
            total.backward()
            optimizer.step()
            total.item()  # waits for a GPU
            yield StepTime(len(on_device["ir"]), wait, time.perf_counter() - started)
            started = time.perf_counter()


def masks_of(tree: Path, pairs: PairSet) -> MaskSource:
    return PrecomputedMasks(tree, {"ir": pairs.ir_dir, "vi": pairs.vi_dir})


def evaluate(
    network: nn.Module, arm: Arm, test_set: PairSet, tree: Path, device: torch.device, targets: Path | None = None
) -> dict[str, float]:
    """Mean metrics over whole test pairs, and of their labelled people; the network sees what its arm was trained with.

    `targets`: labels of the test pairs, see `read_targets`; class 0 is people.
    """
    masked = FusionDataset(test_set.pairs, masks_of(tree, test_set))
    seen = Withheld(masked, dataclasses.replace(arm, region_losses=arm.guidance))  # segments for the last stage
    sizes = {pair.name: image_size(pair.ir) for pair in test_set.pairs}
    people = {} if targets is None else read_targets(targets, sizes).by_name
    scores_of_people: list[TargetScore] = []
    values: dict[str, list[float]] = {name: [] for name in (*TEN_METRICS, *REGION_METRICS)}
    for index in range(len(test_set.pairs)):
        (fused,) = fuse_lumas(network, [seen[index]], device)
        sample = masked[index]
        ir, vi = to_uint8(sample["ir"][0]), to_uint8(sample["vi"][0])
        labelled = [target for target in people.get(sample["name"], ()) if target.category == "0"]
        scores_of_people += measure_targets(labelled, fused, ir)
        scores = fusion_metrics(fused, ir, vi, TEN_METRICS)
        scores |= region_metrics(fused, ir, vi, sample["ir_labels"].numpy(), sample["vi_labels"].numpy())
        for name, kept in values.items():
            if math.isfinite(scores[name]):
                kept.append(scores[name])
    means = {name: statistics.fmean(kept) for name, kept in values.items() if kept}
    if scores_of_people:
        row = target_rows(scores_of_people)[0]
        means |= dict(zip(TARGET_METRICS, (row.contrast_kept, row.well_kept, row.badly_kept), strict=True))
    return means


def figures_file(folder: Path, options: argparse.Namespace) -> Path:
    """Where `folder` keeps the figures of a training with `options`; other options have another file."""
    given = {name: str(value) for name, value in vars(options).items() if name not in ("output", "seeds", "jobs")}
    return folder / f"means_{hashlib.sha256(json.dumps(given).encode()).hexdigest()[:8]}.json"


def kept_figures(file: Path, make: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    """What the JSON file holds, which `make` makes where it is missing: a finished training is not done again."""
    if not file.is_file():
        write_json(file, make())
    figures: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return figures
