"""Training of vit_nano: targets, losses and a few steps on small images."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from thfuse_sam.sam.assembly import STRIDE
from thfuse_sam.sam.nano import EMBED_DIM, build_vit_nano
from tools.scenes import render_scene
from tools.vit_nano.training import (
    AFFINITY_STEPS,
    MIN_TARGET_AREA,
    PADDING,
    NanoTrainingConfig,
    Photo,
    RegionHead,
    TargetStream,
    affinity_loss,
    decoder_outputs,
    fit_to_square,
    identity_loss,
    interior_point_iou,
    mask_iou,
    mask_loss,
    targets_at,
    textured_shapes,
    train_nano,
)

SIZE = 64
NO_BOXES = torch.empty(1, 0, 4)


def test_shapes_are_drawn_where_their_labels_are() -> None:
    image, labels = textured_shapes(np.random.default_rng(0), 128)
    assert image.shape == (128, 128, 3) and image.dtype == np.uint8
    assert labels.max() >= 3
    means = [image[labels == label].mean() for label in np.unique(labels)]
    assert np.ptp(means) > 20


def test_fit_to_square_pads_at_the_bottom_like_sam() -> None:
    image = np.full((30, 60, 3), 200, np.uint8)
    labels = np.tile(np.arange(60) // 30, (30, 1)).astype(np.int32)
    square, square_labels = fit_to_square(image, labels, SIZE)
    assert (square[:32] == 200).all() and (square[32:] == 0).all()
    assert (square_labels[32:] == PADDING).all()
    assert (square_labels[:32, :32] == 0).all() and (square_labels[:32, 32:] == 1).all()


def test_mask_loss_prefers_the_right_mask_and_small_ones_count() -> None:
    target = torch.zeros(32, 32)
    target[4:7, 4:7] = 1
    right, empty = (target * 2 - 1) * 9, torch.full((32, 32), -9.0)
    assert mask_loss(right, target) < 0.1
    assert mask_loss(empty, target) > 2


def test_mask_loss_without_entropy_is_dice() -> None:
    target = torch.zeros(32, 32)
    target[:16] = 1
    assert mask_loss(torch.zeros(32, 32), target, 0.0).item() == pytest.approx(1 - 513 / 1025)  # 0.5 everywhere
    assert mask_loss(torch.zeros(32, 32), target) > mask_loss(torch.zeros(32, 32), target, 0.1)


def test_mask_iou_by_hand() -> None:
    target = torch.zeros(8, 8)
    target[:4] = 1
    logits = torch.full((8, 8), -1.0)
    logits[2:6] = 1
    assert mask_iou(logits, target).item() == pytest.approx(2 / 6)


def test_targets_are_averaged_down() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.int32)
    labels[0, :2, :1] = 7
    masks = targets_at(labels, torch.tensor([[7, 0]]))
    assert masks.shape == (1, 2, 2, 2)
    assert masks[0, 0, 0, 0] == 0.125 and masks[0, 0].sum() == 0.125
    assert masks[0, 1, 0, 0] == 0.875


@pytest.mark.parametrize(("shares", "least", "most"), [((0, 1, 0), 0.4, 0.6), ((0, 0, 1), 0.1, 0.4)])
def test_small_things_of_scenes_are_asked_for_as_often_as_large_ones(
    shares: tuple[float, float, float], least: float, most: float
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
    config = NanoTrainingConfig(shares=shares, prompts=1, crop_size=128)
    stream = iter(TargetStream(128, [scene], [photo], config))
    asked = torch.cat([next(stream)[2] for _ in range(300)])
    assert least < (asked == 2).float().mean() < most


def test_every_region_is_asked_for_before_one_is_asked_for_again() -> None:
    labels = (1 + np.arange(96, dtype=np.int32) // 16)[None].repeat(96, 0)  # six
    photo = Photo(np.zeros((96, 96, 3), np.uint8), (labels - 1)[None].astype(np.int16))
    config = NanoTrainingConfig(shares=(0, 0, 1), prompts=9, crop_size=128)
    for _, shown, ids, *_ in itertools.islice(TargetStream(128, [], [photo], config), 20):
        regions, areas = shown[shown > 0].unique(return_counts=True)
        assert ids.unique().numel() == (areas >= MIN_TARGET_AREA).sum()
        assert set(ids.tolist()) <= set(regions.tolist())


@pytest.mark.parametrize(("share", "least", "most"), [(0.5, 10, 32), (1.0, 40, 40), (0.0, 0, 8)])
def test_a_share_of_the_images_stays_whole(share: float, least: int, most: int) -> None:
    labels = (1 + np.arange(96, dtype=np.int32) // 4)[None].repeat(96, 0)  # four columns each
    photo = Photo(np.zeros((96, 96, 3), np.uint8), (labels - 1)[None].astype(np.int16))
    config = NanoTrainingConfig(shares=(0, 0, 1), prompts=2, crop_size=128, whole=share)
    stream = iter(TargetStream(128, [], [photo], config))
    whole = [
        bool(labels.max() == 24 and labels[labels > 0].min() == 1) for _, labels, *_ in itertools.islice(stream, 40)
    ]
    assert least <= sum(whole) <= most


def test_stream_gives_points_inside_their_regions() -> None:
    stream = TargetStream(SIZE, [], [], NanoTrainingConfig(shares=(1, 0, 0), prompts=20, crop_size=SIZE))
    image, labels, ids, points, boxes, _ = next(iter(stream))
    assert image.shape == (3, SIZE, SIZE) and boxes.shape == (20, 4)
    for label, (x, y) in zip(ids, points, strict=True):
        assert labels[int(y), int(x)] == label


def test_affinity_loss_knows_right_from_wrong() -> None:
    labels = torch.ones(1, 128, 128, dtype=torch.int32)
    labels[:, :, 128 // 2 :] += 1
    labels[:, 128 // 2 :] += 2
    labels[:, -4:] = PADDING
    grid = 128 // 4
    places = labels[:, 2::4, 2::4]
    right = torch.full((1, len(AFFINITY_STEPS), grid, grid), 9.0)
    for channel, (dy, dx) in enumerate(AFFINITY_STEPS):
        there = torch.roll(places, (-dy, -dx), (1, 2))
        right[:, channel][places != there] = -9.0
    assert affinity_loss(right, labels) < 0.01
    assert affinity_loss(-right, labels) > 4
    assert 0.55 < affinity_loss(0 * right, labels) < 0.7


def test_identity_loss_knows_right_from_wrong() -> None:
    torch.manual_seed(0)
    labels = torch.ones(1, 64, 64, dtype=torch.int32)
    labels[:, :, 20:40] = 2
    labels[:, 48:] = PADDING
    key = torch.stack([(labels == label)[:, 2::4, 2::4] * 40.0 for label in (1, 2)], 1)  # 1x2x16x16
    bias = torch.full((1, 1, 16, 16), -10.0)
    assert identity_loss(torch.cat([key / 40, key, bias], 1), labels, 32) < 0.01
    assert identity_loss(torch.cat([key / 40, -key, bias], 1), labels, 32) > 4
    assert identity_loss(torch.zeros(1, 5, 16, 16), torch.zeros_like(labels), 32) == 0


def test_region_head_answers_at_the_mask_grid() -> None:
    affinities, identities = RegionHead(width=8)(torch.randn(2, EMBED_DIM, 4, 4), torch.randn(2, EMBED_DIM, 16, 16))
    assert affinities.shape == (2, len(AFFINITY_STEPS), 16, 16)
    assert identities.shape == (2, 2 * 8 + 1, 16, 16)


def test_region_head_tells_equal_looks_apart_by_their_places() -> None:
    torch.manual_seed(0)
    positions = torch.randn(1, EMBED_DIM, 8, 8)
    _, identities = RegionHead(width=8)(torch.ones(1, EMBED_DIM, 2, 2), positions)
    assert identities[0, :-1, 0, 0].sub(identities[0, :-1, 4, 4]).abs().max() > 0.1
    assert torch.allclose(identities[0, -1, 0, 0], identities[0, -1, 4, 4])


@pytest.mark.parametrize("crop_height", [0, 32])
def test_stream_crops_at_whole_patches(crop_height: int) -> None:
    scene = render_scene(3, height=96, width=128)
    config = NanoTrainingConfig(shares=(0, 1, 0), crop_size=64, crop_height=crop_height)
    samples = iter(TargetStream(128, [scene], [], config))
    height = crop_height or 64
    for _ in range(5):
        image, labels, ids, points, _, corner = next(samples)
        assert image.shape == (3, height, 64) and labels.shape == (height, 64)
        assert (corner >= 0).all() and (corner * STRIDE + torch.tensor([height, 64]) <= 128).all()
        assert all(labels[int(y), int(x)] == label for label, (x, y) in zip(ids, points, strict=True))


def test_a_crop_is_decoded_as_its_place_in_the_whole_image() -> None:
    torch.manual_seed(0)
    sam = build_vit_nano(128).eval()
    embedding = torch.randn(1, EMBED_DIM, 8, 8)
    points = torch.tensor([[[70.0, 90.0]]])
    origin, corner = torch.tensor([[0, 0]]), torch.tensor([[4, 4]])
    with torch.no_grad():
        whole, _ = decoder_outputs(sam, embedding, origin, points, NO_BOXES)
        crop, _ = decoder_outputs(sam, embedding[..., 4:, 4:], corner, points - 64, NO_BOXES)
        wrong, _ = decoder_outputs(sam, embedding[..., 4:, 4:], origin, points - 64, NO_BOXES)
    far = (wrong - whole[..., 16:, 16:]).abs().mean()
    assert (crop - whole[..., 16:, 16:]).abs().mean() < far


def test_prompts_of_several_images_equal_segment_anythings_decoder() -> None:
    torch.manual_seed(0)
    sam = build_vit_nano(128)
    embeddings = torch.randn(2, EMBED_DIM, 3, 4, requires_grad=True)
    points, boxes = torch.rand(2, 3, 2) * 48, torch.rand(2, 2, 4) * 48
    corners = torch.tensor([[0, 1], [3, 2]])
    masks, ious = decoder_outputs(sam, embeddings, corners, points, boxes)
    stock = []
    for index, (y, x) in enumerate(corners.tolist()):
        shift = torch.tensor([x, y]) * STRIDE
        by_point, _ = sam.prompt_encoder((points[index, :, None] + shift, torch.ones(3, 1)), None, None)
        by_box, _ = sam.prompt_encoder(None, boxes[index] + shift.repeat(2), None)
        stock.append(
            sam.mask_decoder.predict_masks(
                embeddings[index, None],
                sam.prompt_encoder.get_dense_pe()[..., y : y + 3, x : x + 4],
                torch.cat([by_point, by_box]),
                sam.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1),
            )
        )
    stock_masks, stock_ious = map(torch.stack, zip(*stock, strict=True))
    torch.testing.assert_close(masks, stock_masks, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ious, stock_ious, rtol=1e-4, atol=1e-5)

    weights = [embeddings, sam.mask_decoder.mask_tokens.weight, sam.mask_decoder.output_upscaling[0].weight]
    shares = torch.randn_like(masks)
    gradients = torch.autograd.grad((masks * shares).sum(), weights)
    for gradient, expected in zip(gradients, torch.autograd.grad((stock_masks * shares).sum(), weights), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("bf16", "crop_height"), [(False, 0), (True, 0), (True, 16)])
def test_a_short_training_saves_a_changed_model(bf16: bool, crop_height: int) -> None:
    torch.manual_seed(0)
    sam = build_vit_nano(SIZE)
    before = sam.mask_decoder.iou_token.weight.clone()
    saved = []
    config = NanoTrainingConfig(
        minutes=0.01,
        batch_size=1,
        prompts=4,
        crop_size=32,
        crop_height=crop_height,
        shares=(1, 0, 0),
        workers=0,
        bf16=bf16,
    )
    train_nano(sam, [], [], config, lambda model: saved.append(model))
    assert saved == [sam]
    assert not torch.equal(before, sam.mask_decoder.iou_token.weight)


def test_interior_point_iou_counts_large_objects_only() -> None:
    torch.manual_seed(0)
    labels = np.zeros((48, 64), np.int32)
    labels[10:30, 10:30] = 1
    labels[40, 60] = 2
    ious = interior_point_iou(build_vit_nano(SIZE).eval(), np.zeros((48, 64, 3), np.uint8), labels)
    assert len(ious) == 1 and 0 <= ious[0] <= 1
