"""The report of a training run: its log as curves, and some pairs as the kept checkpoints fuse them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from thfuse_sam.datasets.fusion import FusionDataset
from thfuse_sam.datasets.pairs import ImagePair
from thfuse_sam.fusion.colour import add_colour
from thfuse_sam.fusion.inference import fuse_lumas
from thfuse_sam.fusion.loading import restore_network
from thfuse_sam.images import read_infrared, read_visible
from thfuse_sam.masks.source import MaskSource
from thfuse_sam.report.page import replacing, write_page
from thfuse_sam.report.pictures import Pictures
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
    *,
    checkpoints: Sequence[Path] = (),
    pairs: Sequence[ImagePair] = (),
    masks: MaskSource | None = None,
    device: torch.device | None = None,
) -> Path:
    """Write the report into `folder` and return the path of its page.

    Args:
        folder: an earlier report there is replaced.
        log: `train_log.csv`, one row per epoch.
        checkpoints: those that the run kept, in any order. Some of them fuse some of `pairs`, with `masks`.
        masks: None leaves out the fused pairs.
        device: what fuses the pairs; None: the CPU.

    Raises OutputError, ImageReadError, and CheckpointError if a checkpoint is damaged.
    """
    columns, rows = read_log(log)
    loaded = [(load_checkpoint(path), path) for path in checkpoints]
    with replacing(folder) as staging:
        kept = spread(sorted(loaded, key=lambda entry: entry[0].epoch), SAMPLE_EPOCHS) if masks is not None else []
        samples = []
        if kept and masks is not None:
            samples = _write_samples(staging, kept, pairs[:SAMPLE_PAIRS], masks, device or torch.device("cpu"))
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
    folder: Path,
    checkpoints: Sequence[tuple[Checkpoint, Path]],
    pairs: Sequence[ImagePair],
    masks: MaskSource,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Write the pairs, and each of them as every checkpoint fuses it; returns one entry per pair for the page."""
    dataset = FusionDataset(pairs, masks)
    samples = [dataset[index] for index in range(len(pairs))]  # read once for all checkpoints: live masks take long
    images = [read_visible(pair.vi) for pair in pairs]
    pictures = Pictures(folder)
    entries: list[dict[str, Any]] = [
        {
            "name": pair.name,
            "ir": pictures.thumbnail(f"{number:05d}_ir.jpg", read_infrared(pair.ir, pair.reading), SAMPLE_WIDTH),
            "vi": pictures.thumbnail(f"{number:05d}_vi.jpg", visible, SAMPLE_WIDTH),
            "fused": [],
        }
        for number, (pair, visible) in enumerate(zip(pairs, images, strict=True), 1)
    ]
    for checkpoint, path in checkpoints:
        network = restore_network(checkpoint.network, checkpoint.weights, path).to(device).eval()
        for number, (entry, visible, sample) in enumerate(zip(entries, images, samples, strict=True), 1):
            (luma,) = fuse_lumas(network, [sample], device)
            name = f"{number:05d}_epoch{checkpoint.epoch}.jpg"
            entry["fused"].append(pictures.thumbnail(name, add_colour(luma, visible), SAMPLE_WIDTH))
    return entries


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `values` at even distances, the first and the last among them."""
    if len(values) <= count:
        return list(values)
    return [values[round(index * (len(values) - 1) / (count - 1))] for index in range(count)]
