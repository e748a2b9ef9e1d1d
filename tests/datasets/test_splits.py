from pathlib import Path

import pytest

from thfuse_sam.datasets.pairs import ImagePair
from thfuse_sam.datasets.splits import split_pairs


def test_split_is_disjoint_complete_and_by_seed() -> None:
    pairs = [ImagePair(str(index), Path("ir"), Path("vi")) for index in range(20)]
    train, val = split_pairs(pairs, 0.1, seed=3)
    assert len(val) == 2 and sorted([*train, *val], key=pairs.index) == pairs
    assert split_pairs(pairs, 0.1, seed=3) == (train, val)
    assert any(split_pairs(pairs, 0.1, seed=seed)[1] != val for seed in range(5))


@pytest.mark.parametrize(("number", "fraction", "held_out"), [(20, 0.0, 0), (1, 0.5, 0), (2, 0.1, 1), (3, 0.99, 2)])
def test_split_leaves_one_to_train_on(number: int, fraction: float, held_out: int) -> None:
    pairs = [ImagePair(str(index), Path("ir"), Path("vi")) for index in range(number)]
    train, val = split_pairs(pairs, fraction, seed=0)
    assert (len(train), len(val)) == (number - held_out, held_out)
