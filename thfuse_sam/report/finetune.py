"""The report of a fine-tuning run: metrics for each kind of prompt, curves, and masks before and after training."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thfuse_sam.arrays import ImageArray, Mask, size_of
from thfuse_sam.datasets.prompts import ObjectPrompt
from thfuse_sam.datasets.segmentation import SegmentationDataset
from thfuse_sam.finetune.evaluation import KINDS, TITLES, PredictedObjects, Results, predict_objects
from thfuse_sam.finetune.samples import object_masks
from thfuse_sam.finetune.training import FinetuneTask
from thfuse_sam.metrics.segmentation import mask_iou
from thfuse_sam.report.page import replacing, write_page
from thfuse_sam.report.pictures import Pictures, resize_labels, shrink, spread
from thfuse_sam.report.prompts import draw_objects
from thfuse_sam.report.run_facts import Facts
from thfuse_sam.report.tables import markdown_table
from thfuse_sam.sam.registry import build_sam
from thfuse_sam.training.epoch_log import read_log

SAMPLES = 6  # images
LONGEST_SIDE = 640  # longest side of a picture on the page, pixels

_TITLES = {
    "train/total": "loss, total",
    "train/mask_iou": "IoU while training",
    "lr": "learning rate",
    "images_per_second": "images per second",
}
_TRAINING = ("training", 0)  # name and colour number of the curves of training
_CURVES = ("iou", "dice")  # metrics of every evaluation that are drawn as curves


def write_finetune_report(folder: Path, log: Path, facts: Facts, task: FinetuneTask) -> Path:
    """Write the report into `folder` and return the path of its page.

    Args:
        folder: an earlier report there is replaced.
        log: `train_log.csv`, one row per epoch.
        task: one that has been run. Its SAM from before is loaded beside the tuned one, on the same device. Images of
            its evaluation, or without one of training, are shown with the masks that were scored.

    Raises OutputError, and SampleError or ImageReadError where an image cannot be read any more.
    """
    columns, rows = read_log(log)
    with replacing(folder) as staging:
        data: dict[str, Any] = {
            "figures": _metric_rows(task.zero_shot, task.fine_tuned),
            "kinds": list(KINDS),
            "charts": _charts(columns, rows, task.zero_shot),
            "columns": columns,
            "rows": rows,
            "samples": _write_samples(staging, task),
        }
        page = write_page(staging, "finetune", facts, data)
    return folder / page.name


def result_table(columns: Mapping[str, Results]) -> str:
    """Results side by side as a Markdown table: one row for each kind of prompt and figure.

    `columns`: for example "zero-shot" and "fine-tuned" -> their results.
    """
    rows = []
    for kind, figures in next(iter(columns.values())).items():
        for name in (name for name in TITLES if name in figures):
            values = [results[kind].get(name, math.nan) for results in columns.values()]
            if not all(map(math.isnan, values)):
                rows.append((kind, TITLES[name], *(f"{value:.3f}" for value in values)))
    return markdown_table(("prompt", "figure", *columns), rows, text_columns=2)


def _metric_rows(zero_shot: Results, fine_tuned: Results) -> list[dict[str, Any]]:
    """One row for each kind of prompt and metric."""
    return [
        {
            "kind": kind,
            "objects": after["objects"],
            "figure": title,
            "before": zero_shot[kind][name],
            "after": after[name],
        }
        for kind, after in fine_tuned.items()
        for name, title in TITLES.items()
        if name in after
    ]


def _charts(columns: Sequence[str], rows: Sequence[dict[str, float]], zero_shot: Results) -> list[dict[str, Any]]:
    """Curves over epochs. The curves of the evaluation begin at epoch 0, before training."""
    charts: list[dict[str, Any]] = []
    for metric in _CURVES:
        series = []
        for colour, kind in enumerate(KINDS, 1):
            start = [[0, zero_shot[kind][metric]]] if kind in zero_shot else []
            series.append(_series(kind, colour, start + _points(rows, f"val/{kind}_{metric}")))
        charts.append({"title": f"{TITLES[metric]}, validation", "series": series})
    for column in columns:
        if column != "step" and not column.startswith("val/"):
            title = _TITLES.get(column, column.removeprefix("train/"))
            charts.append({"title": title, "series": [_series(*_TRAINING, _points(rows, column))]})
    charts = [{**chart, "series": [line for line in chart["series"] if line["points"]]} for chart in charts]
    return [chart for chart in charts if chart["series"]]


def _series(name: str, colour: int, points: list[list[float]]) -> dict[str, Any]:
    return {"name": name, "colour": colour, "points": points}


def _points(rows: Sequence[dict[str, float]], column: str) -> list[list[float]]:
    """[epoch, value] of the epochs that have a value in the column."""
    return [[row["epoch"], row[column]] for row in rows if column in row]


def _write_samples(folder: Path, task: FinetuneTask) -> list[dict[str, Any]]:
    """Write pictures of some images with their objects and both models' masks; one entry per image for the page."""
    dataset: SegmentationDataset = task.val_set or task.train_set.dataset
    dataset.set_epoch(0)
    untuned = build_sam(task.base.model_type, task.base.checkpoint, task.sam.device)
    n_objects, seed = task.settings.n_objects, task.settings.seed
    pictures = Pictures(folder)
    entries = []
    for number, index in enumerate(spread(range(len(dataset)), SAMPLES), 1):
        sample, after = predict_objects(task.sam, dataset, index, n_objects=n_objects, seed=seed)
        _, before = predict_objects(untuned, dataset, index, n_objects=n_objects, seed=seed)
        truth = object_masks(sample, sample.object_ids)
        drawing = _Drawing(pictures, f"{number:05d}", sample.image)
        entries.append(
            {
                "name": sample.name,
                "objects": len(truth),
                "image": drawing.write("image", truth[:0]),
                "truth": drawing.write("truth", truth),
                "before": _write_predictions(drawing, "before", truth, before),
                "after": _write_predictions(drawing, "after", truth, after),
            }
        )
    return entries


def _write_predictions(
    drawing: "_Drawing", when: str, truth: Mask, predictions: Mapping[str, PredictedObjects]
) -> dict[str, dict[str, Any]]:
    """Kind of prompt -> mean IoU and picture."""
    return {
        kind: {
            "iou": float(np.mean([mask_iou(mask, label) for mask, label in zip(objects.masks, truth, strict=True)])),
            "picture": drawing.write(f"{kind}_{when}", objects.masks, objects.prompts),
        }
        for kind, objects in predictions.items()
    }


class _Drawing:
    """Draws masks and prompts over one image, which is shrunk to LONGEST_SIDE."""

    def __init__(self, pictures: Pictures, stem: str, image: ImageArray) -> None:
        self._pictures = pictures
        self._stem = stem
        self._scale = min(1.0, LONGEST_SIDE / max(image.shape[:2]))
        self._image = shrink(image, LONGEST_SIDE, LONGEST_SIDE)

    def write(self, name: str, masks: Mask, prompts: Sequence[ObjectPrompt] = ()) -> str:
        """Draw masks NxHxW, at the full image's size, and their prompts; returns the address of the picture."""
        size = size_of(self._image)
        if masks.shape[1:] != size:
            masks = np.array([resize_labels(mask, size) for mask in masks], bool).reshape(-1, *size)
            prompts = [_scaled(prompt, self._scale) for prompt in prompts]
        return self._pictures.write(f"{self._stem}_{name}.jpg", draw_objects(self._image, list(masks), prompts))


def _scaled(prompt: ObjectPrompt, scale: float) -> ObjectPrompt:
    """The prompt on an image that is scaled by `scale`."""
    points, box = (None if values is None else values * scale for values in (prompt.points, prompt.box))
    return dataclasses.replace(prompt, points=points, box=box)
