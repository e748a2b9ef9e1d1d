"""The report of a training run: its log as curves, and some pairs as the kept checkpoints fuse them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from thfuse_sam.datasets.fusion import FusionDataset, to_uint8
from thfuse_sam.fusion.colour import add_colour
from thfuse_sam.fusion.inference import fuse_lumas
from thfuse_sam.fusion.loading import restore_network
from thfuse_sam.report.page import replacing, write_page
from thfuse_sam.report.pictures import Pictures, spread
from thfuse_sam.report.run_facts import Facts
from thfuse_sam.training.checkpoint import Checkpoint, load_checkpoint
from thfuse_sam.training.epoch_log import read_log

SAMPLE_PAIRS = 3
SAMPLE_EPOCHS = 6
SAMPLE_WIDTH = 320  # pixels

_TITLES = {
    "total": "loss, total",
    "lr": "learning rate",
    "images_per_second": "images per second",
    "masks_found": "masks found",
    "step": "optimiser steps",
}


def write_training_report(
    folder: Path,
    log: Path,
    facts: Facts,
    checkpoints: Sequence[Path] = (),
    dataset: FusionDataset | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Write the report into `folder` and return the path of its page.

    Args:
        folder: an earlier report there is replaced.
        log: `train_log.csv`, one row per epoch.
        checkpoints: those that the run kept, in any order. Some of them fuse the first samples of `dataset`.
        dataset: whole pairs with their masks; None leaves out the fused pairs.
        device: what fuses them.

    Raises OutputError, ImageReadError, and CheckpointError if a checkpoint is damaged.
    """
    columns, rows = read_log(log)
    loaded = [(load_checkpoint(path), path) for path in checkpoints] if dataset is not None else []
    kept = spread(sorted(loaded, key=lambda entry: entry[0].epoch), SAMPLE_EPOCHS)
    with replacing(folder) as staging:
        samples = []
        if kept and dataset is not None:
            samples = _write_samples(staging, kept, dataset, torch.device(device))
        data: dict[str, Any] = {
            "columns": columns,
            "titles": _TITLES,
            "rows": rows,
            "sampleEpochs": [checkpoint.epoch for checkpoint, _ in kept],
            "samples": samples,
        }
        page = write_page(staging, "training", facts, data)
    return folder / page.name


def _write_samples(
    folder: Path, checkpoints: Sequence[tuple[Checkpoint, Path]], dataset: FusionDataset, device: torch.device
) -> list[dict[str, Any]]:
    """Write some pairs, and each of them as every checkpoint fuses it; returns one entry per pair for the page."""
    # Read once for all checkpoints: live masks take long.
    samples = [dataset[index] for index in range(min(SAMPLE_PAIRS, len(dataset)))]
    images = [to_uint8(sample["vi_rgb"]).transpose(1, 2, 0) for sample in samples]
    pictures = Pictures(folder)
    entries: list[dict[str, Any]] = [
        {
            "name": sample["name"],
            "ir": pictures.thumbnail(f"{number:05d}_ir.jpg", to_uint8(sample["ir"][0]), SAMPLE_WIDTH),
            "vi": pictures.thumbnail(f"{number:05d}_vi.jpg", visible, SAMPLE_WIDTH),
            "fused": [],
        }
        for number, (sample, visible) in enumerate(zip(samples, images, strict=True), 1)
    ]
    for checkpoint, path in checkpoints:
        network = restore_network(checkpoint.network, checkpoint.weights, path).to(device).eval()
        for number, (entry, visible, sample) in enumerate(zip(entries, images, samples, strict=True), 1):
            (luma,) = fuse_lumas(network, [sample], device)
            name = f"{number:05d}_epoch{checkpoint.epoch}.jpg"
            entry["fused"].append(pictures.thumbnail(name, add_colour(luma, visible), SAMPLE_WIDTH))
    return entries
