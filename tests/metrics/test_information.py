import math

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from thfuse_sam.metrics.information import entropy, mutual_information, visual_information_fidelity


def levels(*values):
    """A 16x16 image in which all given values are equally frequent."""
    return np.resize(np.array(values, dtype=np.uint8), (16, 16))


@pytest.mark.parametrize(
    ("image", "bits"),
    [(levels(7), 0.0), (levels(0, 255), 1.0), (levels(1, 2, 3, 4), 2.0), (levels(*range(256)), 8.0)],
)
def test_entropy_of_equally_frequent_levels(image, bits):
    assert entropy(image) == pytest.approx(bits, abs=1e-12)


def test_entropy_of_unequal_shares():
    image = levels(0, 0, 0, 9)
    assert entropy(image) == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))


def test_entropy_of_a_constant_image_has_no_minus_sign():
    assert math.copysign(1.0, entropy(levels(7))) == 1.0


def test_mutual_information_is_in_nats_and_summed_over_the_sources():
    image = levels(0, 255)
    assert mutual_information(image, image, 255 - image) == pytest.approx(2 * math.log(2))


def test_independent_images_share_no_information():
    rows, columns = np.indices((16, 16), dtype=np.uint8)
    assert mutual_information(rows, columns, levels(3)) == pytest.approx(0, abs=1e-12)


def test_mutual_information_counts_each_source_with_the_fused_image():
    rows, columns = np.indices((16, 16), dtype=np.uint8)
    # The sources share nothing with each other; only the one that was copied counts.
    assert mutual_information(rows, rows, columns) == pytest.approx(math.log(16))
    assert mutual_information(columns, rows, columns) == pytest.approx(math.log(16))
    assert mutual_information(columns, rows, rows) == pytest.approx(0, abs=1e-12)


def naive_vif(reference, distorted):
    """Pixel-domain VIF with 2-D windows, step by step as in the authors' description."""
    reference, distorted = reference.astype(float), distorted.astype(float)
    kept = available = 0.0
    for scale in range(1, 5):
        size = 2 ** (5 - scale) + 1
        offsets = np.arange(size) - size // 2
        window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * (size / 5) ** 2))
        window /= window.sum()

        def mean(image, window=window):
            return np.einsum("ijkl,kl->ij", sliding_window_view(image, window.shape), window)

        if scale > 1:
            reference, distorted = mean(reference)[::2, ::2], mean(distorted)[::2, ::2]
        for row in range(reference.shape[0] - size + 1):
            for column in range(reference.shape[1] - size + 1):
                x = reference[row : row + size, column : column + size]
                y = distorted[row : row + size, column : column + size]
                x, y = x - (window * x).sum(), y - (window * y).sum()
                var_x, var_y, cov = (window * x * x).sum(), (window * y * y).sum(), (window * x * y).sum()
                available += math.log10(1 + var_x / 2)
                if var_x > 1e-10 and var_y > 1e-10 and cov > 0:
                    gain = cov / var_x
                    kept += math.log10(1 + gain**2 * var_x / (var_y - gain * cov + 2))
    return kept / available


def test_vif_equals_a_naive_computation(triple):
    fused, infrared, visible = triple
    expected = naive_vif(infrared, fused) + naive_vif(visible, fused)
    assert 0.1 < expected < 1.9
    assert visual_information_fidelity(fused, infrared, visible) == pytest.approx(expected, rel=1e-8)


def test_vif_of_equal_images_counts_one_for_each_source(triple):
    image = triple.visible
    assert visual_information_fidelity(image, image, image) == pytest.approx(2)


def test_vif_of_higher_contrast_exceeds_one_and_is_not_symmetric_in_fused_and_source(triple):
    source = triple.infrared // 2
    stretched = source * 2
    assert visual_information_fidelity(stretched, source, source) > 2
    assert visual_information_fidelity(source, stretched, stretched) < 2


def test_inverted_contrast_carries_no_information(triple):
    image = triple.visible
    assert visual_information_fidelity(255 - image, image, image) < 0.1


@pytest.mark.parametrize("level", [0, 3, 255])
def test_vif_with_constant_images(triple, level):
    constant = np.full_like(triple.visible, level)
    assert visual_information_fidelity(constant, constant, constant) == 2
    assert visual_information_fidelity(triple.fused, constant, constant) == 2
    assert visual_information_fidelity(constant, triple.infrared, triple.visible) == 0


def test_vif_is_undefined_below_41_pixels(triple):
    smallest = [image[:41, :45] for image in triple]
    assert math.isfinite(visual_information_fidelity(*smallest))
    assert math.isnan(visual_information_fidelity(*(image[:40] for image in smallest)))
    assert math.isnan(visual_information_fidelity(*(image[:, :40] for image in smallest)))
