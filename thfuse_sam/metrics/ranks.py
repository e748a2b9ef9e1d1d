"""Mean ranks of methods over pairs and metrics, and how sure they are."""

import math

import numpy as np
import numpy.typing as npt

DRAWS = 1000  # bootstrap samples of the pairs
INTERVAL = (2.5, 97.5)  # percentiles of the mean ranks in them


def mean_ranks(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean rank of each method by each metric: pairs x methods x metrics, larger is better -> methods x metrics.

    Rank 1 is the best; equal values share the mean of their ranks. A pair counts for a metric if the metric is defined
    for every method; nan if there is no such pair.
    """
    return _weighted_mean_ranks(scores, np.ones((1, len(scores))))[0]


def rank_intervals(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """95 % interval of each method's mean rank over all metrics: scores as of `mean_ranks` -> methods x 2 (low, high).

    A bootstrap over pairs (B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979):
    the percentiles of the mean ranks in samples of as many pairs, drawn with replacement. nan without pairs.
    """
    undefined = np.full((scores.shape[1], 2), math.nan)
    if not len(scores):
        return undefined
    draws = np.random.default_rng(0).multinomial(len(scores), [1 / len(scores)] * len(scores), DRAWS)
    ranks = _weighted_mean_ranks(scores, draws.astype(float))  # draws x methods x metrics
    defined = np.isfinite(ranks)
    means = np.where(defined, ranks, 0).sum(axis=2) / np.maximum(defined.sum(axis=2), 1)
    means = means[np.all(defined.any(axis=2), axis=1)]
    return np.percentile(means, INTERVAL, axis=0).T if len(means) else undefined


def _weighted_mean_ranks(scores: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`mean_ranks` for several weightings of the pairs: weights draws x pairs -> draws x methods x metrics."""
    ranks = np.empty(scores.shape)
    for method in range(scores.shape[1]):
        own = scores[:, method : method + 1]
        ranks[:, method] = 1 + (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) - 1) / 2
    defined = np.logical_not(np.isnan(scores).any(axis=1))  # pairs x metrics
    counts = (weights @ defined)[:, np.newaxis]
    sums = np.tensordot(weights, np.where(defined[:, np.newaxis], ranks, 0.0), axes=1)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), math.nan))
