import math

import numpy as np
import pytest

from thfuse_sam.fusion.colour import add_colour
from thfuse_sam.images import as_rgb, luma
from thfuse_sam.metrics import NATURAL_METRICS, natural_metrics
from thfuse_sam.metrics.natural import chroma_kept, flat_noise, sky_gradient

SIZE = (60, 80)


def painted(colour: tuple[int, int, int], size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def noisy(level: float, sigma: float, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(level, sigma, SIZE)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def test_chroma_kept() -> None:
    visible = painted((180, 90, 60))
    grey = luma(visible)
    assert chroma_kept(visible, visible) == pytest.approx(1)
    assert chroma_kept(as_rgb(grey), visible) == pytest.approx(0, abs=1e-9)
    half = ((visible.astype(float) + grey[..., None]) / 2).round().astype(np.uint8)
    assert chroma_kept(half, visible) == pytest.approx(0.5, abs=0.01)
    opposite = (2.0 * grey[..., None] - visible).clip(0, 255).round().astype(np.uint8)
    assert chroma_kept(opposite, visible) == 0  # colour of another hue is not kept colour
    assert chroma_kept(add_colour(grey, visible), visible) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("colour", [(120, 110, 100), (60, 10, 10), (255, 255, 120), (0, 0, 0)])
def test_pale_dark_and_bright_pixels_have_no_say(colour: tuple[int, int, int]) -> None:
    assert math.isnan(chroma_kept(painted(colour), painted(colour)))
    visible = painted(colour)
    visible[:30] = (180, 90, 60)
    fused = as_rgb(luma(visible))
    fused[:30] = visible[:30]
    assert chroma_kept(fused, visible) == pytest.approx(1)


def test_sky_gradient() -> None:
    sky, clouds = noisy(230, 0), noisy(100, 10)
    assert sky_gradient(clouds, clouds, sky) == pytest.approx(1)
    assert sky_gradient(sky, clouds, sky) == 0
    assert sky_gradient((clouds / 2).astype(np.uint8), clouds, sky) == pytest.approx(0.5, abs=0.05)
    assert math.isnan(sky_gradient(clouds, sky, sky))  # infrared's own gradient is 0
    assert math.isnan(sky_gradient(clouds, clouds, noisy(100, 0)))  # no sky


def test_flat_noise() -> None:
    quiet, loud = noisy(100, 1, 1), noisy(120, 3, 2)
    assert flat_noise(quiet, loud, quiet) == pytest.approx(1)
    assert flat_noise(loud, quiet, loud) == pytest.approx(3, rel=0.1)
    still = np.full(SIZE, 80, np.uint8)
    assert flat_noise(quiet, still, quiet) == pytest.approx(1 / math.sqrt(1 / 12), rel=0.15)
    steep = np.tile(np.arange(0, 240, 3, dtype=np.uint8), (60, 1))
    assert math.isnan(flat_noise(quiet, steep, quiet))


def test_all_by_name_and_on_tiny_images() -> None:
    rgb = painted((180, 90, 60))
    grey = luma(rgb)
    assert list(natural_metrics(grey, rgb, grey, grey, rgb)) == list(NATURAL_METRICS)
    small = painted((180, 90, 60), (2, 2))
    natural_metrics(luma(small), small, luma(small), luma(small), small)
