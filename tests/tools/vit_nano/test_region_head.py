"""The auxiliary head and its losses."""

import torch

from thfuse_sam.sam.nano import EMBED_DIM
from tools.vit_nano.images import PADDING
from tools.vit_nano.region_head import AFFINITY_OFFSETS, RegionHead, affinity_loss, identity_loss


def test_affinity_loss_knows_right_from_wrong() -> None:
    labels = torch.ones(1, 128, 128, dtype=torch.int32)
    labels[:, :, 128 // 2 :] += 1
    labels[:, 128 // 2 :] += 2
    labels[:, -4:] = PADDING
    grid = 128 // 4
    places = labels[:, 2::4, 2::4]
    right = torch.full((1, len(AFFINITY_OFFSETS), grid, grid), 9.0)
    for channel, (dy, dx) in enumerate(AFFINITY_OFFSETS):
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
    assert affinities.shape == (2, len(AFFINITY_OFFSETS), 16, 16)
    assert identities.shape == (2, 2 * 8 + 1, 16, 16)


def test_region_head_tells_equal_looks_apart_by_their_places() -> None:
    torch.manual_seed(0)
    positions = torch.randn(1, EMBED_DIM, 8, 8)
    _, identities = RegionHead(width=8)(torch.ones(1, EMBED_DIM, 2, 2), positions)
    assert identities[0, :-1, 0, 0].sub(identities[0, :-1, 4, 4]).abs().max() > 0.1
    assert torch.allclose(identities[0, -1, 0, 0], identities[0, -1, 4, 4])


def test_offsets_beyond_a_small_crop_count_nothing() -> None:
    logits = torch.zeros(1, len(AFFINITY_OFFSETS), 12, 12)  # the farthest neighbours are 16 away
    assert 0.2 < affinity_loss(logits, torch.ones(1, 48, 48, dtype=torch.int32)) < 0.3
