import math

import numpy as np

from thfuse_sam.metrics.ranks import mean_ranks, rank_intervals


def test_mean_ranks_by_hand() -> None:
    nan = math.nan
    scores = np.array(
        [
            [[3.0, 1.0, nan], [2.0, 1.0, 5.0], [1.0, 0.0, 6.0]],  # second metric: two share ranks 1 and 2
            [[1.0, 9.0, nan], [2.0, 5.0, 5.0], [3.0, 7.0, 6.0]],
            [[nan, 9.0, nan], [2.0, 5.0, 5.0], [3.0, 7.0, 6.0]],  # does not count for the first metric
        ]
    )
    ranks = mean_ranks(scores)
    np.testing.assert_allclose(ranks[:, 0], [2, 2, 2])
    np.testing.assert_allclose(ranks[:, 1], [(1.5 + 1 + 1) / 3, (1.5 + 3 + 3) / 3, (3 + 2 + 2) / 3])
    assert np.isnan(ranks[:, 2]).all()


def test_intervals_hold_the_mean_rank_and_narrow_with_more_pairs() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(200, 3, 4)) + np.array([0.5, 0.0, -0.5])[:, None]
    scores[0, :, 0] = math.nan  # a metric that is undefined for a pair
    few, many = rank_intervals(scores[:12]), rank_intervals(scores)
    assert many.shape == (3, 2) and np.array_equal(many, rank_intervals(scores))
    means = mean_ranks(scores).mean(axis=1)
    assert (many[:, 0] < means).all() and (means < many[:, 1]).all()
    assert (np.diff(many) < np.diff(few)).all()
    assert many[0, 1] < many[1, 0]  # the first method is ahead beyond chance
    assert np.isnan(rank_intervals(scores[:0])).all()
    assert np.isnan(rank_intervals(np.full((4, 2, 3), math.nan))).all()
