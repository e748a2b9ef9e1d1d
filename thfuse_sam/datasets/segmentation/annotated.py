"""The data set of a format's entries. Each entry is read once at the start, so that bad files are reported early."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from thfuse_sam.datasets.segmentation.dataset import SegmentationDataset
from thfuse_sam.datasets.segmentation.formats.listing import WITHOUT_OBJECTS, Entry, Listing
from thfuse_sam.datasets.segmentation.sample import BAD, MENDED, Flaw, SegmentationSample
from thfuse_sam.errors import SampleError, ThFuseError, UsageError, first_of
from thfuse_sam.progress import is_watched, progress_bar

log = logging.getLogger(__name__)

_UNSELECTED = "images without an object of the labels asked for, left out"
_SHOWN_PROBLEMS = 3  # bad files that an error names
_SHOWN_LABELS = 20  # labels that a message names
_LOGGED_PROBLEMS = 20  # bad files that are named in the log with `skip_bad`, one per line
_READERS = 4  # threads that check the entries
_BAR_FROM = 200  # number of entries from which the check shows a progress bar


class AnnotatedImages(SegmentationDataset):
    """A data set of entries, of which some classes may be selected or all objects merged into one."""

    def __init__(
        self,
        entries: Sequence[Entry],
        classes: Collection[str],
        labels: Sequence[str] | None,
        merge: bool,
        flaws: Counter[str],
    ) -> None:
        self._entries, self._flaws = list(entries), flaws
        self._classes = sorted(classes if labels is None else {*classes} & {*labels})
        self._labels = None if labels is None else frozenset(labels)
        self._merge = merge

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self._entries]

    @property
    def paths(self) -> list[Path]:
        """The file of each sample's image."""
        return [entry.image_path for entry in self._entries]

    @property
    def classes(self) -> list[str]:
        return self._classes

    @property
    def flaws(self) -> Counter[str]:
        return self._flaws

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
        masks, categories = {1: union}, category
    return SegmentationSample.from_masks(sample.name, sample.image, masks, categories, ignored=sample.ignored)


def read_all(
    listing: Listing, path: Path, *, labels: Sequence[str] | None, merge: bool, skip_bad: bool, strict: bool
) -> AnnotatedImages:
    """Read every entry of `path` once, make a data set of the sound ones, and log what was mended or left out.

    Raises SampleError: a file is bad, and `skip_bad` is not set; UsageError: no sample is left, or none has an object
    of `labels`.
    """
    entries, flaws = listing.entries, Counter(listing.notes)
    problems, left_out, sound = list(listing.problems), list[str](), list[Entry]()
    classes: set[str] = set()
    examples: dict[str, str] = {}  # reason -> the first annotation that has the flaw
    check = partial(_check, strict=strict, skip_bad=skip_bad)
    bar = progress_bar(
        total=len(entries), desc=f"checking {path}", leave=True, disable=len(entries) < _BAR_FROM or not is_watched()
    )
    with ThreadPoolExecutor(_READERS) as pool, bar:
        for entry, result in zip(entries, pool.map(check, entries), strict=True):
            bar.update()
            if isinstance(result, str):
                problems.append(result)
                continue
            for flaw in result.flaws:
                flaws[flaw.reason] += 1
                examples.setdefault(flaw.reason, flaw.where)
            left_out += [str(flaw) for flaw in result.flaws if flaw.severity == BAD]
            classes |= result.classes
            if not result.has_objects:
                flaws[WITHOUT_OBJECTS] += 1
            elif labels is None or result.classes & set(labels):
                sound.append(entry)
            else:
                flaws[_UNSELECTED] += 1
    _report(problems, left_out, len(entries) + len(listing.problems), path, skip_bad)
    if not sound:
        raise UsageError(f"{path}: no sample {_why_none(labels, classes, problems, flaws)}")
    if +flaws:
        log.warning("%s: notes on annotations: %s", path, counts_text(flaws, examples))
    known = first_of(sorted(classes), _SHOWN_LABELS)
    for label in sorted(set(labels or ()) - classes):
        log.warning("%s: no object is labelled '%s'; labels are %s", path, label, known)
    for label in sorted(classes - set(labels or classes)):
        if label.casefold() in map(str.casefold, labels or ()):
            log.warning("%s: objects labelled '%s' are left out; upper and lower case differ", path, label)
    return AnnotatedImages(sound, classes, labels, merge, +flaws)


def counts_text(flaws: Counter[str], examples: Mapping[str, str] = MappingProxyType({})) -> str:
    """Reasons, how often each is met, and an example of each, in one line."""
    shown = {reason: f" ({examples[reason]})" if reason in examples else "" for reason in flaws}
    return "; ".join(f"{reason}: {count}{shown[reason]}" for reason, count in flaws.most_common() if count)


@dataclass(frozen=True)
class _Checked:
    """What is known about an entry that can be used."""

    has_objects: bool
    classes: frozenset[str]
    flaws: tuple[Flaw, ...]


def _check(entry: Entry, *, strict: bool, skip_bad: bool) -> _Checked | str:
    """What an entry holds, or what is wrong with it."""
    try:
        sample = entry.read()
    except ThFuseError as error:
        return str(error)
    refused = [str(flaw) for flaw in sample.flaws if flaw.severity >= (MENDED if strict else BAD)]
    if refused and (strict or not skip_bad or not sample.object_ids):
        return first_of(refused, _SHOWN_PROBLEMS, "; ")
    if strict and not sample.object_ids:
        return f"{entry.image_path}: the annotation holds no object"
    return _Checked(bool(sample.object_ids), frozenset(sample.categories.values()), sample.flaws)


def _report(problems: list[str], left_out: list[str], total: int, path: Path, skip_bad: bool) -> None:
    """Raise SampleError for `problems` without `skip_bad`; with it, log them and the annotations `left_out`."""
    if problems and not skip_bad:
        shown = first_of(problems, _SHOWN_PROBLEMS, "; ")
        raise SampleError(f"{path}: {len(problems)} of {total} bad: {shown}. Mend them or give `skip_bad`")
    for line in [*problems, *left_out][:_LOGGED_PROBLEMS]:
        log.warning("skipped: %s", line)
    if problems:
        log.warning("%s: skipped %d of %d as bad", path, len(problems), total)


def _why_none(labels: Sequence[str] | None, classes: set[str], problems: list[str], flaws: Counter[str]) -> str:
    if labels is not None and flaws[_UNSELECTED]:
        if not classes:
            return "has class names, so `labels` selects nothing; leave it out"
        return f"has an object of `labels` {' '.join(labels)}; labels are {first_of(sorted(classes), _SHOWN_LABELS)}"
    if problems:
        return f"is usable ({problems[0]})"
    return f"with an object was found; {counts_text(flaws) or 'check the folder'}"
