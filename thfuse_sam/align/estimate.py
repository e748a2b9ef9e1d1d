"""Estimating how an infrared image lies on the visible image of the same scene, and how sure that is.

Edges of both are compared by their orientation alone. A search at a small size over rotations, scales and shifts gives
candidates; blocks of the image are matched for each, and the one on which most blocks agree is refined at larger sizes.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from thfuse_sam.align.fitting import LEAST_MATCHES, Places, distances, first_fit, least_squares, robust_fit
from thfuse_sam.align.matching import COARSE_LENGTH, Level, Matches, Pair, candidates, match_blocks
from thfuse_sam.align.transform import Kind, Matrix, corner_distance, fitted, folds, inverse, transformed
from thfuse_sam.arrays import ImageArray, Mask, Size, size_of

_INSIDE = 1.5  # times the tolerance: a block that the transformation takes to its place
_RIVAL = 0.5  # times the blocks of the best candidate: another one that is refined as well
_DIFFERENT = 0.01  # share of the width, by which its corners lie elsewhere
_EQUAL, _ELSEWHERE = 0.8, 0.006  # the same, when both are refined: neither is sure
_FIRST = 8  # candidates that are tried in any case
_LEAST_IN_QUARTER = 8  # blocks in each quarter of the image that support a homography
_CLEARLY = 0.7  # times the misses of a similarity: a homography also bends to near and far things


@dataclass(frozen=True)
class Search:
    """How a transformation is looked for."""

    degrees: tuple[float, ...]
    scales: tuple[float, ...]
    candidates: int  # rotations and scales that are tried with blocks, at most
    enough_blocks: int  # with so many of them no other candidate is tried
    levels: tuple[Level, ...]  # the first one chooses between the candidates
    least_blocks: int  # of a confident estimate
    least_share: float  # of the blocks that were found
    most_disagreement: float  # share of the width


FULL = Search(
    degrees=(-6, -4, -2, 0, 2, 4, 6),
    scales=tuple(1.04**step for step in range(-3, 4)),
    candidates=32,
    enough_blocks=30,
    levels=(
        Level(320, 48, 9, 24, 2.5),
        Level(320, 64, 5, 24, 2.0),
        Level(640, 96, 6, 24, 2.5),
        Level(640, 96, 4, 24, 2.0),
    ),
    least_blocks=95,
    least_share=0.5,
    most_disagreement=0.012,
)
QUICK = Search(
    degrees=(-2, 0, 2),
    scales=(0.96, 1.0, 1.04),
    candidates=4,
    enough_blocks=30,
    levels=(Level(240, 40, 8, 20, 2.0), Level(240, 48, 5, 16, 1.5)),
    least_blocks=20,
    least_share=0.5,
    most_disagreement=0.02,
)


def _no_places() -> Places:
    return np.empty((0, 2))


@dataclass(frozen=True)
class Alignment:
    """How an infrared image lies on the visible one."""

    matrix: Matrix  # 3x3, from the infrared image as it is stored to the visible image
    ir_size: Size
    vi_size: Size
    kind: Kind
    confident: bool
    blocks: int = 0  # parts of the image that agree on it
    share: float = 0.0  # of the parts that were found at all
    disagreement: float = float("inf")  # how differently halves of the image would decide, share of the width
    source: Places = dataclasses.field(default_factory=_no_places, repr=False)  # middles of those parts, infrared image
    target: Places = dataclasses.field(default_factory=_no_places, repr=False)  # and where they are in the visible one

    @property
    def resampled(self) -> Matrix:
        """The matrix that only resamples the infrared image."""
        return fitted(self.ir_size, self.vi_size)

    @property
    def applied(self) -> Matrix:
        """The matrix to use: where the estimate is not confident, the infrared image is only resampled."""
        return self.matrix if self.confident else self.resampled

    @property
    def offset(self) -> float:
        """Mean distance of the corners from where resampling alone would put them, share of the width."""
        return corner_distance(self.matrix, self.resampled, self.ir_size) / self.vi_size[1]

    def __str__(self) -> str:
        """For people, in one line."""
        if self.kind == "size":
            return "resampled"
        if not self.confident:
            is_small = max(self.vi_size) < COARSE_LENGTH
            small = f"the visible image is smaller than {COARSE_LENGTH} pixels"
            return f"left as it is: {small if is_small else 'too little structure agrees'}"
        agreed = f"; {self.blocks} parts of the image agree" if self.blocks else ""
        return f"{self.kind}, moved by {100 * self.offset:.1f} % of the width{agreed}"


def by_size(ir_size: Size, vi_size: Size) -> Alignment:
    """The alignment that only resamples the infrared image."""
    return Alignment(fitted(ir_size, vi_size), ir_size, vi_size, "size", True, disagreement=0.0)


def estimate_alignment(
    infrared: ImageArray, visible: ImageArray, kind: Kind = "similarity", search: Search = FULL
) -> Alignment:
    """Estimate how `infrared` lies on `visible`, both uint8 HxW, luma, of any sizes.

    A homography is fitted only where blocks that took no part confirm it, else a similarity. Each kind fits one
    distance from the cameras; it is the one at which most blocks lie.
    """
    pair = Pair(infrared, visible)
    ir_size = size_of(infrared)
    if kind == "size":
        return by_size(ir_size, pair.size)
    rigid: Kind = "shift" if kind == "shift" else "similarity"
    refined = [_refined(pair, start, search.levels[1:]) for start in _starts(pair, rigid, search)]
    fits = sorted((fit for fit in refined if fit is not None), key=lambda fit: -fit.blocks)
    if not fits:
        return Alignment(pair.start, ir_size, pair.size, rigid, False)
    fit = fits[0]
    if kind == "homography" and _is_bent(fit, pair.size):
        fit = _fit_blocks(pair, fit.after, kind, search.levels[-1]) or fit
    found = _judged(fit, pair, ir_size, search)
    return dataclasses.replace(found, confident=found.confident and not _is_rivalled(fits, pair.size))


@dataclass(frozen=True)
class _Fit:
    """A correction, and the blocks that it was fitted to."""

    kind: Kind
    before: Matrix  # the correction after which the blocks were matched
    step: Matrix  # what they add to it
    matches: Matches
    tolerance: float  # pixels of the visible image

    @property
    def after(self) -> Matrix:
        return self.step @ self.before

    @property
    def blocks(self) -> int:
        """How many blocks agree."""
        return int(self.inside.sum())

    @cached_property
    def inside(self) -> Mask:
        """Which blocks agree."""
        return distances(self.step, self.matches.source, self.matches.target) < _INSIDE * self.tolerance


def _starts(pair: Pair, kind: Kind, search: Search) -> list[_Fit]:
    """The first correction on which enough blocks agree, or that on which most do; and a quite different one, if about
    as many agree on it, because near and far things of a scene lie differently. None where blocks agree on none.
    """
    degrees, scales = ((0.0,), (1.0,)) if kind == "shift" else (search.degrees, search.scales)
    fits: list[_Fit] = []
    tried = [np.eye(3), *candidates(pair, degrees, scales)[: search.candidates]]
    for number, candidate in enumerate(tried):
        if number > _FIRST and fits and max(fit.blocks for fit in fits) >= search.enough_blocks:
            break
        fit = _fit_blocks(pair, candidate, kind, search.levels[0])
        fits += [] if fit is None else [fit]
    fits.sort(key=lambda fit: -fit.blocks)
    others = [
        fit
        for fit in fits[1:]
        if fit.blocks > _RIVAL * fits[0].blocks
        and corner_distance(fit.after, fits[0].after, pair.size) > _DIFFERENT * pair.size[1]
    ]
    return fits[:1] + others[:1]


def _is_rivalled(fits: Sequence[_Fit], size: Size) -> bool:
    """Whether nearly as many blocks as on the first fit agree on another one that lies elsewhere: a scene with near and
    far things shows several, and which of them comes first is chance.
    """
    first = fits[0]
    return any(
        fit.blocks >= _EQUAL * first.blocks and corner_distance(fit.after, first.after, size) > _ELSEWHERE * size[1]
        for fit in fits[1:]
    )


def _refined(pair: Pair, fit: _Fit, levels: Sequence[Level]) -> _Fit | None:
    """The fit of the last level; None: at one of them blocks agree on nothing."""
    for level in levels:
        finer = _fit_blocks(pair, fit.after, fit.kind, level)
        if finer is None:
            return None
        fit = finer
    return fit


def _fit_blocks(pair: Pair, correction: Matrix, kind: Kind, level: Level) -> _Fit | None:
    """Match blocks after `correction` and fit what they add to it; None: they agree on nothing."""
    matches = match_blocks(pair, correction, level)
    tolerance = level.tolerance * max(pair.size) / level.length
    start = first_fit(matches.source, matches.target, tolerance)
    if start is None:
        return None
    step = robust_fit(kind, matches.source, matches.target, tolerance, start)
    return None if folds(step, pair.size) else _Fit(kind, correction, step, matches, tolerance)


def _judged(fit: _Fit, pair: Pair, ir_size: Size, search: Search) -> Alignment:
    """The alignment of the last fit, and whether it is to be trusted."""
    inside = fit.inside
    source, target = fit.matches.source[inside], fit.matches.target[inside]
    blocks, share = int(inside.sum()), float(inside.mean())
    disagreement = _disagreement(transformed(source, fit.step), target, pair.size)
    is_sure = blocks >= search.least_blocks and share >= search.least_share and disagreement <= search.most_disagreement
    is_sure = is_sure and max(pair.size) >= COARSE_LENGTH  # of less, blocks share so many pixels that noise agrees, too
    own_source = transformed(source, inverse(fit.before @ pair.start))
    return Alignment(
        fit.after @ pair.start, ir_size, pair.size, fit.kind, is_sure, blocks, share, disagreement, own_source, target
    )


def _disagreement(source: Places, target: Places, size: Size) -> float:
    """The largest distance of the corners, share of the width, between what halves of the blocks would still change:
    left and right, upper and lower, every other one.
    """
    x, y = source.T
    largest = 0.0
    for half in (x < np.median(x), y < np.median(y), np.arange(len(x)) % 2 == 0):
        if min(half.sum(), (~half).sum()) < LEAST_MATCHES:
            return float("inf")
        one, other = (least_squares("similarity", source[part], target[part]) for part in (half, ~half))
        largest = max(largest, corner_distance(one, other, size))
    return largest / size[1]


def _is_bent(fit: _Fit, size: Size) -> bool:
    """Whether a homography of half the blocks predicts the other half clearly better than a similarity does."""
    source, target = fit.matches.source, fit.matches.target
    x, y = source.T
    quarter = 2 * (x < size[1] / 2) + (y < size[0] / 2)
    if np.bincount(quarter.astype(int), minlength=4).min() < _LEAST_IN_QUARTER:
        return False
    misses: dict[Kind, float] = {"similarity": 0.0, "homography": 0.0}
    even = np.arange(len(x)) % 2 == 0
    for part in (even, ~even):
        for kind in misses:
            step = robust_fit(kind, source[part], target[part], fit.tolerance, fit.step)
            misses[kind] += float(np.median(distances(step, source[~part], target[~part])))
    return misses["homography"] < _CLEARLY * misses["similarity"]
