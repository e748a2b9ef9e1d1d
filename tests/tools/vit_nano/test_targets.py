"""The crops and prompts that vit_nano is trained on."""

import dataclasses

import numpy as np
import pytest
import torch

from thfuse_sam.sam.geometry import PATCH_SIZE
from tools.scenes import render_scene
from tools.vit_nano.images import FIRST_PERSON, Photo
from tools.vit_nano.options import NanoSettings
from tools.vit_nano.targets import MIN_TARGET_AREA, TargetDataset, sample_targets, target_masks

SIZE = 64


def test_targets_are_averaged_down() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.int32)
    labels[0, :2, :1] = 7
    masks = target_masks(labels, torch.tensor([[7, 0]]))
    assert masks.shape == (1, 2, 2, 2)
    assert masks[0, 0, 0, 0] == 0.125 and masks[0, 0].sum() == 0.125
    assert masks[0, 1, 0, 0] == 0.875


@pytest.mark.parametrize(("shares", "least", "most"), [((0, 1, 0, 0), 0.4, 0.6), ((0, 0, 1, 0), 0.1, 0.4)])
def test_small_things_of_scenes_are_asked_for_as_often_as_large_ones(
    shares: tuple[float, float, float, float], least: float, most: float
) -> None:
    labels = np.ones((96, 96), np.int32)
    labels[40:56, 40:56] = 2
    image = np.zeros((96, 96, 3), np.uint8)
    scene = dataclasses.replace(
        render_scene(0, height=64, width=64),
        visible=image,
        infrared=image[..., 0],
        visible_labels=labels,
        infrared_labels=labels,
    )
    photo = Photo(image, (labels - 1)[None].astype(np.int16))
    config = NanoSettings(shares=shares, prompts=1, crop_size=128)
    samples = TargetDataset(128, [scene], [photo], config)
    asked = torch.cat([samples[index]["ids"] for index in range(300)])
    assert least < (asked == 2).float().mean() < most


def test_every_region_is_asked_for_before_one_is_asked_for_again() -> None:
    labels = (1 + np.arange(96, dtype=np.int32) // 16)[None].repeat(96, 0)  # six
    photo = Photo(np.zeros((96, 96, 3), np.uint8), (labels - 1)[None].astype(np.int16))
    config = NanoSettings(shares=(0, 0, 1, 0), prompts=9, crop_size=128)
    samples = TargetDataset(128, [], [photo], config)
    for shown, ids in ((samples[index]["labels"], samples[index]["ids"]) for index in range(20)):
        regions, areas = shown[shown > 0].unique(return_counts=True)
        assert ids.unique().numel() == (areas >= MIN_TARGET_AREA).sum()
        assert set(ids.tolist()) <= set(regions.tolist())


@pytest.mark.parametrize(("share", "least", "most"), [(0.5, 10, 32), (1.0, 40, 40), (0.0, 0, 8)])
def test_a_share_of_the_images_stays_whole(share: float, least: int, most: int) -> None:
    labels = (1 + np.arange(96, dtype=np.int32) // 4)[None].repeat(96, 0)  # four columns each
    photo = Photo(np.zeros((96, 96, 3), np.uint8), (labels - 1)[None].astype(np.int16))
    config = NanoSettings(shares=(0, 0, 1, 0), prompts=2, crop_size=128, whole=share)
    samples = TargetDataset(128, [], [photo], config)
    shown = [samples[index]["labels"] for index in range(40)]
    whole = [bool(labels.max() == 24 and labels[labels > 0].min() == 1) for labels in shown]
    assert least <= sum(whole) <= most


def test_points_lie_inside_their_regions() -> None:
    sample = TargetDataset(SIZE, [], [], NanoSettings(shares=(1, 0, 0, 0), prompts=20, crop_size=SIZE))[0]
    assert sample["images"].shape == (3, SIZE, SIZE) and sample["boxes"].shape == (20, 4)
    for label, (x, y) in zip(sample["ids"], sample["points"], strict=True):
        assert sample["labels"][int(y), int(x)] == label


def test_a_sample_is_decided_by_seed_epoch_and_index() -> None:
    def shown(seed: int, epoch: int, index: int) -> torch.Tensor:
        samples = TargetDataset(SIZE, [], [], NanoSettings(crop_size=SIZE, seed=seed))
        samples.set_epoch(epoch)
        return samples[index]["images"]

    assert torch.equal(shown(1, 2, 3), shown(1, 2, 3))
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert not torch.equal(shown(1, 2, 3), shown(*other))


@pytest.mark.parametrize("crop_height", [None, 32])
def test_crops_begin_at_whole_patches(crop_height: int | None) -> None:
    scene = render_scene(3, height=96, width=128)
    config = NanoSettings(shares=(0, 1, 0, 0), crop_size=64, crop_height=crop_height)
    samples = TargetDataset(128, [scene], [], config)
    height = crop_height or 64
    for index in range(5):
        sample = samples[index]
        labels, corner = sample["labels"], sample["corners"]
        assert sample["images"].shape == (3, height, 64) and labels.shape == (height, 64)
        assert (corner >= 0).all() and (corner * PATCH_SIZE + torch.tensor([height, 64]) <= 128).all()
        assert all(
            labels[int(y), int(x)] == label for label, (x, y) in zip(sample["ids"], sample["points"], strict=True)
        )


def test_people_of_infrared_images_are_asked_for_by_boxes_of_warm_places() -> None:
    image, labels = np.full((96, 128, 3), 20, np.uint8), np.ones((96, 128), np.int32)
    image[30:50, 40:60] = 200  # the warm half of a person
    labels[30:70, 40:60] = FIRST_PERSON
    warm = np.array([[40.0, 30.0, 60.0, 50.0], [0.0, 0.0, 10.0, 10.0]])
    for places, at_least, at_most in ((warm, 40, 130), (warm[1:], 0, 0)):
        of_warm = 0
        for seed in range(40):
            drawn = sample_targets(np.random.default_rng(seed), image, labels, 8, person_share=1.0, warm=places)
            assert drawn is not None
            ids, _, boxes = drawn
            assert (ids == FIRST_PERSON).sum() == 4
            of_warm += int(((boxes == warm[0]).all(1) & (ids == FIRST_PERSON)).sum())
        assert at_least <= of_warm <= at_most
