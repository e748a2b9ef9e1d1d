"""Fitting a transformation to pairs of places of which some are wrong."""

import numpy as np
import numpy.typing as npt

from thfuse_sam.align.transform import Kind, Matrix, transformed

Places = npt.NDArray[np.float64]  # Nx2, (x, y)

LEAST_MATCHES = 6
_DRAWS = 1000  # pairs of places of which a similarity is tried
_ROUNDS = 8


def first_fit(source: Places, target: Places, tolerance: float) -> Matrix | None:
    """The similarity that takes most of `source` to `target` within `tolerance`; None: there is none.

    Each of many pairs of places gives a similarity; the one that most places agree with is taken (RANSAC, Fischler and
    Bolles, 1981). OpenCV's own ends the process where memory is short.
    """
    if len(source) < LEAST_MATCHES:
        return None
    # A similarity of the plane is a product and a sum of complex numbers.
    x, y = source @ (1, 1j), target @ (1, 1j)
    first, second = np.random.default_rng(0).integers(len(x), size=(2, _DRAWS))
    apart = np.abs(x[first] - x[second]) > tolerance
    if not apart.any():
        return None
    first, second = first[apart], second[apart]
    turn = (y[first] - y[second]) / (x[first] - x[second])
    move = y[first] - turn * x[first]
    agreeing = (np.abs(turn[:, None] * x + move[:, None] - y) <= tolerance).sum(axis=1)
    a, t = turn[best := int(agreeing.argmax())], move[best]
    return np.array([[a.real, -a.imag, t.real], [a.imag, a.real, t.imag], [0, 0, 1]])


def robust_fit(kind: Kind, source: Places, target: Places, tolerance: float, start: Matrix) -> Matrix:
    """The transformation of `kind` that takes `source` to `target`, by re-weighted least squares from `start`.

    A place that misses by `tolerance` has a quarter of the weight of one that hits (Geman and McClure's weights).
    """
    matrix = start
    for _ in range(_ROUNDS):
        misses = distances(matrix, source, target)
        matrix = least_squares(kind, source, target, (1 + (misses / tolerance) ** 2) ** -2.0)
    return matrix


def distances(matrix: Matrix, source: Places, target: Places) -> npt.NDArray[np.float64]:
    """By how much each of `source` misses its `target`."""
    return np.asarray(np.linalg.norm(transformed(source, matrix) - target, axis=1))


def least_squares(kind: Kind, source: Places, target: Places, weights: npt.NDArray[np.float64] | None = None) -> Matrix:
    """The transformation of `kind` from `source` to `target`, linear least squares; "size" changes nothing."""
    if kind == "size":
        return np.eye(3)
    # Places about their middle and of size 1, else sums of squares lose digits.
    middle, spread = source.mean(0), max(float(source.std()), 1.0)
    norm = np.array([[1 / spread, 0, -middle[0] / spread], [0, 1 / spread, -middle[1] / spread], [0, 0, 1]])
    (x, y), (u, v) = transformed(source, norm).T, transformed(target, norm).T
    zero, one = np.zeros_like(x), np.ones_like(x)
    if kind == "shift":
        rows, values = [[one, zero], [zero, one]], [u - x, v - y]
    elif kind == "similarity":
        rows, values = [[x, -y, one, zero], [y, x, zero, one]], [u, v]
    else:
        rows = [[x, y, one, zero, zero, zero, -x * u, -y * u], [zero, zero, zero, x, y, one, -x * v, -y * v]]
        values = [u, v]
    design = np.concatenate([np.stack(columns, 1) for columns in rows])
    root = np.ones(len(design)) if weights is None else np.sqrt(np.tile(weights, 2))
    p = np.linalg.lstsq(design * root[:, None], np.concatenate(values) * root, rcond=None)[0]
    if kind == "shift":
        inner = np.array([[1, 0, p[0]], [0, 1, p[1]], [0, 0, 1]])
    elif kind == "similarity":
        inner = np.array([[p[0], -p[1], p[2]], [p[1], p[0], p[3]], [0, 0, 1]])
    else:
        inner = np.append(p, 1.0).reshape(3, 3)
    matrix = np.linalg.inv(norm) @ inner @ norm
    return matrix / matrix[2, 2]
