"""The data set of a format's entries. Each entry is read once at the start, so that bad files are reported early."""

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from thfuse_sam.datasets.segmentation.dataset import SegmentationDataset
from thfuse_sam.datasets.segmentation.formats.listing import Entry, Listing
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import SampleError, ThFuseError, UsageError, first_of

log = logging.getLogger(__name__)

_SHOWN_PROBLEMS = 3  # bad files that an error names
_SHOWN_LABELS = 20  # labels that a message names
_LOGGED_PROBLEMS = 20  # bad files that are named in the log with `skip_bad`, one per line
_READERS = 4  # threads that check the entries
_BAR_FROM = 200  # number of entries from which the check shows a progress bar


class AnnotatedImages(SegmentationDataset):
    """A data set of entries, of which some classes may be selected or all objects merged into one."""

    def __init__(self, entries: Sequence[Entry], labels: Sequence[str] | None, merge: bool) -> None:
        self._entries = list(entries)
        self._labels = None if labels is None else frozenset(labels)
        self._merge = merge

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self._entries]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> SegmentationSample:
        entry = self._entries[index]
        sample = select_objects(entry.read(), self._labels, self._merge)
        if sample is None:  # it had one when the set was opened
            raise SampleError(f"{entry.image_path}: no object of the labels asked for is left; open the set again")
        return replace(sample, source=entry.image_path)


def select_objects(
    sample: SegmentationSample, labels: Collection[str] | None, merge: bool
) -> SegmentationSample | None:
    """The sample with only the objects of the classes `labels` (None: all), with `merge` as one object with number 1.

    None if no object is left.
    """
    ids = [i for i in sample.object_ids if labels is None or sample.categories.get(i) in labels]
    if len(ids) == len(sample.object_ids) and not merge:
        return sample if ids else None
    masks = {object_id: sample.mask(object_id) for object_id in ids}
    if not masks:
        return None
    categories = {object_id: name for object_id, name in sample.categories.items() if object_id in masks}
    if merge:
        union = np.logical_or.reduce(list(masks.values()))
        is_one_class = len(categories) == len(masks) and len(set(categories.values())) == 1
        category = {1: next(iter(categories.values()))} if is_one_class else {}
        return SegmentationSample(sample.name, sample.image, union.astype(np.int32), category)
    return SegmentationSample.from_masks(sample.name, sample.image, masks, categories)


def read_all(
    listing: Listing, path: Path, *, labels: Sequence[str] | None, merge: bool, skip_bad: bool
) -> AnnotatedImages:
    """Read every entry of `path` once and make a data set of the sound ones.

    Raises:
        SampleError: a file is bad, and `skip_bad` is not set.
        UsageError: no sample is left, or none has an object of `labels`.
    """
    entries = listing.entries
    problems, sound, unselected = list(listing.problems), list[Entry](), 0
    classes: set[str] = set()
    bar = tqdm(total=len(entries), desc=f"checking {path}", disable=len(entries) < _BAR_FROM or None)
    with ThreadPoolExecutor(_READERS) as pool, bar:
        for entry, result in zip(entries, pool.map(_classes_or_problem, entries), strict=True):
            bar.update()
            if isinstance(result, str):
                problems.append(result)
                continue
            classes |= result
            if labels is None or result & set(labels):
                sound.append(entry)
            else:
                unselected += 1
    _report(problems, len(entries) + len(listing.problems), path, skip_bad)
    if listing.without_objects:
        log.info("%s: %d images without an object are left out", path, listing.without_objects)
    if unselected:
        log.info("%s: %d images have no object of the labels asked for and are left out", path, unselected)
    if not sound:
        raise UsageError(f"{path}: no sample {_why_none(labels, classes, problems)}")
    known = first_of(sorted(classes), _SHOWN_LABELS)
    for label in sorted(set(labels or ()) - classes):
        log.warning("%s: no object is labelled '%s'; labels are %s", path, label, known)
    return AnnotatedImages(sound, labels, merge)


def _classes_or_problem(entry: Entry) -> frozenset[str] | str:
    """The classes of a sound entry's objects, or what is wrong with it."""
    try:
        sample = entry.read()
    except ThFuseError as error:
        return str(error)
    if not sample.object_ids:
        return f"{entry.image_path}: the annotation holds no object"
    return frozenset(sample.categories.values())


def _report(problems: list[str], total: int, path: Path, skip_bad: bool) -> None:
    if not problems:
        return
    if not skip_bad:
        shown = first_of(problems, _SHOWN_PROBLEMS, "; ")
        raise SampleError(f"{path}: {len(problems)} of {total} bad: {shown}. Mend them or give `skip_bad`")
    for problem in problems[:_LOGGED_PROBLEMS]:
        log.warning("skipped: %s", problem)
    log.warning("%s: skipped %d of %d as bad", path, len(problems), total)


def _why_none(labels: Sequence[str] | None, classes: set[str], problems: list[str]) -> str:
    if labels is not None and not classes:
        return "has class names, so `labels` selects nothing; leave it out"
    if labels is not None:
        return f"has an object of `labels` {' '.join(labels)}; labels are {first_of(sorted(classes), _SHOWN_LABELS)}"
    return f"is usable ({problems[0]})" if problems else "with an object was found; check the folder"
