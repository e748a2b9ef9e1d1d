"""Labelled people: masks from boxes, cutouts, and what is asked of the model for them."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from thfuse_sam.errors import UsageError
from tools.vit_nano import people
from tools.vit_nano.images import FIRST_PERSON, Photo, degrade
from tools.vit_nano.options import NanoSettings
from tools.vit_nano.targets import TargetDataset


def thermal_image(warmth: int) -> NDArray[np.uint8]:
    """96x128, noise around 60, with an upright ellipse that is warmer."""
    image = np.random.default_rng(0).normal(60, 2, (96, 128)).clip(0, 255).astype(np.uint8)
    cv2.ellipse(image, (40, 50), (8, 20), 0, 0, 360, 60 + warmth, -1)
    return image


@pytest.mark.parametrize("warmth", [20, 120])
def test_what_is_warm_in_a_box_becomes_the_mask(warmth: int) -> None:
    image = thermal_image(warmth)
    box = (31, 29, 50, 72)
    mask = people.warm_mask(image, box)
    true = thermal_image(100)[29:72, 31:50] > 110
    assert mask.shape == true.shape
    assert (mask & true).sum() / (mask | true).sum() > 0.8


def test_a_person_who_is_not_warm_becomes_an_ellipse_that_fills_the_box() -> None:
    mask = people.warm_mask(np.full((96, 128), 60, np.uint8), (31, 29, 50, 72))
    ys, xs = np.nonzero(mask)
    assert np.ptp(ys) >= 40 and np.ptp(xs) >= 16 and 0.7 < mask.mean() < 0.85


def test_a_smaller_person_lies_over_a_larger_one() -> None:
    image = thermal_image(100)
    labelled = people.boxed_people(image, [(36, 40, 44, 60), (31, 29, 50, 72)])
    assert labelled[50, 40] == 2 and labelled[32, 40] == 1 and labelled[0, 0] == 0


def write_set(root: Path) -> None:
    for folder in ("ir", "vi", "targets/ir"):
        (root / folder).mkdir(parents=True)
    for name in ("00001N", "00002N"):
        cv2.imwrite(str(root / "ir" / f"{name}.png"), thermal_image(100))
        (root / "targets" / "ir" / f"{name}.txt").write_text(
            f"0 {40 / 128} {50 / 96} {20 / 128} {44 / 96}\n2 0.5 0.5 1 1\n"
        )


def test_labelled_photos_are_found_by_their_boxes_and_some_are_held_out(tmp_path: Path) -> None:
    write_set(tmp_path)
    assert [photo.path.stem for photo in people.find_labelled(tmp_path / "ir", ["*2[DN]"])] == ["00001N"]
    with pytest.raises(UsageError, match="`held_out`"):
        people.find_labelled(tmp_path / "ir", ["*"])
    [first, _] = people.find_labelled(tmp_path / "ir", [])
    pytest.importorskip("skimage")
    photo = first.read()
    assert photo.people is not None and set(np.unique(photo.people)) == {0, 1}


def test_pasted_people_have_labels_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "PAINTED", 0.0)
    image = np.repeat(thermal_image(100)[..., None], 3, 2)
    labelled = people.boxed_people(image[..., 0], [(31, 29, 50, 72)])
    cutouts = people.cut_out([Photo(image, np.zeros((1, 96, 128), np.int16), labelled)])
    assert len(cutouts) == 1 and cutouts[0].grey
    ground, rng = np.full((96, 128, 3), 10, np.uint8), np.random.default_rng(0)
    for _ in range(10):
        changed, labels = people.paste_people(rng, ground, np.ones((96, 128), np.int32), cutouts)
        assert changed[labels >= FIRST_PERSON].mean() > 60 and (changed[labels == 1].mean()) < 20
    colour = ground + np.array([0, 40, 80], np.uint8)
    changed, _ = people.paste_people(rng, colour, np.ones((96, 128), np.int32), cutouts)
    assert (changed == colour).all() and (ground == 10).all()


def test_people_in_infrared_images_stand_in_groups_and_behind_things_and_may_be_painted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ground = np.full((96, 128, 3), 10, np.uint8)
    cutout = people.Cutout(np.full((40, 16, 3), (200, 90, 30), np.uint8), np.ones((40, 16), bool), grey=False)
    monkeypatch.setattr(people, "PAINTED", 1.0)
    covers, beside = [], 0
    for seed in range(40):
        shown, labels = people.paste_people(
            np.random.default_rng(seed), ground, np.zeros((96, 128), np.int32), [cutout]
        )
        assert people.is_grey(shown) and shown[labels > 0].mean() > 15
        places = [np.argwhere(labels == label) for label in np.unique(labels[labels > 0])]
        covers += [np.ptp(place[:, 0]) / max(np.ptp(place[:, 1]), 1) for place in places]
        feet = [place[:, 0].max() for place in places]
        beside += any(abs(int(one) - int(other)) < 5 for one, other in itertools.pairwise(feet))
    assert np.percentile(covers, 10) < 2 < np.percentile(covers, 90)  # whole ones are 2.5 times as high as wide
    assert beside > 10


def test_half_of_the_prompts_ask_for_people_however_small() -> None:
    image = np.repeat(thermal_image(100)[..., None], 3, 2)
    regions = (np.arange(128, dtype=np.int16) // 16)[None, None].repeat(96, 1)
    photo = Photo(image, regions, people.boxed_people(image[..., 0], [(31, 29, 50, 72), (90, 10, 99, 24)]))
    settings = NanoSettings(shares=(0, 0, 0, 1), pasted=0, prompts=12, crop_size=128, whole=1)
    samples = TargetDataset(128, [], [], settings, [[photo]])
    for index in range(5):
        sample = samples[index]
        asked = sample["ids"][sample["ids"] >= FIRST_PERSON]
        assert len(asked) == 6 and asked.unique().numel() == 2


def test_degraded_images_are_often_darker_and_keep_their_shape() -> None:
    image = np.full((48, 64, 3), 120, np.uint8)
    shown = [degrade(np.random.default_rng(seed), image) for seed in range(30)]
    assert all(each.shape == image.shape and each.dtype == np.uint8 for each in shown)
    assert 4 < sum(each.mean() < 90 for each in shown) < 20
