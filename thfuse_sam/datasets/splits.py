"""Which samples of a data set are for training, and which are kept for validation or tests."""

from collections.abc import Sequence

import numpy as np

from thfuse_sam.datasets.pairs import ImagePair, PairSet
from thfuse_sam.datasets.words import OTHER_FOLDERS, TRAIN_FOLDERS, whole_name, words_in


def training_part(found: PairSet) -> tuple[PairSet, list[str]]:
    """The pairs to train on, and the folders that were left out because they are published for tests or validation.

    Nothing is left out of a data set that is not divided, nor of one that has no folder for training. Words in the
    names of folders count (`VT5000_Test`, `NewTest`), but not below a folder for training.
    """
    folders = {pair.name: pair.name.split("/")[:-1] for pair in found.pairs}
    if not any(_is_part(folder, TRAIN_FOLDERS) for own in folders.values() for folder in own):
        return found, []
    left_out = {folder for own in folders.values() if (folder := _other_part(own)) is not None}
    return found.only(lambda name: _other_part(name.split("/")[:-1]) is None), sorted(left_out)


def _other_part(folders: Sequence[str]) -> str | None:
    """The folder of a path that is for tests or validation; None: there is none, or one for training comes first."""
    parts = (folder for folder in folders if _is_part(folder, (*TRAIN_FOLDERS, *OTHER_FOLDERS)))
    first = next(parts, None)
    return None if first is None or _is_part(first, TRAIN_FOLDERS) else first


def _is_part(folder: str, names: Sequence[str]) -> bool:
    return not (whole_name(folder) | words_in(folder)).isdisjoint(names)


def held_out(count: int, fraction: float, seed: int) -> list[int]:
    """Indices of the validation samples among `count`, drawn with `seed`.

    A `fraction` above 0 takes at least one sample for validation and leaves at least one for training.
    """
    number = min(max(round(fraction * count), 1), count - 1) if fraction > 0 else 0
    indices: list[int] = np.random.default_rng(seed).permutation(count)[:number].tolist()
    return indices


def split_pairs(pairs: Sequence[ImagePair], fraction: float, seed: int) -> tuple[list[ImagePair], list[ImagePair]]:
    """Pairs for training and pairs for validation (see `held_out`), each in the given order."""
    validation = set(held_out(len(pairs), fraction, seed))
    return (
        [pair for index, pair in enumerate(pairs) if index not in validation],
        [pair for index, pair in enumerate(pairs) if index in validation],
    )
