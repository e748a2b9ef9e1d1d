"""`prepare_data.py`: options -> annotated images -> a checked data set on disk, or pictures of it."""

import argparse
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from thfuse_sam.cli import common
from thfuse_sam.datasets.prompts import PromptMix, sample_prompts
from thfuse_sam.datasets.segmentation import SegmentationDataset, open_segmentation_dataset
from thfuse_sam.datasets.segmentation.known_sets import KNOWN_SETS, fetch, find_known_set
from thfuse_sam.datasets.segmentation.mixture import Mixture
from thfuse_sam.datasets.segmentation.prepared import ANNOTATIONS, CONTENT, PreparedWriter
from thfuse_sam.errors import UsageError
from thfuse_sam.files import make_directory
from thfuse_sam.images import write_image
from thfuse_sam.report.prompts import draw_sample

CHECK_DIR = Path("results/check")
OVERLAYS = "overlays"

log = logging.getLogger(__name__)


def build_parser() -> common.CommandParser:
    parser = common.CommandParser(
        "prepare_data.py",
        "Check annotated images of any known format, turn them into label maps, look at them. The formats are in "
        "docs/finetuning_data.md.",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data_dir", "-d", type=Path, help="folder of annotated images, COCO .json, or mixture .yaml")
    data.add_argument("--download", metavar="NAME", help=f"a known set in place of --data_dir: {', '.join(KNOWN_SETS)}")
    data.add_argument("--labels", nargs="+", metavar="LABEL", help="only objects of these classes (None: all)")
    data.add_argument("--merge", action="store_true", help="make all objects of an image one")
    data.add_argument("--skip_bad", action="store_true", help="leave bad samples out and count them")

    output = parser.add_argument_group("output")
    output.add_argument(
        "--output_dir", type=Path, help=f"folder to write (None: with --check {CHECK_DIR}, else needed)"
    )
    output.add_argument(
        "--val_ratio", type=common.fraction, help="write train/ and val/ with this share (None: no split)"
    )
    output.add_argument("--seed", type=common.natural_int, default=0, help="of the split and of random prompts")
    output.add_argument("--visualize", action="store_true", help="also draw objects over images, to look at")
    output.add_argument("--num_samples", type=common.positive_int, default=3, metavar="N", help="pictures to draw")

    check = parser.add_argument_group("look at what training would see")
    check.add_argument(
        "--check", action="store_true", help="write samples with masks and prompts drawn in, no data set"
    )
    check.add_argument(
        "--point_selection",
        choices=("center", "random", "bbox"),
        default="center",
        help="prompts: the point farthest inside, random points, or a jittered box",
    )
    check.add_argument("--num_points", type=common.positive_int, default=1, metavar="N", help="points for each object")
    parser.add_config_option()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return common.run(build_parser(), _prepare, argv)


def _prepare(options: argparse.Namespace) -> int:
    if (options.data_dir is None) == (options.download is None):
        raise UsageError(f"give --data_dir, or --download with one of {', '.join(KNOWN_SETS)}")
    writes = options.output_dir is not None and not options.check
    if not (writes or options.check or options.download):
        raise UsageError("--output_dir is not given; name a folder to write, or look with --check")
    if options.download:
        known = find_known_set(options.download)
    if writes:
        _require_free(options)
    path = fetch(known) if options.download else options.data_dir
    if options.download:
        log.info("%s lies in %s", options.download, path)
        if not (writes or options.check):
            return 0
    dataset = open_segmentation_dataset(
        path, labels=options.labels, merge=options.merge, skip_bad=options.skip_bad, seed=options.seed
    )
    if options.check:
        return _check(options, dataset)
    if isinstance(dataset, Mixture):
        raise UsageError(f"--data_dir {path}: a mixture is drawn anew each epoch; look at it with --check")
    if options.val_ratio:
        train, val = dataset.split(options.val_ratio, options.seed)
        _write(options, train, options.output_dir / "train")
        _write(options, val, options.output_dir / "val")
    else:
        _write(options, dataset, options.output_dir)
    return 0


def _require_free(options: argparse.Namespace) -> None:
    """Refuse an output folder that holds a data set, or that lies in the data folder, where it would be read."""
    for folder in (options.output_dir, options.output_dir / "train", options.output_dir / "val"):
        taken = [name for name in CONTENT if (folder / name).exists()]
        if taken:
            raise UsageError(
                f"--output_dir {options.output_dir}: holds {taken[0]} already; choose another or remove it"
            )
    if options.data_dir is not None and options.output_dir.resolve().is_relative_to(options.data_dir.resolve()):
        raise UsageError(f"--output_dir {options.output_dir}: lies in --data_dir; choose one beside it")


def _check(options: argparse.Namespace, dataset: SegmentationDataset) -> int:
    """Draw samples as the loader yields them, with the prompts that training would draw."""
    folder = make_directory(options.output_dir or CHECK_DIR)
    mix = PromptMix.from_selection(options.point_selection, options.num_points)
    rng = np.random.default_rng(options.seed)
    for index in _spread(len(dataset), options.num_samples):
        sample = dataset[index]
        path = folder / f"{sample.name}.png"
        write_image(path, draw_sample(sample, sample_prompts(sample, sample.object_ids, mix, rng)))
        log.info("%s: objects %d, %s", path, len(sample.object_ids), _class_counts(Counter(sample.categories.values())))
    return 0


def _write(options: argparse.Namespace, dataset: SegmentationDataset, folder: Path) -> None:
    """Write a data set that `open_segmentation_dataset` reads; what is half-done when it fails is removed."""
    writer = PreparedWriter(folder)
    drawn = set(_spread(len(dataset), options.num_samples)) if options.visualize else set()
    classes: Counter[str] = Counter()
    objects = 0
    try:
        for index in tqdm(range(len(dataset)), f"writing {folder}", disable=None, leave=False):
            sample = dataset[index]
            writer.add(sample, dataset.image_path(index))
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
    log.info("%s: %d images, %d objects, %s", folder, len(dataset), objects, _class_counts(classes))
    if drawn:
        log.info("%d pictures to look at in %s", len(drawn), folder / OVERLAYS)


def _class_counts(classes: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(classes.items())) or "no class names"


def _spread(total: int, count: int) -> list[int]:
    """`count` indices below `total` at even distances, all of them where there are fewer."""
    count = min(total, count)
    return [index * total // count for index in range(count)]
