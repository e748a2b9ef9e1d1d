"""Mixtures: shares of sets, pasted foregrounds, test sets, and what a YAML file may say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from thfuse_sam.datasets.segmentation import OneSample, open_segmentation_dataset
from thfuse_sam.datasets.segmentation.mixture import Mixture
from thfuse_sam.errors import UsageError

from .conftest import box_mask, save

Write = Callable[..., Path]


@pytest.fixture
def sets(mask_pairs: Write, tmp_path: Path) -> Path:
    """Sets `cracks` of 10 samples and `people` of 2, and backgrounds that are blue alone."""
    mask_pairs({f"{number:02d}": box_mask() for number in range(10)}, root="cracks")
    mask_pairs({"a": box_mask(), "b": box_mask()}, root="people")
    save(tmp_path / "backgrounds/x.png", np.full((50, 40, 3), (0, 0, 255), np.uint8))
    return tmp_path


def mixture(root: Path, content: Any, seed: int = 0) -> Mixture:
    path = root / "mixture.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    opened = open_segmentation_dataset(path, seed=seed)
    assert isinstance(opened, Mixture)
    return opened


def train_set(root: Path, name: str, **more: Any) -> dict[str, Any]:
    return {"data_dir": str(root / name), **more}


@pytest.mark.parametrize(("percentage", "count"), [(0.5, 5), (0.01, 1), (1, 10), (2, 20), (1.3, 13), (None, 10)])
def test_percentage_is_a_share_each_epoch(sets: Path, percentage: float | None, count: int) -> None:
    drawn = mixture(sets, {"train": [train_set(sets, "cracks", percentage=percentage)]})
    assert len(drawn) == len(drawn.names) == count
    repeats = [drawn.names.count(name) for name in set(drawn.names)]
    assert max(repeats) - min(repeats) <= 1


def test_every_epoch_draws_anew_and_repeatably(sets: Path) -> None:
    content = {"train": [train_set(sets, "cracks", percentage=0.3), train_set(sets, "people")]}
    drawn, again = mixture(sets, content), mixture(sets, content)
    seen = []
    for epoch in range(4):
        drawn.set_epoch(epoch)
        again.set_epoch(epoch)
        assert drawn.names == again.names
        assert [drawn[index].name for index in range(len(drawn))] == drawn.names
        assert drawn.names[3:] == ["people/a", "people/b"]
        seen.append(tuple(drawn.names))
    assert len(set(seen)) > 1
    assert any(mixture(sets, content, seed=seed).names != list(seen[0]) for seed in range(1, 4))


def test_foreground_is_pasted_onto_backgrounds(sets: Path) -> None:
    part = train_set(sets, "cracks", w_aug=1.0, aug_details=["crop_foreground"], bg_paths=[str(sets / "backgrounds")])
    drawn = mixture(sets, {"train": [part]})
    for index in range(3):
        sample = drawn[index]
        assert sample.source is None
        assert sample.image.shape == (24, 32, 3) and sample.object_ids == (1,)
        outside = sample.image[~sample.mask(1)]
        assert (outside == (0, 0, 255)).all(), "nothing but the labelled foreground is pasted"
        assert not (sample.image[sample.mask(1)] == (0, 0, 255)).all(1).all()
        assert 64 * 0.5 < sample.mask(1).sum() < 64 * 1.7
    first = drawn[0]
    assert np.array_equal(drawn[0].image, first.image)
    drawn.set_epoch(1)
    assert not np.array_equal(drawn[0].image, first.image)


def test_one_sample_stays_the_same_in_every_epoch(sets: Path) -> None:
    part = train_set(sets, "cracks", w_aug=1.0, aug_details=["crop_foreground"], bg_paths=[str(sets / "backgrounds")])
    one = OneSample(mixture(sets, {"train": [part]}))
    first = one[0]
    one.set_epoch(1)
    assert np.array_equal(one[0].image, first.image) and one.names == [first.name]
    assert len(list(one)) == len(one) == 1 and one[0].source is None, "a composed image is not one in a file"


def test_w_aug_true_pastes_some(sets: Path) -> None:
    part = train_set(
        sets, "cracks", w_aug=True, aug_details=["crop_foreground"], bg_paths=[str(sets / "backgrounds")], percentage=4
    )
    drawn = mixture(sets, {"train": [part]})
    pasted = sum(drawn[index].source is None for index in range(40))
    assert 10 < pasted < 30


@pytest.mark.parametrize("more", [{}, {"bg_paths": None}, {"bg_paths": []}])
def test_backgrounds_may_be_absent(sets: Path, more: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    drawn = mixture(sets, {"train": [train_set(sets, "people", w_aug=True, aug_details=["crop_foreground"], **more)]})
    assert len(drawn) == 2 and drawn[0].source is not None and drawn[0].object_ids == (1,)
    assert "needs bg_paths" in caplog.text


def test_test_set_is_the_validation_part(sets: Path) -> None:
    drawn = mixture(sets, {"train": [train_set(sets, "cracks")], "test": train_set(sets, "people")})
    train, val = drawn.split(0.5, 0)
    assert train is drawn and val.names == ["a", "b"]


def test_without_test_set_each_set_is_split(sets: Path) -> None:
    part = train_set(
        sets,
        "cracks",
        percentage=2,
        w_aug=1.0,
        aug_details=["crop_foreground"],
        bg_paths=[str(sets / "backgrounds")],
    )
    train, val = mixture(sets, {"train": [part, train_set(sets, "people")]}).split(0.5, 0)
    assert len(train) == 5 * 2 + 1 and len(val) == 5 + 1
    assert not set(train.names) & set(val.names)
    assert all(val[index].source is not None for index in range(len(val))), "validation images are unchanged"


BAD = {
    "yaml": ("train: [", "not readable as YAML"),
    "list": ("[1]", "write a list 'train'"),
    "empty": ("train: []", "'train' is no list of sets"),
    "key": ({"train": [{"data_dir": "cracks", "bg_path": []}]}, "train set 1: unknown bg_path; known are data_dir"),
    "no data_dir": ({"train": [{"percentage": 1}]}, "train set 1: has no data_dir"),
    "zero": ({"train": [{"data_dir": "cracks", "percentage": 0}]}, "percentage 0: give a number above 0"),
    "nan": ({"train": [{"data_dir": "cracks", "percentage": float("nan")}]}, "percentage nan"),
    "large": ({"train": [{"data_dir": "cracks", "percentage": 1001}]}, "percentage 1001: .* at most 1000"),
    "text": ({"train": [{"data_dir": "cracks", "percentage": "half"}]}, "percentage 'half'"),
    "augmentation": ({"train": [{"data_dir": "cracks", "aug_details": ["spin"]}]}, "known is .crop_foreground."),
    "w_aug": ({"train": [{"data_dir": "cracks", "aug_details": ["crop_foreground"], "w_aug": 3}]}, "w_aug 3"),
    "w_aug alone": ({"train": [{"data_dir": "cracks", "w_aug": "yes"}]}, "w_aug 'yes'"),
    "backgrounds": ({"train": [{"data_dir": "cracks", "bg_paths": ["nowhere"]}]}, "bg_paths nowhere: no such folder"),
    "test": ({"train": [{"data_dir": "cracks"}], "test": []}, "test set: has no data_dir"),
    "folder": ({"train": [{"data_dir": "nowhere"}]}, "no such folder"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_files_are_refused(sets: Path, content: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sets)
    with pytest.raises(UsageError, match=message) as caught:
        mixture(sets, content)
    assert "mixture.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_what_has_no_effect_or_is_odd_is_said(sets: Path, caplog: pytest.LogCaptureFixture) -> None:
    part = train_set(sets, "people", w_aug=True, percentage=50, bg_paths=[str(sets / "backgrounds")])
    drawn = mixture(sets, {"train": [part]})
    assert all(drawn[index].source is not None for index in range(10))
    assert "train set 1: w_aug needs aug_details" in caplog.text
    assert "train set 1: percentage 50 takes each sample about 50 times an epoch; half of the set is 0.5" in caplog.text


def test_the_name_of_a_set_is_no_way_out(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sets / "people/imgs")
    assert mixture(sets, {"train": [{"data_dir": ".."}]}).names == ["people/a", "people/b"]


def test_sets_of_the_same_name_are_numbered(sets: Path, mask_pairs: Write) -> None:
    for root in ("one/train", "two/train"):
        mask_pairs({"a": box_mask()}, root=root)
    parts = [train_set(sets, name) for name in ("one/train", "people", "two/train")]
    drawn = mixture(sets, {"train": parts})
    assert drawn.names == ["train_1/a", "people/a", "people/b", "train_3/a"]
    assert [drawn[index].name for index in range(4)] == drawn.names
