import cv2
import numpy as np
import pytest

from tests.align.scenes import SIZE, moved, pair
from thfuse_sam.align.estimate import QUICK, by_size, estimate_alignment
from thfuse_sam.align.transform import corner_distance, fitted


@pytest.mark.parametrize(
    ("degrees", "scale", "shift"), [(0, 1, (0, 0)), (4, 1.08, (14, -9)), (-5, 0.91, (-20, 12)), (2, 1.0, (-18, -18))]
)
def test_known_movements_are_found(degrees, scale, shift) -> None:
    infrared, visible = pair()
    image, truth = moved(infrared, degrees, scale, shift)
    found = estimate_alignment(image, visible)
    assert found.confident and corner_distance(found.matrix, truth, SIZE) < 0.5
    assert found.offset == pytest.approx(corner_distance(truth, np.eye(3), SIZE) / SIZE[1], abs=0.003)


def test_infrared_of_half_the_size() -> None:
    infrared, visible = pair(1)
    image, truth = moved(infrared, 3, 1.05, (10, 5))
    half = cv2.resize(image, (SIZE[1] // 2, SIZE[0] // 2), interpolation=cv2.INTER_AREA)
    found = estimate_alignment(half, visible)
    ideal = truth @ fitted(half.shape, SIZE)
    assert found.confident and corner_distance(found.matrix, ideal, half.shape) < 0.7


def test_a_shift_turns_and_scales_nothing() -> None:
    infrared, visible = pair(2)
    image, truth = moved(infrared, 0, 1, (13, -6))
    found = estimate_alignment(image, visible, "shift")
    assert found.kind == "shift" and np.array_equal(found.matrix[:2, :2], np.eye(2))
    assert found.matrix[:2, 2] == pytest.approx(truth[:2, 2], abs=0.3)


def test_a_homography_only_where_it_explains_more() -> None:
    infrared, visible = pair(3)
    truth = np.array([[1, 0.01, 2], [0, 1, -3], [1e-4, -1.5e-4, 1]])
    image = cv2.warpPerspective(infrared, np.linalg.inv(truth), SIZE[::-1], flags=cv2.INTER_CUBIC)
    bent, straight = (estimate_alignment(image, visible, kind) for kind in ("homography", "similarity"))
    assert bent.kind == "homography" and bent.confident
    assert corner_distance(bent.matrix, truth, SIZE) < 0.5 * corner_distance(straight.matrix, truth, SIZE)
    assert estimate_alignment(moved(infrared, 2, 1, (5, 5))[0], visible, "homography").kind == "similarity"


def test_a_homography_does_not_bend_to_near_things() -> None:
    infrared, visible = pair(1)
    near = infrared[132:].copy()
    infrared[132:, 3:] = near[:, :-3]  # the lower half lies 3 pixels elsewhere
    found = estimate_alignment(moved(infrared, 2, 1.02, (8, 5))[0], visible, "homography")
    assert found.kind == "similarity" and found.confident


def test_unlike_images_are_left_as_they_are() -> None:
    infrared, visible = pair(4)[0], pair(5)[1]
    found = estimate_alignment(infrared, visible)
    assert not found.confident and np.array_equal(found.applied, np.eye(3))
    assert not estimate_alignment(infrared, visible, search=QUICK).confident


@pytest.mark.parametrize("turned", [np.fliplr, np.flipud, np.rot90, lambda image: image[::-1, ::-1]])
def test_mirrored_and_turned_images_are_left_as_they_are(turned) -> None:
    infrared, visible = pair(7)
    assert estimate_alignment(infrared, visible).confident
    assert not estimate_alignment(np.ascontiguousarray(turned(infrared)), visible).confident


@pytest.mark.parametrize("flat", [(0, 0), (0, 1), (1, 0)])
def test_images_without_structure(flat) -> None:
    images = [np.full(SIZE, 80, np.uint8) if is_flat else image for is_flat, image in zip(flat, pair(), strict=True)]
    if flat == (0, 0):
        images = [np.zeros(SIZE, np.uint8)] * 2
    assert not estimate_alignment(*images).confident


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (16, 16)])
def test_tiny_images(size) -> None:
    assert not estimate_alignment(np.full(size, 9, np.uint8), np.full(size, 9, np.uint8)).confident


def test_noise_in_small_images_is_left_as_it_is() -> None:
    infrared, visible = np.random.default_rng(0).integers(0, 256, (2, 104, 104), dtype=np.uint8)
    found = estimate_alignment(infrared, visible)
    assert found.blocks > 95 and not found.confident and "smaller than 128 pixels" in str(found)


def test_the_quick_look_agrees_with_the_full_search() -> None:
    infrared, visible = pair(6)
    image, truth = moved(infrared, 0, 1, (16, 4))
    found = estimate_alignment(image, visible, search=QUICK)
    assert found.confident and corner_distance(found.matrix, truth, SIZE) < 2
    assert estimate_alignment(infrared, visible, search=QUICK).offset < 0.005


def test_other_proportions_keep_pixels_square() -> None:
    matrix = by_size((256, 320), (480, 640)).matrix
    assert matrix[0, 0] == matrix[1, 1] == 480 / 256
    assert (matrix @ [159.5, 127.5, 1])[:2] == pytest.approx([319.5, 239.5])
