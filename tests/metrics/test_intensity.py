import math

import numpy as np
import pytest

from thfuse_sam.metrics.intensity import (
    correlation_coefficient,
    peak_signal_to_noise_ratio,
    standard_deviation,
    sum_of_correlations_of_differences,
)


def grey(*rows):
    return np.array(rows, dtype=np.uint8)


def constant(value, shape=(4, 5)):
    return np.full(shape, value, dtype=np.uint8)


def test_standard_deviation_is_the_populations():
    assert standard_deviation(grey([0, 255], [255, 0])) == 127.5
    assert standard_deviation(grey([1, 2], [3, 4])) == pytest.approx(math.sqrt(1.25))
    assert standard_deviation(constant(200)) == 0


def test_correlation_of_linear_functions():
    image = grey([10, 20, 30], [60, 50, 70])
    assert correlation_coefficient(image, image + 100, image * 2) == pytest.approx(1)
    assert correlation_coefficient(image, 255 - image, 255 - image) == pytest.approx(-1)
    assert correlation_coefficient(image, image, 255 - image) == pytest.approx(0, abs=1e-12)


def test_correlation_equals_numpys(triple):
    fused, infrared, visible = triple
    expected = (
        np.corrcoef(fused.ravel(), infrared.ravel())[0, 1] + np.corrcoef(fused.ravel(), visible.ravel())[0, 1]
    ) / 2
    assert correlation_coefficient(fused, infrared, visible) == pytest.approx(expected)


@pytest.mark.parametrize("metric", [correlation_coefficient, sum_of_correlations_of_differences])
def test_constant_images_correlate_zero(metric):
    image = grey([10, 20, 30], [60, 50, 70])
    flat = constant(77, image.shape)
    assert metric(flat, flat, flat) == 0
    # Only the source that varies can contribute.
    assert metric(image, image, flat) == pytest.approx(0.5 if metric is correlation_coefficient else 1)


def test_scd_of_the_sum_of_both_sources_is_two(triple):
    infrared, visible = triple.infrared // 2, triple.visible // 2
    assert sum_of_correlations_of_differences(infrared + visible, infrared, visible) == pytest.approx(2)


def test_scd_equals_numpys_and_negative_differences_do_not_wrap(triple):
    fused, infrared, visible = (image.astype(int) for image in triple)
    assert (fused - visible).min() < 0
    expected = (
        np.corrcoef(infrared.ravel(), (fused - visible).ravel())[0, 1]
        + np.corrcoef(visible.ravel(), (fused - infrared).ravel())[0, 1]
    )
    assert sum_of_correlations_of_differences(*triple) == pytest.approx(expected)


def test_scd_of_equal_images_is_zero(triple):
    image = triple.visible
    assert sum_of_correlations_of_differences(image, image, image) == 0


def test_psnr_takes_the_mean_of_the_errors_and_a_peak_of_255():
    # Squared errors 100 and 0: mean 50, unlike the mean of two PSNRs, which would be infinite.
    expected = 10 * math.log10(255**2 / 50)
    assert peak_signal_to_noise_ratio(constant(100), constant(110), constant(100)) == pytest.approx(expected)
    assert peak_signal_to_noise_ratio(constant(100), constant(100), constant(90)) == pytest.approx(expected)
    assert peak_signal_to_noise_ratio(constant(0), constant(255), constant(255)) == pytest.approx(0)


def test_psnr_of_equal_images_is_infinite():
    assert peak_signal_to_noise_ratio(constant(9), constant(9), constant(9)) == math.inf
