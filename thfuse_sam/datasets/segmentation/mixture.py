"""A mixture of training sets, described by a YAML file::

    train:
      - data_dir: data/cracks            # any format that a folder can have
        percentage: 0.5                  # share of the set used each epoch, drawn anew; 2 takes every sample twice
        w_aug: true                      # apply aug_details to a sample with probability 0.5; or another, 0 to 1
        aug_details: [crop_foreground]   # paste the foreground onto a background
        bg_paths: [data/roads]           # folders of background images; may be absent
      - data_dir: data/people
    test:
      data_dir: data/people_test

Paths are relative to the current folder, as in options. Both may stand below `dataset:` in an option file.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thfuse_sam.datasets.named_images import list_images
from thfuse_sam.datasets.segmentation.augment import crop_foreground
from thfuse_sam.datasets.segmentation.dataset import SegmentationDataset, without_shared
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import UsageError
from thfuse_sam.images import read_visible
from thfuse_sam.plain_yaml import read_yaml

log = logging.getLogger(__name__)

CROP_FOREGROUND = "crop_foreground"
_TRAIN_KEYS = ("data_dir", "bg_paths", "w_aug", "aug_details", "percentage")
_W_AUG_TRUE = 0.5  # probability that `w_aug: true` stands for
_MAX_PERCENTAGE = 1000  # times that a set is used in one epoch
_ODD_PERCENTAGE = 10  # from here on it may be meant in percent

OpenFolder = Callable[[Path], SegmentationDataset]


@dataclass(frozen=True)
class MixturePart:
    """One training set of a mixture."""

    name: str
    dataset: SegmentationDataset
    percentage: float = 1.0  # share of the set used each epoch, above 0; more than 1 repeats
    paste: float = 0.0  # probability that a sample's foreground is pasted onto a background
    backgrounds: tuple[Path, ...] = ()

    def count(self) -> int:
        """Samples each epoch, at least 1."""
        return max(1, round(self.percentage * len(self.dataset)))

    def draw(self, rng: np.random.Generator) -> npt.NDArray[np.intp]:
        """Indices of the samples of one epoch: whole rounds through the set, and a part drawn without repetition."""
        rounds, rest = divmod(self.count(), len(self.dataset))
        whole = np.tile(np.arange(len(self.dataset)), rounds)
        return np.concatenate([whole, rng.permutation(len(self.dataset))[:rest]]).astype(np.intp)


class Mixture(SegmentationDataset):
    """The training samples of several sets, drawn anew each epoch; `test` is the test set, if one is named."""

    def __init__(self, parts: Sequence[MixturePart], test: SegmentationDataset | None, seed: int = 0) -> None:
        self.test = test
        self._parts = list(parts)
        self._seed, self._epoch = seed, 0
        self._drawn: tuple[int, list[tuple[int, int]]] | None = None  # an epoch, and the result of `_order` in it

    @property
    def names(self) -> list[str]:
        """Names of the samples of this epoch, with the name of their set, and its number if sets share the name."""
        by_part = [part.dataset.names for part in self._parts]
        return [f"{self._parts[part].name}/{by_part[part][index]}" for part, index in self._order()]

    @property
    def paths(self) -> list[Path]:
        """The files of all samples, whichever epochs take them."""
        return [path for part in self._parts for path in part.dataset.paths]

    @property
    def flaws(self) -> Counter[str]:
        return sum((part.dataset.flaws for part in self._parts), Counter[str]())

    def __len__(self) -> int:
        return sum(part.count() for part in self._parts)

    def __getitem__(self, index: int) -> SegmentationSample:
        number, own_index = self._order()[index]
        part = self._parts[number]
        # The second number makes these choices independent of those that `_order` makes.
        rng = np.random.default_rng((self._seed, self._epoch, index, 1))
        sample = part.dataset[own_index]
        sample = replace(sample, name=f"{part.name}/{sample.name}")
        if not part.backgrounds or float(rng.random()) >= part.paste:
            return sample
        background = part.backgrounds[int(rng.integers(len(part.backgrounds)))]
        return crop_foreground(sample, read_visible(background), rng)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def split(self, val_fraction: float, seed: int) -> tuple[SegmentationDataset, SegmentationDataset]:
        """Itself and the test set. Without one, each set is split; its validation part is used whole and unchanged.

        Sets may share images: what validates is not trained on.
        """
        if self.test is not None:
            return without_shared(self, self.test), self.test
        train, val = [], []
        for part in self._parts:
            for_training, for_validation = part.dataset.split(val_fraction, seed)
            train.append(replace(part, dataset=for_training))
            val.append(MixturePart(part.name, for_validation))
        validation = Mixture(val, None)
        return without_shared(Mixture(train, None, self._seed), validation), validation

    def without(self, files: Collection[Path]) -> "Mixture | None":
        parts = ((part, part.dataset.without(files)) for part in self._parts)
        rest = [replace(part, dataset=dataset) for part, dataset in parts if dataset is not None]
        return Mixture(rest, self.test, self._seed) if rest else None

    def _order(self) -> list[tuple[int, int]]:
        """(number of the part, index in it) of each sample of this epoch."""
        epoch = self._epoch
        if self._drawn is None or self._drawn[0] != epoch:
            order = [
                (number, int(own_index))
                for number, part in enumerate(self._parts)
                for own_index in part.draw(np.random.default_rng((self._seed, epoch, number)))
            ]
            self._drawn = (epoch, order)
        return self._drawn[1]


def open_mixture(path: Path, open_folder: OpenFolder, seed: int = 0) -> Mixture:
    """The mixture that a YAML file describes; `open_folder` opens one data folder. Raises UsageError."""
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not readable as YAML ({error})") from error
    if isinstance(content, Mapping) and "dataset" in content:  # an option file of finetune.py
        content = content["dataset"]
    if isinstance(content, Mapping) and "names" in content:
        raise UsageError(f"{path}: is YOLO's list of classes, no mixture; give the folder of images/ and labels/")
    if not isinstance(content, Mapping) or not set(content) <= {"train", "test"}:
        raise UsageError(f"{path}: write a list 'train' of sets and at most one 'test' set, nothing else")
    train, test = content.get("train"), content.get("test")
    if isinstance(train, Mapping):
        train = [train]
    if not isinstance(train, list) or not train:
        raise UsageError(f"{path}: 'train' is no list of sets; write `- data_dir: FOLDER` for each")
    try:
        parts = [_part(item, open_folder, f"train set {number}") for number, item in enumerate(train, 1)]
        shared = Counter(part.name for part in parts)
        parts = [
            replace(part, name=f"{part.name}_{number}") if shared[part.name] > 1 else part
            for number, part in enumerate(parts, 1)
        ]
        test_set = None if test is None else open_folder(_test_dir(test))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return Mixture(parts, test_set, seed)


def _part(item: Any, open_folder: OpenFolder, where: str) -> MixturePart:
    folder = _data_dir(item, _TRAIN_KEYS, where)
    percentage = 1.0 if item.get("percentage") is None else item["percentage"]
    if not _is_number(percentage) or not 0 < percentage <= _MAX_PERCENTAGE:
        raise UsageError(
            f"{where}: percentage {percentage!r}: give a number above 0 and at most {_MAX_PERCENTAGE}, "
            "such as 0.5 for half of the set each epoch"
        )
    if percentage >= _ODD_PERCENTAGE:
        said = "%s: percentage %g takes each sample about %g times an epoch; half of the set is 0.5"
        log.warning(said, where, percentage, percentage)
    details = item.get("aug_details") or []
    if not isinstance(details, list) or not set(map(str, details)) <= {CROP_FOREGROUND}:
        raise UsageError(f"{where}: aug_details {details!r}: known is [{CROP_FOREGROUND}]")
    backgrounds = _backgrounds(item.get("bg_paths"), where)
    paste = _probability(item.get("w_aug"), where)
    if paste and not (details and backgrounds):
        missing = "bg_paths" if details else f"aug_details: [{CROP_FOREGROUND}]"
        log.warning("%s: w_aug needs %s; the samples of %s stay as they are", where, missing, folder)
        paste = 0.0
    return MixturePart(folder.resolve().name or "root", open_folder(folder), float(percentage), paste, backgrounds)


def _test_dir(test: Any) -> Path:
    if isinstance(test, list) and len(test) == 1:
        test = test[0]
    if isinstance(test, Mapping):  # the training sets' keys without effect, such as `bg_paths: null`
        test = {key: value for key, value in test.items() if key == "data_dir" or value not in (None, False)}
    return _data_dir(test, ("data_dir",), "test set")


def _data_dir(item: Any, keys: Sequence[str], where: str) -> Path:
    if not isinstance(item, Mapping) or not isinstance(item.get("data_dir"), str):
        raise UsageError(f"{where}: has no data_dir; name its folder")
    unknown = sorted(str(key) for key in set(item) - set(keys))
    if unknown:
        raise UsageError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(keys)}")
    return Path(item["data_dir"])


def _backgrounds(value: Any, where: str) -> tuple[Path, ...]:
    folders = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
        raise UsageError(f"{where}: bg_paths {value!r}: give a list of folders")
    images: list[Path] = []
    for folder in folders:
        in_folder = list_images(Path(folder)) if Path(folder).is_dir() else {}
        if not in_folder:
            raise UsageError(f"{where}: bg_paths {folder}: no such folder, or no image in it")
        images += in_folder.values()
    return tuple(images)


def _probability(value: Any, where: str) -> float:
    if value is None or value is False:
        return 0.0
    if value is True:
        return _W_AUG_TRUE
    if not _is_number(value) or not 0 <= value <= 1:
        raise UsageError(f"{where}: w_aug {value!r}: give true, false or a probability from 0 to 1")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
