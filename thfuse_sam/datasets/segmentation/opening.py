"""Recognising the format of a data set by its content, and opening it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from thfuse_sam.datasets.segmentation.annotated import read_all
from thfuse_sam.datasets.segmentation.dataset import SegmentationDataset, Subset, without_shared
from thfuse_sam.datasets.segmentation.formats import coco, label_maps, labelme, mask_images, yolo
from thfuse_sam.datasets.segmentation.formats.annotation_files import read_json
from thfuse_sam.datasets.segmentation.formats.listing import Listing, files_below, subfolder
from thfuse_sam.datasets.segmentation.mixture import Mixture, open_mixture
from thfuse_sam.datasets.words import OTHER_FOLDERS, TRAIN_FOLDERS, whole_name, words_in
from thfuse_sam.errors import SampleError, ThFuseError, UsageError, naming
from thfuse_sam.options.shared import AnnotationReading

log = logging.getLogger(__name__)

AS_THEY_SHOW = AnnotationReading()  # annotations mean what their files and folders show
MIXTURE_SUFFIXES = (".yaml", ".yml")
_FOLDERS_TO_CHECK = 20  # in a folder of no known layout
_FILES_TO_CHECK = 10  # JSON files there, which may be broken

# Layout -> a function that lists a folder of this layout and returns None for another one. The first layout that fits
# is used. What prepare_data.py writes fits COCO and label maps; only COCO holds overlaps and class names.
FORMATS: Mapping[str, Callable[[Path, AnnotationReading], Listing | None]] = {
    (_COCO := "annotations.json + images/ (COCO)"): coco.find,
    "images/ + masks/*.npy": label_maps.find,
    "images/ + masks/ or instances/ (also PNGImages/ + PedMasks/, JPEGImages/ + SegmentationClass/)": mask_images.find,
    "annotations/*.json + images/ (LabelMe), or *.json beside images": labelme.find,
    "images/ + labels/*.txt, or *.txt beside images (YOLO)": yolo.find,
    "*.json beside images, one for each (SA-1B)": coco.find_for_each_image,
    "images, and masks called as these and _mask beside them": mask_images.find_beside,
}

_OF_OUTLINES, _OF_MASKS = ("ignore_exif",), ("mask_kind", "mask_values", "ignore_value", "ignore_exif")
# Function that lists a layout -> the options of `AnnotationReading` that count in it.
_COUNTING: Mapping[Callable[[Path, AnnotationReading], Listing | None], tuple[str, ...]] = {
    coco.find: ("use_crowds", *_OF_OUTLINES),
    coco.find_for_each_image: ("use_crowds", *_OF_OUTLINES),
    label_maps.find: ("ignore_value",),
    mask_images.find: _OF_MASKS,
    mask_images.find_beside: _OF_MASKS,
    labelme.find: ("line_width", *_OF_OUTLINES),
    yolo.find: _OF_OUTLINES,
}


def detect_format(root: Path, reading: AnnotationReading = AS_THEY_SHOW) -> tuple[str, Listing]:
    """The layout of a folder (see FORMATS), and what is in it. Raises UsageError: no folder, or no known layout."""
    if not root.is_dir():
        kind = "is a file of an unknown kind" if root.exists() else "no such folder"
        raise UsageError(f"`data_dir` {root}: {kind}; give a folder, a COCO .json or a mixture .yaml")
    found = _find(root, reading)
    if found is not None:
        return found
    train = subfolder(root, *TRAIN_FOLDERS)
    if train is not None:
        raise UsageError(f"`data_dir` {root}: holds {train.name}/ and other parts; give one of them")
    folders = sorted(path for path in root.iterdir() if path.is_dir())[:_FOLDERS_TO_CHECK]
    inner = next((folder for folder in folders if _has_layout(folder, reading)), None)
    if inner is not None:
        raise UsageError(f"`data_dir` {root}: no known layout, but {inner.name}/ in it has one; give that")
    for file in files_below(root, ".json")[:_FILES_TO_CHECK]:
        try:
            read_json(file)
        except SampleError as error:
            raise UsageError(f"`data_dir` {root}: no known layout; {error}") from error
    raise UsageError(
        f"`data_dir` {root}: no known layout. Known are: {'; '.join(FORMATS)}; or a mixture .yaml. "
        "Export other programs' annotations as COCO"
    )


def _has_layout(folder: Path, reading: AnnotationReading) -> bool:
    try:
        return _find(folder, reading) is not None
    except ThFuseError:  # such as several COCO files
        return True


def _find(root: Path, reading: AnnotationReading) -> tuple[str, Listing] | None:
    listings = ((layout, find(root, reading)) for layout, find in FORMATS.items())
    return next(((layout, listing) for layout, listing in listings if listing is not None), None)


def open_segmentation_dataset(
    path: Path,
    *,
    labels: Sequence[str] | None = None,
    merge: bool = False,
    skip_bad: bool = False,
    strict: bool = False,
    seed: int = 0,
    reading: AnnotationReading = AS_THEY_SHOW,
) -> SegmentationDataset:
    """Open annotated images of any known format and read each of them once, so that bad files are reported at once.

    Args:
        path: a folder (see `FORMATS`), a COCO `.json`, or a mixture `.yaml`, which gives a `mixture.Mixture`.
        labels: only objects of these classes; None for all.
        merge: all objects of an image become object 1.
        skip_bad: leave out bad samples and annotations, and log them; otherwise they are an error.
        strict: annotations that would be mended count as bad too, and make their sample bad.
        seed: decides the random choices of a mixture.
        reading: what the annotations mean.

    Raises:
        UsageError: unknown layout, or no sample is left.
        SampleError: a file is bad: no partner, another size, a shape that cannot be drawn, and so on.
    """
    choices = {"labels": labels, "merge": merge, "skip_bad": skip_bad, "strict": strict}
    open_set = partial(_open_folder, reading=reading, choices=choices)
    if path.is_file() and path.suffix.lower() in MIXTURE_SUFFIXES:
        return open_mixture(path, open_set, seed)
    return open_set(path)


def _open_folder(path: Path, *, reading: AnnotationReading, choices: Mapping[str, Any]) -> SegmentationDataset:
    is_json = path.is_file() and path.suffix.lower() == ".json"
    layout, listing = (_COCO, coco.find_in(path, reading)) if is_json else detect_format(path, reading)
    counting = _COUNTING[FORMATS[layout]]
    for field in fields(AnnotationReading):
        if field.name not in counting and getattr(reading, field.name) != getattr(AS_THEY_SHOW, field.name):
            log.warning("%s: `%s` has no effect in this layout, %s", path, field.name, layout)
    return read_all(listing, path, **choices)


def open_train_and_val(
    path: Path, *, val_path: Path | None = None, val_fraction: float = 0.2, seed: int = 0, **choices: Any
) -> tuple[SegmentationDataset, SegmentationDataset | None]:
    """Training and validation samples; `choices` and errors are those of `open_segmentation_dataset`.

    With `val_path`, all samples of `path` and all of `val_path`. Else those of `train/` and `val/` (see
    `words.TRAIN_FOLDERS` and `OTHER_FOLDERS`) in `path`, which may also be folders of images below a common one, or
    two COCO files with such a word in their names, as in `instances_train2017.json`; of a mixture its test set. If
    there is no such part, the samples are split by `val_fraction` and `seed`; with 0 none are for validation.
    """

    def open_set(path: Path) -> SegmentationDataset:
        return open_segmentation_dataset(path, seed=seed, **choices)

    if val_path is not None:
        train_set = open_set(path)
        if isinstance(train_set, Mixture) and train_set.test is not None:
            raise UsageError(f"`val_dir` {val_path}: {path} names a test set, which is for validation, too; give one")
        with naming("val_dir", val_path, instead_of="data_dir"):
            val_set = open_set(val_path)
        return without_shared(train_set, val_set), val_set
    if path.is_dir():
        files = coco.annotation_files(path)
        train, val = _file_named(files, TRAIN_FOLDERS), _file_named(files, OTHER_FOLDERS)
        if train and val and train != val:
            val_set = open_set(val)  # two files may list the same image
            return without_shared(open_set(train), val_set), val_set
        train_folder, val_folder = subfolder(path, *TRAIN_FOLDERS), subfolder(path, *OTHER_FOLDERS)
        # An annotation file above `train/` and `val/` describes images in them; it is one set.
        if train_folder and val_folder and _find(path, AS_THEY_SHOW) is None:
            val_set = open_set(val_folder)  # which may hold links to images of the other
            return without_shared(open_set(train_folder), val_set), val_set
    return _parts_by_name(open_set(path), val_fraction, seed)


def _file_named(files: Sequence[Path], words: Sequence[str]) -> Path | None:
    """The file whose name holds the first of the words that is there, None if none or several do."""
    found = ([file for file in files if word in words_in(file.stem.casefold())] for word in words)
    named: list[Path] = next(filter(None, found), [])
    return named[0] if len(named) == 1 else None


def _parts_by_name(
    dataset: SegmentationDataset, val_fraction: float, seed: int
) -> tuple[SegmentationDataset, SegmentationDataset | None]:
    """The samples of a folder `train/` and those of `val/`, or with such words in their names; else a random split."""
    folders = ["" if isinstance(dataset, Mixture) else name.rpartition("/")[0].split("/")[0] for name in dataset.names]
    for words_of in (whole_name, words_in):
        words = [words_of(folder) for folder in folders]
        there = set[str]().union(*words)
        parts = [next((part for part in names if part in there), None) for names in (TRAIN_FOLDERS, OTHER_FOLDERS)]
        train, val = ([index for index, own in enumerate(words) if part in own] for part in parts)
        if train and val and {*train}.isdisjoint(val):
            log.info(
                "the %d samples in %s/ are for training, the %d in %s/ for validation; the other %d are left out",
                *(len(train), folders[train[0]], len(val), folders[val[0]], len(folders) - len(train) - len(val)),
            )
            return Subset(dataset, train), Subset(dataset, val)
    has_test_set = isinstance(dataset, Mixture) and dataset.test is not None
    return dataset.split(val_fraction, seed) if val_fraction or has_test_set else (dataset, None)
