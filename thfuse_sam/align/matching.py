"""Finding where parts of an infrared image lie in the visible image, on the orientation of edges."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from thfuse_sam.align.fitting import Places
from thfuse_sam.align.structure import Float, measured_area, orientations
from thfuse_sam.align.transform import Matrix, fitted, inverse, scaling, similarity, warp
from thfuse_sam.arrays import Array, ImageArray, Size, size_of

COARSE_LENGTH = 128  # pixels of the longer side in the search over rotations and scales
MAX_SHIFT = 0.12  # share of the width
_LEAST_EDGES = 0.02  # mean squared length of the orientations in a block that is worth a search
_LEAST_SCORE = 0.1  # normalised correlation
_LEAST_VALID = 0.8  # share of a block's pixels that the infrared image shows
_RIM = 3  # pixels beside an image's border whose gradients are the border's


@dataclass(frozen=True)
class Level:
    """One round of block matching. Lengths are pixels of the images at this level."""

    length: int  # of the longer side
    block: int
    reach: int  # how far a block is searched, each way
    step: int  # from block to block
    tolerance: float  # of a place that counts as hit


@dataclass(frozen=True)
class Matches:
    """Blocks of the infrared image that were found in the visible one; places in pixels of the visible image."""

    source: Places  # where the transformation so far puts them
    target: Places  # where they were found


class Pair:
    """An infrared and a visible image, ready to be matched at several sizes.

    `start` takes the infrared image to the visible one by its size alone. All other matrices here are corrections:
    they take places of the visible image, as `start` reaches them, to where they belong.
    """

    def __init__(self, infrared: ImageArray, visible: ImageArray) -> None:
        """Both uint8 HxW, of any sizes."""
        self.size = size_of(visible)
        self._infrared, self._visible = infrared.astype(np.float32), visible.astype(np.float32)
        self._ir_shown, self._vi_shown = measured_area(infrared), measured_area(visible)
        self._ir_size = size_of(infrared)
        self.start = fitted(self._ir_size, self.size)
        self._scaled: dict[int, tuple[Float, Float, Float, Matrix, Matrix]] = {}

    def placed(self, correction: Matrix, length: int) -> tuple[Float, Float]:
        """The infrared image's orientations HxWx2 after `correction`, 0 where it shows nothing, and where it does."""
        infrared, shown, visible, to_level, from_own = self._at(length)
        size = size_of(visible)
        matrix = to_level @ correction @ from_own
        mask = _eroded(warp(shown, matrix, size))
        return orientations(warp(infrared, matrix, size, border=None)) * mask[..., None], mask

    def visible_at(self, length: int) -> tuple[Float, Matrix]:
        """The visible image's orientations HxWx2, and the matrix from the visible image to this level."""
        _, _, visible, to_level, _ = self._at(length)
        return visible, to_level

    def _at(self, length: int) -> tuple[Float, Float, Float, Matrix, Matrix]:
        """Infrared image, what it shows, orientations of the visible one, and the matrices from the visible image to
        the level, and from the level's infrared image to the visible image.
        """
        if length not in self._scaled:
            factor = length / max(self.size)
            size = _scaled(self.size, factor, factor)
            own = _scaled(self._ir_size, factor * self.start[1, 1], factor * self.start[0, 0])
            shown = _eroded(_resized(self._vi_shown, size))
            self._scaled[length] = (
                _resized(self._infrared, own),
                _resized(self._ir_shown, own),
                orientations(_resized(self._visible, size)) * shown[..., None],
                scaling(self.size, size),
                self.start @ scaling(own, self._ir_size),
            )
        return self._scaled[length]


def candidates(pair: Pair, degrees: Sequence[float], scales: Sequence[float]) -> list[Matrix]:
    """Corrections to try, the most promising first: for each rotation and scale the shift with the highest correlation
    of orientations.
    """
    visible, to_level = pair.visible_at(COARSE_LENGTH)
    height, width = visible.shape[:2]
    window = np.sqrt(np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])).astype(np.float32)[..., None]
    reach = int(MAX_SHIFT * width)
    spectrum = cv2.dft(visible * window)
    found = []
    for angle in degrees:
        for scale in scales:
            placed = pair.placed(similarity(angle, scale, (0, 0), pair.size), COARSE_LENGTH)[0] * window
            product = cv2.mulSpectrums(spectrum, cv2.dft(placed), 0, conjB=True)
            correlation = cv2.idft(product)[..., 0] / (np.linalg.norm(placed) + 1e-6)
            near = np.roll(correlation, (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]
            _, score, _, (x, y) = cv2.minMaxLoc(np.ascontiguousarray(near))
            found.append((score, angle, scale, x - reach, y - reach))
    found.sort(reverse=True)
    x_step, y_step = 1 / to_level[0, 0], 1 / to_level[1, 1]
    return [similarity(angle, scale, (x * x_step, y * y_step), pair.size) for _, angle, scale, x, y in found]


def match_blocks(pair: Pair, correction: Matrix, level: Level) -> Matches:
    """Search blocks of the infrared image, after `correction`, in the visible one near the same place."""
    visible, to_level = pair.visible_at(level.length)
    infrared, shown = pair.placed(correction, level.length)
    side, reach = level.block, level.reach
    enough = _sums(shown, side) >= _LEAST_VALID * side**2
    enough &= _sums((infrared**2).sum(2), side) >= _LEAST_EDGES * side**2
    source, target = [], []
    height, width = visible.shape[:2]
    for top in range(reach, height - side - reach + 1, level.step):
        for left in range(reach, width - side - reach + 1, level.step):
            if not enough[top, left]:
                continue
            around = visible[top - reach : top + side + reach, left - reach : left + side + reach]
            score = cv2.matchTemplate(around, infrared[top : top + side, left : left + side], cv2.TM_CCORR_NORMED)
            peak = _peak(score)
            if peak is not None:
                middle = (left + (side - 1) / 2, top + (side - 1) / 2)
                source.append(middle)
                target.append((middle[0] + peak[0] - reach, middle[1] + peak[1] - reach))
    places = np.array([source, target], np.float64).reshape(2, -1, 2)
    back = inverse(to_level)
    scale, offset = np.diag(back)[:2], back[:2, 2]
    return Matches(places[0] * scale + offset, places[1] * scale + offset)


def _peak(score: Array) -> tuple[float, float] | None:
    """The place (x, y) of the highest score to a part of a pixel; None if it is too low or at the border."""
    _, best, _, (x, y) = cv2.minMaxLoc(score)
    if best < _LEAST_SCORE or not (0 < x < score.shape[1] - 1 and 0 < y < score.shape[0] - 1):
        return None
    left, right, above, below = score[y, x - 1], score[y, x + 1], score[y - 1, x], score[y + 1, x]
    return (
        x + (right - left) / (2 * (2 * best - left - right) + 1e-9),  # summit of the parabola through three scores
        y + (below - above) / (2 * (2 * best - above - below) + 1e-9),
    )


def _sums(values: Array, side: int) -> npt.NDArray[np.float64]:
    """Sum of each square of `side` pixels, at the place of its top left pixel."""
    table = cv2.integral(values)
    return np.asarray(table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side])


def _eroded(shown: Float) -> Float:
    """1 where all pixels around are shown entirely, else 0."""
    whole = (shown > 0.99).astype(np.float32)
    return np.asarray(cv2.erode(whole, np.ones((2 * _RIM + 1,) * 2)), np.float32)


def _scaled(size: Size, y: float, x: float) -> Size:
    return max(1, round(size[0] * y)), max(1, round(size[1] * x))


def _resized(image: Float, size: Size) -> Float:
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.float32)
