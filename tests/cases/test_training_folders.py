"""Which pairs of a published data set's root are trained on, and a folder that is given for both modalities."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from thfuse_sam.commands.precompute import plan_masks
from thfuse_sam.commands.train_pairs import find_train_pairs
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.errors import PairError
from thfuse_sam.options.precompute import PrecomputeOptions
from thfuse_sam.options.train import TrainOptions


def train_names(root: Path, **options: object) -> list[str]:
    folders = options or {"dataset_path": (root,)}
    data = find_train_pairs(TrainOptions(precomputed_masks_dir=(Path("none"),), **folders))  # type: ignore[arg-type]
    return sorted(pair.name for part in (*data.train, *data.val) for pair in part.pairs)


@pytest.mark.parametrize("other", ["test", "Testing", "val"])
def test_published_root(
    tmp_path: Path, make_pairs: Callable[..., Path], caplog: pytest.LogCaptureFixture, other: str
) -> None:
    root = make_pairs(("train/1", "train/2", f"{other}/3"), root=tmp_path / "LLVIP")
    (root / "ir" / other / "unpaired.png").write_bytes((root / "ir" / other / "3.png").read_bytes())
    with caplog.at_level(logging.WARNING):
        assert train_names(root) == ["train/1", "train/2"]
    assert f"pairs of {other}/ are for tests" in caplog.text
    assert train_names(root, ir_dir=root / "ir", vi_dir=root / "vi") == ["train/1", "train/2"]
    assert len(find_pairs(root).pairs) == 3  # fusing and masks take all


def test_split_above_the_modality(tmp_path: Path, make_pairs: Callable[..., Path]) -> None:
    for split in ("train", "test"):
        make_pairs((f"{split}1",), root=tmp_path / "MSRS" / split)
    assert train_names(tmp_path / "MSRS") == ["train/train1"]


@pytest.mark.parametrize(
    ("train", "other"),
    [
        ("VT5000_Train", "VT5000_Test"),
        ("train2017", "val2017"),
        ("train-all-02", "test-all-20"),
        ("trainset", "testset"),
        ("Day/Train", "Day/NewTest"),
    ],
)
def test_parts_by_words(tmp_path: Path, make_pairs: Callable[..., Path], train: str, other: str) -> None:
    assert train_names(make_pairs((f"{train}/1", f"{train}/2", f"{other}/3"))) == [f"{train}/1", f"{train}/2"]


def test_a_word_below_a_part_is_a_name(tmp_path: Path, make_pairs: Callable[..., Path]) -> None:
    names = ["train/test_drive/1", "train/day/2"]
    assert sorted(train_names(make_pairs((*names, "test/day/3")))) == sorted(names)
    assert train_names(make_pairs(("train_val/1", "train_val/2"), root=tmp_path / "b")) == [
        "train_val/1",
        "train_val/2",
    ]


@pytest.mark.parametrize("names", [("test/1", "test/2"), ("day/1", "test/2")])
def test_nothing_is_left_out_without_a_training_part(
    tmp_path: Path, make_pairs: Callable[..., Path], names: tuple[str, ...]
) -> None:
    assert train_names(make_pairs(names, root=tmp_path / "data")) == list(names)


def test_no_pair_is_for_training_and_for_validation(
    tmp_path: Path, make_pairs: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = make_pairs(("day/1", "day/2"), root=tmp_path / "data")
    inner = make_pairs(("3",), root=tmp_path / "data" / "night")
    for folder in ("ir", "vi"):
        (root / folder / "night").symlink_to(inner / folder, target_is_directory=True)
    none = (Path("none"),)
    data = find_train_pairs(TrainOptions(dataset_path=(root,), val_dataset_path=inner, precomputed_masks_dir=none))
    assert [pair.name for pair in data.train[0].pairs] == ["day/1", "day/2"]
    assert "1 pairs for training are those for validation, too, and are left out" in caplog.text
    data = find_train_pairs(TrainOptions(dataset_path=(root,), val_dataset_path=root, precomputed_masks_dir=none))
    assert len(data.train[0].pairs) == 3 and "says nothing of others" in caplog.text


def test_a_pair_of_two_folders_is_taken_once(
    tmp_path: Path, make_pairs: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = make_pairs(("day/1", "day/2"), root=tmp_path / "data")
    inner = make_pairs(("3", "4"), root=tmp_path / "data" / "night")
    for folder in ("ir", "vi"):
        (root / folder / "night").symlink_to(inner / folder, target_is_directory=True)
    for paths, own, twice in (((inner, root), {"3", "4", "day/1", "day/2"}, 2), ((root, root, inner), None, 6)):
        caplog.clear()
        data = find_train_pairs(TrainOptions(dataset_path=paths, precomputed_masks_dir=(Path("none"),)))
        names = [pair.name for part in (*data.train, *data.val) for pair in part.pairs]
        assert len(names) == 4 and set(names) == (own or {"day/1", "day/2", "night/3", "night/4"})
        assert f"{twice} pairs in more than one `dataset_path`: taken once, from the first" in caplog.text
    caplog.clear()
    other = make_pairs(("day/1", "day/2"), root=tmp_path / "other")
    assert len(train_names(root, dataset_path=(root, other))) == 6 and not caplog.text, "equal names of other files"


@pytest.mark.parametrize("linked", [False, True])
def test_one_folder_for_both_modalities(tmp_path: Path, make_pairs: Callable[..., Path], linked: bool) -> None:
    folder = other = make_pairs(("1", "2"), root=tmp_path / "data") / "vi"
    if linked:
        other = tmp_path / "link"
        other.symlink_to(folder, target_is_directory=True)
    folders = {"ir_dir": folder, "vi_dir": other}
    with pytest.raises(PairError, match="same folder"):
        plan_masks(PrecomputeOptions(output_dir=tmp_path / "masks", **folders))  # type: ignore[arg-type]
    with pytest.raises(PairError, match="same folder"):
        train_names(folder, **folders)
