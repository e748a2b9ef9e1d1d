"""Which samples of a data set are for training, and which are kept for validation or tests."""

from collections.abc import Sequence

import numpy as np

from thfuse_sam.datasets.pairs import ImagePair, PairSet

# Folders into which data sets are divided as published; of several, the first that is there.
TRAIN_FOLDERS = ("train", "training", "trainval")
OTHER_FOLDERS = ("val", "valid", "validation", "test", "testing")


def training_part(found: PairSet) -> tuple[PairSet, list[str]]:
    """The pairs to train on, and the folders that were left out because they are published for tests or validation.

    Nothing is left out of a data set that is not divided, nor of one that has no folder for training.
    """
    if all(_folders_in(pair.name).isdisjoint(TRAIN_FOLDERS) for pair in found.pairs):
        return found, []
    left_out = sorted({folder for pair in found.pairs for folder in _folders_in(pair.name).intersection(OTHER_FOLDERS)})
    return found.only(lambda name: _folders_in(name).isdisjoint(OTHER_FOLDERS)), left_out


def _folders_in(name: str) -> frozenset[str]:
    return frozenset(part.casefold() for part in name.split("/")[:-1])


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
