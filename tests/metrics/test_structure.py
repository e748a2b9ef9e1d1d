import math

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from thfuse_sam.metrics.structure import multi_scale_structural_similarity, structural_similarity

C1, C2 = 6.5025, 58.5225  # for a data range of 255


def constant(value, shape):
    return np.full(shape, value, dtype=np.uint8)


def naive_ssim(first, second):
    total, windows = 0.0, 0
    for row in range(first.shape[0] - 6):
        for column in range(first.shape[1] - 6):
            x = first[row : row + 7, column : column + 7].astype(float).ravel()
            y = second[row : row + 7, column : column + 7].astype(float).ravel()
            (var_x, cov), (_, var_y) = np.cov(x, y)
            luminance = (2 * x.mean() * y.mean() + C1) / (x.mean() ** 2 + y.mean() ** 2 + C1)
            total += luminance * (2 * cov + C2) / (var_x + var_y + C2)
            windows += 1
    return total / windows


def naive_ms_ssim(first, second):
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(image):
        return np.einsum("ijkl,kl->ij", sliding_window_view(image, window.shape), window)

    first, second = first.astype(float), second.astype(float)
    product = 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        x, y = mean(first), mean(second)
        var_x, var_y = mean(first**2) - x**2, mean(second**2) - y**2
        cov = mean(first * second) - x * y
        contrast_structure = (2 * cov + C2) / (var_x + var_y + C2)
        similarity = (2 * x * y + C1) / (x**2 + y**2 + C1) * contrast_structure
        product *= (similarity if weight == 0.1333 else contrast_structure).mean() ** weight
        first, second = (
            np.array([[image[i : i + 2, j : j + 2].mean() for j in range(0, w, 2)] for i in range(0, h, 2)])
            for image in (first, second)
            for h, w in [(image.shape[0] // 2 * 2, image.shape[1] // 2 * 2)]
        )
    return product


def test_ssim_equals_a_naive_computation(triple):
    fused, infrared, visible = triple
    expected = naive_ssim(fused, infrared) + naive_ssim(fused, visible)
    assert 0.2 < expected < 1.8
    assert structural_similarity(fused, infrared, visible) == pytest.approx(expected, rel=1e-10)


def test_ms_ssim_equals_a_naive_computation(large_triple):
    fused, infrared, visible = large_triple
    expected = (naive_ms_ssim(fused, infrared) + naive_ms_ssim(fused, visible)) / 2
    assert 0.2 < expected < 0.9
    assert multi_scale_structural_similarity(fused, infrared, visible) == pytest.approx(expected, rel=1e-10)


def test_constant_images_differ_in_luminance_only():
    luminance = (2 * 50 * 200 + C1) / (50**2 + 200**2 + C1)
    first, second = constant(50, (176, 176)), constant(200, (176, 176))
    # A data range of 2 would make this 1 in the second case, where both images are dark.
    assert structural_similarity(first, second, second) == pytest.approx(2 * luminance)
    assert multi_scale_structural_similarity(first, second, second) == pytest.approx(luminance**0.1333)
    assert structural_similarity(first * 0, first // 50, first * 0) == pytest.approx(C1 / (1 + C1) + 1)


def test_equal_images_reach_the_maximum(large_triple):
    image = large_triple.visible
    assert structural_similarity(image, image, image) == pytest.approx(2)
    assert multi_scale_structural_similarity(image, image, image) == pytest.approx(1)


def test_inverted_images_are_negative_in_ssim_and_zero_in_ms_ssim(large_triple):
    image = large_triple.visible
    assert structural_similarity(image, 255 - image, 255 - image) < -0.5
    assert multi_scale_structural_similarity(image, 255 - image, 255 - image) == 0


@pytest.mark.parametrize("metric", [structural_similarity, multi_scale_structural_similarity])
def test_fused_and_sources_are_treated_symmetrically(metric, large_triple):
    fused, infrared, visible = large_triple
    assert metric(fused, visible, infrared) == pytest.approx(metric(fused, infrared, visible), rel=1e-12)
    assert metric(infrared, fused, fused) == pytest.approx(metric(fused, infrared, infrared), rel=1e-12)


@pytest.mark.parametrize(("metric", "smallest"), [(structural_similarity, 7), (multi_scale_structural_similarity, 176)])
def test_small_images_are_undefined(metric, smallest, large_triple):
    assert math.isfinite(metric(*(image[:smallest, :smallest] for image in large_triple)))
    assert math.isnan(metric(*(image[: smallest - 1] for image in large_triple)))
    assert math.isnan(metric(*(image[:, : smallest - 1] for image in large_triple)))
