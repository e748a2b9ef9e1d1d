"""Which samples of a data set are kept for validation."""

from collections.abc import Sequence

import numpy as np

from thfuse_sam.datasets.pairs import ImagePair


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
