import math

import numpy as np
import pytest

from thfuse_sam.metrics.gradient import average_gradient, edge_preservation, fusion_artefacts, spatial_frequency


def ramp(along_x, along_y, height=6, width=9):
    rows, columns = np.indices((height, width))
    return (along_x * columns + along_y * rows).astype(np.uint8)


@pytest.mark.parametrize(("along_x", "along_y"), [(3, 0), (0, 4), (3, 4)])
def test_ramps_have_their_slope_everywhere(along_x, along_y):
    slope = math.hypot(along_x, along_y)
    assert spatial_frequency(ramp(along_x, along_y)) == pytest.approx(slope)
    assert average_gradient(ramp(along_x, along_y)) == pytest.approx(slope / math.sqrt(2))


def test_spatial_frequency_of_a_checkerboard_does_not_wrap():
    board = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert spatial_frequency(board) == pytest.approx(255 * math.sqrt(2))
    # Central differences do not see it, one-sided ones at the border do.
    assert 0 < average_gradient(board) < 100


def test_average_gradient_takes_central_differences_inside_and_one_sided_ones_at_the_border():
    image = np.array([[0, 0, 8, 8]] * 2, dtype=np.uint8)
    assert average_gradient(image) == pytest.approx((0 + 4 + 4 + 0) / 4 / math.sqrt(2))
    image = np.array([[0, 8, 8, 8]] * 2, dtype=np.uint8)
    assert average_gradient(image) == pytest.approx((8 + 4 + 0 + 0) / 4 / math.sqrt(2))


def test_a_constant_image_has_no_gradient():
    image = np.full((5, 5), 200, dtype=np.uint8)
    assert spatial_frequency(image) == 0
    assert average_gradient(image) == 0


def sobel_at(padded, row, column):
    """Derivatives to the right and down at a pixel of the unpadded image."""
    window = padded[row : row + 3, column : column + 3]
    right = sum(weight * (window[i][2] - window[i][0]) for i, weight in enumerate((1, 2, 1)))
    down = sum(weight * (window[2][i] - window[0][i]) for i, weight in enumerate((1, 2, 1)))
    return float(right), float(down)


def naive_qabf(fused, *sources):
    padded = [np.pad(image.astype(int), 1) for image in (fused, *sources)]

    def edge(image, row, column):
        right, down = sobel_at(image, row, column)
        return math.hypot(right, down), math.pi / 2 if right == 0 else math.atan(-down / right)

    preserved = total = 0.0
    for row, column in np.ndindex(fused.shape):
        fused_strength, fused_angle = edge(padded[0], row, column)
        for source in padded[1:]:
            strength, angle = edge(source, row, column)
            if strength > fused_strength:
                ratio = fused_strength / strength
            elif strength < fused_strength:
                ratio = strength / fused_strength
            else:
                ratio = strength
            aligned = 1 - abs(angle - fused_angle) / (math.pi / 2)
            quality = 0.9994 / (1 + math.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + math.exp(-22 * (aligned - 0.8)))
            preserved += quality * strength
            total += strength
    return preserved / total


def naive_nabf(fused, *sources):
    padded = [np.pad(image.astype(int), 1, mode="reflect") for image in (fused, *sources)]

    def edge(image, row, column):
        right, down = sobel_at(image, row, column)
        upright = math.copysign(math.pi / 2, right) if right else 0.0
        angle = math.atan(right / down) if down else upright
        return math.hypot(right, down) / 8, angle

    artefacts = total = 0.0
    for row, column in np.ndindex(fused.shape):
        fused_strength, fused_angle = edge(padded[0], row, column)
        edges = [edge(source, row, column) for source in padded[1:]]
        is_artefact = all(fused_strength > strength for strength, _ in edges)
        for strength, angle in edges:
            weight = strength**1.5 if strength >= 2 else 0.001
            total += weight
            if is_artefact:
                ratio = strength / fused_strength
                aligned = abs(abs(angle - fused_angle) - math.pi / 2) * 2 / math.pi
                quality = 0.9999 / (1 + math.exp(-19 * (ratio - 0.5))) * 0.9995 / (1 + math.exp(-22 * (aligned - 0.5)))
                artefacts += (1 - math.sqrt(quality)) * weight
    return artefacts / total


def test_edge_preservation_equals_a_naive_computation(triple):
    expected = naive_qabf(*triple)
    assert 0.1 < expected < 0.9
    assert edge_preservation(*triple) == pytest.approx(expected, rel=1e-10)


def test_artefacts_equal_a_naive_computation(triple):
    expected = naive_nabf(*triple)
    assert expected > 1e-3
    assert fusion_artefacts(*triple) == pytest.approx(expected, rel=1e-10)


def test_artefacts_without_strong_edges_have_the_smallest_weight(triple):
    flat = np.full_like(triple.fused, 80)
    expected = naive_nabf(triple.fused, flat, flat)
    assert expected > 0.5
    assert fusion_artefacts(triple.fused, flat, flat) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("metric", [edge_preservation, fusion_artefacts])
def test_sources_may_be_swapped_but_not_with_the_fused_image(metric, triple):
    fused, infrared, visible = triple
    assert metric(fused, visible, infrared) == pytest.approx(metric(fused, infrared, visible), rel=1e-12)
    assert metric(infrared, fused, visible) != pytest.approx(metric(fused, infrared, visible), rel=0.05)


def test_an_invented_pattern_is_an_artefact_and_a_lost_one_is_not(triple):
    smooth = ramp(1, 1, 40, 40) + 20
    patterned = smooth + (np.indices(smooth.shape)[1] // 2 % 2 * 60).astype(np.uint8)
    assert fusion_artefacts(patterned, smooth, smooth) > 0.5
    assert fusion_artefacts(smooth, patterned, smooth) == 0


def test_equal_images_keep_all_edges_and_invent_none(triple):
    image = triple.visible
    # The sigmoids do not reach 1: the ceiling is 0.9994 * 0.9879 over (1 + exp(-22 * 0.2)).
    assert edge_preservation(image, image, image) == pytest.approx(0.9994 * 0.9879 / (1 + math.exp(-4.4)), rel=1e-3)
    assert fusion_artefacts(image, image, image) == 0


@pytest.mark.parametrize("level", [0, 128, 255])
def test_constant_images_are_defined(triple, level):
    flat = np.full_like(triple.fused, level)
    assert fusion_artefacts(flat, flat, flat) == 0
    assert fusion_artefacts(flat, triple.infrared, triple.visible) == 0
    assert 0 <= edge_preservation(flat, triple.infrared, triple.visible) < 0.2
    # Zeros outside the image: what is not black has edges along the border, and all of them are kept.
    assert edge_preservation(flat, flat, flat) == pytest.approx(0 if level == 0 else 0.9752, abs=1e-3)
    black = np.zeros_like(flat)
    assert edge_preservation(triple.fused, black, black) == 0
