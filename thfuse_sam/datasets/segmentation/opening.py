"""Recognising the format of a data set by its content, and opening it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from thfuse_sam.datasets.segmentation.annotated import read_all
from thfuse_sam.datasets.segmentation.dataset import SegmentationDataset
from thfuse_sam.datasets.segmentation.formats import coco, label_maps, labelme, mask_images
from thfuse_sam.datasets.segmentation.formats.listing import Listing
from thfuse_sam.datasets.segmentation.mixture import open_mixture
from thfuse_sam.errors import UsageError

MIXTURE_SUFFIXES = (".yaml", ".yml")
_TRAIN, _VAL = "train", ("val", "valid", "test")  # folders of parts

# Layout -> a function that lists a folder of this layout and returns None for another one. The first layout that fits
# is used. What prepare_data.py writes fits COCO and label maps; only COCO holds overlaps and class names.
FORMATS: Mapping[str, Callable[[Path], Listing | None]] = {
    "annotations.json + images/ (COCO)": coco.find,
    "images/ + masks/*.npy": label_maps.find,
    "PNGImages/ + PedMasks/": mask_images.find_instance_masks,
    "imgs/ + masks/": mask_images.find_binary_masks,
    "annotations/*.json + images/ (LabelMe), or *.json beside images": labelme.find,
}


def detect_format(root: Path) -> tuple[str, Listing]:
    """The layout of a folder (see FORMATS), and what is in it. Raises UsageError: no folder, or no known layout."""
    if not root.is_dir():
        kind = "is a file of an unknown kind" if root.exists() else "no such folder"
        raise UsageError(f"`data_dir` {root}: {kind}; give a folder, a COCO .json or a mixture .yaml")
    for layout, find in FORMATS.items():
        listing = find(root)
        if listing is not None:
            return layout, listing
    if (root / _TRAIN).is_dir():
        raise UsageError(f"`data_dir` {root}: holds {_TRAIN}/ and other parts; give one of them")
    raise UsageError(f"`data_dir` {root}: no known layout. Known are: {'; '.join(FORMATS)}; or a mixture .yaml")


def open_segmentation_dataset(
    path: Path, *, labels: Sequence[str] | None = None, merge: bool = False, skip_bad: bool = False, seed: int = 0
) -> SegmentationDataset:
    """Open annotated images of any known format and read each of them once, so that bad files are reported at once.

    Args:
        path: a folder (see `FORMATS`), a COCO `.json`, or a mixture `.yaml`, which gives a `mixture.Mixture`.
        labels: only objects of these classes; None for all.
        merge: all objects of an image become object 1.
        skip_bad: leave out bad samples and log them; otherwise they are an error.
        seed: decides the random choices of a mixture.

    Raises:
        UsageError: unknown layout, or no sample is left.
        SampleError: a file is bad: no partner, no object, another size, a shape outside its image, and so on.
    """
    open_set = partial(_open_folder, labels=labels, merge=merge, skip_bad=skip_bad)
    if path.is_file() and path.suffix.lower() in MIXTURE_SUFFIXES:
        return open_mixture(path, open_set, seed)
    return open_set(path)


def _open_folder(path: Path, *, labels: Sequence[str] | None, merge: bool, skip_bad: bool) -> SegmentationDataset:
    is_json = path.is_file() and path.suffix.lower() == ".json"
    listing = coco.find_in(path) if is_json else detect_format(path)[1]
    return read_all(listing, path, labels=labels, merge=merge, skip_bad=skip_bad)


def open_train_and_val(
    path: Path,
    *,
    val_path: Path | None = None,
    val_ratio: float = 0.2,
    seed: int = 0,
    labels: Sequence[str] | None = None,
    merge: bool = False,
    skip_bad: bool = False,
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Training and validation samples.

    With `val_path`, all samples of `path` and all of `val_path`. Else those of `train/` and `val/` (or `valid/`,
    `test/`) in `path`; if it has no such folders, its samples are split by `val_ratio` and `seed`. Raises as
    `open_segmentation_dataset` does.
    """
    open_set = partial(open_segmentation_dataset, labels=labels, merge=merge, skip_bad=skip_bad, seed=seed)
    if val_path is not None:
        return open_set(path), open_set(val_path)
    val_folder = next((path / name for name in _VAL if (path / name).is_dir()), None)
    # An annotation file above `train/` and `val/` describes images in them; it is one set.
    if val_folder is not None and (path / _TRAIN).is_dir() and not any(find(path) for find in FORMATS.values()):
        return open_set(path / _TRAIN), open_set(val_folder)
    return open_set(path).split(val_ratio, seed)
