"""Images and label maps that vit_nano learns from."""

import numpy as np

from tools.vit_nano.images import PADDING, fit_to_square, textured_shapes

SIZE = 64


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
