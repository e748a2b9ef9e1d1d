import numpy as np
import pytest

from thfuse_sam.fusion.colour import KEPT_CHROMA, add_colour, fitted_colour, leave_room
from thfuse_sam.images import as_rgb, luma
from thfuse_sam.metrics.natural import chroma_kept


def test_luma_is_the_fused_one_and_hue_is_the_visible_one() -> None:
    random = np.random.default_rng(0)
    visible = random.integers(60, 200, (40, 50, 3), np.uint8)
    fused = random.integers(0, 256, (40, 50), np.uint8)
    coloured = add_colour(fused, visible)
    assert np.abs(luma(coloured).astype(int) - fused).max() <= 1
    # A chroma vector may get shorter, but keeps its direction.
    for one, other in ((0, 1), (2, 1), (0, 2)):
        before = visible[..., one].astype(int) - visible[..., other]
        after = coloured[..., one].astype(int) - coloured[..., other]
        assert not ((before > 3) & (after < -1)).any() and not ((before < -3) & (after > 1)).any()


def test_unchanged_luma_gives_the_visible_image_back() -> None:
    visible = np.random.default_rng(1).integers(40, 220, (40, 50, 3), np.uint8)
    assert np.abs(add_colour(luma(visible), visible).astype(int) - visible).max() <= 2


def test_grey_visible_stays_grey() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    fused = np.random.default_rng(2).integers(0, 256, (1, 256), np.uint8)
    assert np.array_equal(add_colour(fused, grey), np.repeat(fused[..., None], 3, axis=2))


@pytest.mark.parametrize("colour", [(4, 0, 6), (255, 253, 254)])
def test_no_colour_where_the_visible_image_has_no_signal(colour: tuple[int, int, int]) -> None:
    visible = np.full((2, 2, 3), colour, np.uint8)
    fused = np.full((2, 2), 128, np.uint8)
    assert np.array_equal(add_colour(fused, visible), np.full((2, 2, 3), 128))


def test_dark_but_real_colour_stays() -> None:
    visible = np.full((1, 1, 3), (60, 10, 10), np.uint8)
    red, green, blue = add_colour(np.full((1, 1), 100, np.uint8), visible)[0, 0].astype(int)
    assert red - green > 45 and abs(green - blue) <= 1


def test_a_colourful_facade_that_becomes_brighter_does_not_turn_pale() -> None:
    visible = np.full((1, 1, 3), (150, 140, 70), np.uint8)
    red, _, blue = fitted_colour(np.full((1, 1), 240, np.uint8), visible)[0, 0].astype(int)
    assert red - blue > 1.3 * (150 - 70)
    cast = np.full((1, 1, 3), (65, 60, 45), np.uint8)
    red, _, blue = fitted_colour(np.full((1, 1), 200, np.uint8), cast)[0, 0].astype(int)
    assert abs(red - blue - 20) <= 1


def test_colour_of_a_hedge_in_the_dark_stays() -> None:
    visible = np.full((1, 1, 3), (6, 14, 4), np.uint8)
    red, green, blue = add_colour(np.full((1, 1), 40, np.uint8), visible)[0, 0].astype(int)
    assert (green - red, green - blue) == pytest.approx((8, 10), abs=1)


def test_bright_fused_pixel_loses_saturation_and_not_hue() -> None:
    visible = np.full((1, 1, 3), (200, 100, 40), np.uint8)
    red, green, blue = add_colour(np.full((1, 1), 245, np.uint8), visible)[0, 0].astype(int)
    assert red == 255 and red > green > blue
    assert (red - green) / (green - blue) == pytest.approx(100 / 60, rel=0.4)


def test_luma_leaves_room_for_colour_and_stays_where_there_is_none() -> None:
    random = np.random.default_rng(3)
    visible = random.integers(60, 200, (40, 50, 3), np.uint8)
    bright, dark = np.full((40, 50), 250, np.uint8), np.full((40, 50), 5, np.uint8)
    for fused in (bright, dark):
        assert chroma_kept(add_colour(fused, visible), visible) < 0.5
        assert chroma_kept(add_colour(leave_room(fused, visible), visible), visible) >= KEPT_CHROMA
    fused = random.integers(0, 256, (40, 50), np.uint8)
    roomy = leave_room(fused, visible)
    assert np.array_equal(leave_room(roomy, visible), roomy)
    assert np.array_equal(leave_room(fused, as_rgb(luma(visible))), fused)
    assert np.array_equal(leave_room(luma(visible), visible), luma(visible))


def test_both_steps_at_once_are_one_after_the_other() -> None:
    random = np.random.default_rng(1)
    visible = random.integers(0, 256, (40, 50, 3), np.uint8)
    fused = random.integers(0, 256, (40, 50), np.uint8)
    assert np.array_equal(fitted_colour(fused, visible), add_colour(leave_room(fused, visible), visible))
