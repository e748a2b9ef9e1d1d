"""What is averaged over time, where it starts anew, and how flicker is measured."""

import numpy as np
import numpy.typing as npt
import pytest

from tests.video.clips import scene
from thfuse_sam.thermal import AS_STORED, InfraredReading
from thfuse_sam.video.steadiness import Brightness, CutDetector, FlickerMeter, Smoothed, ThermalLevels

Grey = npt.NDArray[np.uint8]


def noisy(image: Grey, seed: int, sigma: float = 2.0) -> Grey:
    return np.clip(image + np.random.default_rng(seed).normal(0, sigma, image.shape), 0, 255).astype(np.uint8)


def test_averages_follow_with_their_decay_and_start_anew() -> None:
    average = Smoothed[float](0.5)
    assert average.add(10.0, 0.04) == 10.0
    assert average.add(0.0, 0.5) == pytest.approx(10 / np.e)
    average.restart()
    assert average.add(3.0, 0.5) == 3.0
    assert Smoothed[float](0).add(5.0, 1) == 5.0


def test_a_hot_spot_does_not_darken_the_next_frame_at_once() -> None:
    levels = ThermalLevels(AS_STORED, seconds=1.0)
    values = np.random.default_rng(0).integers(1000, 2000, (48, 64)).astype(np.uint16)
    before = levels.grey(values, 0.04)
    hot = values.copy()
    hot[:10, :10] = 9000
    after = levels.grey(hot, 0.04)
    alone = ThermalLevels(AS_STORED, seconds=1.0).grey(hot, 0.04)
    change = [abs(float(image[20:].mean()) - float(before[20:].mean())) for image in (after, alone)]
    assert change[0] < 0.4 * change[1]
    assert levels.grey(before, 0.04) is before  # 8 bits stay as they are
    assert ThermalLevels(InfraredReading(nodata=0), 1.0).grey(before, 0.04).min() == before[before > 0].min()


def test_another_range_begins_anew() -> None:
    levels = ThermalLevels(AS_STORED, seconds=10.0)
    values = np.random.default_rng(0).integers(1000, 2000, (48, 64)).astype(np.uint16)
    levels.grey(values, 0.04)
    assert np.array_equal(levels.grey(values + 5000, 0.04), ThermalLevels(AS_STORED, 0).grey(values + 5000, 0.04))
    fixed = ThermalLevels(InfraredReading((0, 2550)), 1.0).grey(np.full((4, 4), 1000, np.uint16), 0.04)
    assert fixed.max() == fixed.min() == 100


def test_cuts_are_other_scenes_and_not_noise_or_movement() -> None:
    detector = CutDetector()
    first, other = scene(0)[..., 0], scene(0, seed=9)[::-1, :, 1]
    assert detector.is_cut(first)
    assert not detector.is_cut(noisy(first, 1, 8))
    assert not detector.is_cut(scene(1)[..., 0])
    assert detector.is_cut(other)


def test_brightness_is_evened_out_but_follows_the_sources_and_cuts() -> None:
    def mean(fused: int, sources: int, is_cut: bool = False) -> float:
        one, other = (np.full((8, 8), level, np.uint8) for level in (fused, sources))
        return float(brightness.steadied(one, (other, other), 0.04, is_cut).mean())

    brightness = Brightness(1.0)
    assert mean(100, 90, is_cut=True) == 100
    assert mean(110, 90) == pytest.approx(100, abs=1)
    assert mean(160, 150) == pytest.approx(160, abs=1)
    assert mean(30, 90, is_cut=True) == 30


def test_flicker_is_the_change_beyond_the_sources() -> None:
    ir, vi = scene(0)[..., 0], scene(0, seed=3)[..., 1]
    steady, pumping = FlickerMeter(), FlickerMeter()
    for k in range(6):
        one, other = noisy(ir, k), noisy(vi, 100 + k)
        mean = ((one.astype(int) + other) // 2).astype(np.uint8)
        steady.add(one, other, mean, k == 0)
        pumping.add(one, other, (mean // 2 + 10 * (k % 2)).astype(np.uint8), k == 0)
    assert steady.flicker == 0
    assert pumping.flicker is not None and pumping.flicker > 5
    assert FlickerMeter().flicker is None
