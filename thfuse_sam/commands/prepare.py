"""Checking annotated images and writing them as a data set, according to `PrepareOptions`."""

import logging
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from thfuse_sam.datasets.prompts import PromptMix, sample_prompts
from thfuse_sam.datasets.segmentation import SegmentationDataset, open_segmentation_dataset
from thfuse_sam.datasets.segmentation.known_sets import KNOWN_SETS, fetch
from thfuse_sam.datasets.segmentation.mixture import Mixture
from thfuse_sam.datasets.segmentation.prepared import ANNOTATIONS, CONTENT, PreparedWriter
from thfuse_sam.errors import OptionError, UsageError, counted, naming
from thfuse_sam.files import make_directory
from thfuse_sam.images import write_image
from thfuse_sam.options.prepare import CHECK_DIR, PrepareOptions
from thfuse_sam.progress import progress_bar
from thfuse_sam.report.prompts import draw_sample

OVERLAYS = "overlays"

log = logging.getLogger(__name__)


def prepare_data(options: PrepareOptions) -> list[Path]:
    """Check annotated images, and write or draw them. Returns the folders that were written. Raises ThFuseError."""
    if (options.data_dir is None) == (options.download is None):
        raise UsageError(f"give `data_dir`, or `download` with one of {', '.join(KNOWN_SETS)}")
    output = None if options.check else options.output_dir
    if output is None and not (options.check or options.download):
        raise UsageError("`output_dir` is not given; name a folder for the data set, or draw samples with `check`")
    target, source = options.output_dir, options.data_dir
    # What is written would be read, or take the place of images.
    if target is not None and source is not None and target.resolve().is_relative_to(source.resolve()):
        raise OptionError("output_dir", target, "lies in `data_dir`; choose one beside it")
    if output is not None:
        _require_free(output)
    path = options.data_dir
    if options.download is not None:
        path = fetch(KNOWN_SETS[options.download])
        log.info("%s lies in %s", options.download, path)
    if output is None and not options.check:
        return []
    assert path is not None
    with naming("data_dir", path):
        dataset = open_segmentation_dataset(path, seed=options.seed, **options.choices)
    if output is None:
        return [_check(options, dataset)]
    if isinstance(dataset, Mixture):
        raise OptionError("data_dir", path, "a mixture is drawn anew each epoch; look at it with `check`")
    parts = {output: dataset}
    if options.val_fraction:
        train, val = dataset.split(options.val_fraction, options.seed)
        parts = {output / "train": train, output / "val": val}
    for folder, part in parts.items():
        with naming("output_dir", folder):
            _write(options, part, folder)
    return list(parts)


def _require_free(output: Path) -> None:
    """Refuse an output folder that holds a data set, or pictures of one: after an error all of it is removed."""
    for folder in (output, output / "train", output / "val"):
        taken = [name for name in (*CONTENT, OVERLAYS) if (folder / name).exists()]
        if taken:
            raise OptionError("output_dir", output, f"holds {taken[0]} already; choose another or remove it")


def _check(options: PrepareOptions, dataset: SegmentationDataset) -> Path:
    """Draw samples with prompts as training would see them. Returns the folder of the pictures."""
    with naming("output_dir", options.output_dir):
        folder = make_directory(options.output_dir or CHECK_DIR)
    mix = PromptMix.from_selection(options.point_selection, options.num_points)
    rng = np.random.default_rng(options.seed)
    looked_at = _spread(len(dataset), options.num_samples)
    for index in looked_at:
        sample = dataset[index]
        path = folder / f"{sample.name}.png"
        write_image(path, draw_sample(sample, sample_prompts(sample, sample.object_ids, mix, rng)))
        log.info("%s: objects %d, %s", path, len(sample.object_ids), _class_counts(Counter(sample.categories.values())))
    total = counted(len(dataset), "image")
    log.info("%d of %s looked at, all fine; `num_samples` sets how many", len(looked_at), total)
    return folder


def _write(options: PrepareOptions, dataset: SegmentationDataset, folder: Path) -> None:
    """Write a data set that `open_segmentation_dataset` reads; if that fails, what was written is removed."""
    writer = PreparedWriter(folder, dataset.classes)
    drawn = set(_spread(len(dataset), options.num_samples)) if options.visualize else set()
    classes: Counter[str] = Counter()
    objects = 0
    try:
        for index in progress_bar(range(len(dataset)), f"writing {folder}"):
            sample = dataset[index]
            writer.add(sample)
            classes.update(sample.categories.values())
            objects += len(sample.object_ids)
            if index in drawn:
                write_image(folder / OVERLAYS / f"{sample.name}.png", draw_sample(sample))
        writer.close()
    except BaseException:
        for name in (*CONTENT, OVERLAYS):
            if name != ANNOTATIONS:
                shutil.rmtree(folder / name, ignore_errors=True)
        raise
    found = f"{counted(len(dataset), 'image')}, {counted(objects, 'object')}"
    log.info("%s: %s, %s", folder, found, _class_counts(classes))
    if drawn:
        log.info("%s to look at in %s", counted(len(drawn), "picture"), folder / OVERLAYS)


def _class_counts(classes: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(classes.items())) or "no class names"


def _spread(total: int, count: int) -> list[int]:
    """`count` evenly spaced indices below `total`; all indices if there are fewer than `count`."""
    count = min(total, count)
    return [index * total // count for index in range(count)]
