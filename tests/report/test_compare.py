"""All methods are measured alike, on the pairs that all have; ranks follow their definition."""

import csv
import logging
import math

import numpy as np
import pytest

from thfuse_sam.datasets.pairs import ImagePair, find_pairs
from thfuse_sam.errors import ImageSizeError, UsageError
from thfuse_sam.fusion.fusing import FusedPair
from thfuse_sam.images import luma, read_infrared, read_visible, write_image
from thfuse_sam.metrics import fusion_metrics
from thfuse_sam.report.compare import Comparison, Method, find_methods, mean_ranks, write_comparison


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


def seen(pair: ImagePair, metrics: dict[str, float]) -> FusedPair:
    infrared, visible = read_infrared(pair.ir), read_visible(pair.vi)
    return FusedPair(pair, pair.vi, infrared, infrared, visible, luma(visible), None, None, metrics)


@pytest.fixture
def pairs(make_pairs) -> list[ImagePair]:
    return find_pairs(make_pairs(("a/1", "b"))).pairs


def test_others_are_measured_as_fused_images_are(pairs, tmp_path) -> None:
    for pair in pairs:  # another suffix, and in colour
        write_image(tmp_path / "other" / f"{pair.name}.bmp", read_visible(pair.vi))
    (method,) = find_methods([str(tmp_path / "other")], pairs, ["own"])
    comparison = Comparison("own", [method], fusion_metrics)
    for pair in pairs:
        comparison.add(seen(pair, {"EN": 0.0}))
    infrared, visible = read_infrared(pairs[1].ir), luma(read_visible(pairs[1].vi))
    np.testing.assert_equal(comparison.values["b"][1], fusion_metrics(visible, infrared, visible))


def fixed():
    """Metrics that depend on the fused image's first pixel alone."""

    return lambda fused, ir, vi: {"up": float(fused[0, 0]), "down": float(fused[0, 0])}


def test_table_is_over_the_pairs_that_all_have(pairs, tmp_path, caplog) -> None:
    write_image(tmp_path / "other" / "b.png", np.full((32, 48), 7, np.uint8))
    with caplog.at_level(logging.WARNING):
        methods = find_methods([f"Better={tmp_path / 'other'}"], pairs, ["own"])
    assert "has 1 of 2 pairs" in caplog.text
    comparison = Comparison("own", methods, fixed())
    comparison.add(seen(pairs[0], {"up": 100.0, "down": 100.0}))
    comparison.add(seen(pairs[1], {"up": 5.0, "down": 5.0}))
    own, better = comparison.table({"up": "higher", "down": "lower"})
    assert comparison.shared_pairs == 1
    assert (own.images, better.images, better.name) == (2, 1, "Better")
    assert own.mean == {"up": 5.0, "down": 5.0} and better.mean == {"up": 7.0, "down": 7.0}
    assert own.ranks == {"up": 2.0, "down": 1.0} and own.mean_rank == 1.5
    write_comparison(tmp_path / "table.csv", [own, better])
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["method", "images", "mean_rank", "up", "down", "rank_up", "rank_down"]
    assert rows[1] == ["own", "2", "1.5", "5", "5", "2", "1"]


def test_unreadable_image_counts_as_missing(pairs, tmp_path, caplog) -> None:
    broken = tmp_path / "b.png"
    broken.write_bytes(b"no image")
    comparison = Comparison("own", [Method("other", {"b": broken})], fixed())
    comparison.add(seen(pairs[1], {"up": 1.0, "down": 1.0}))
    own, other = comparison.table({"up": "higher", "down": "lower"})
    assert other.images == 0 and math.isnan(own.mean_rank) and math.isnan(own.mean["up"])
    assert "left out" in caplog.text


def test_a_single_method_has_a_mean_and_no_rank(pairs) -> None:
    comparison = Comparison("own", [], fixed())
    comparison.add(seen(pairs[0], {"up": 1.0, "down": math.nan}))
    (own,) = comparison.table({"up": "higher", "down": "lower"})
    assert own.mean["up"] == 1.0 and math.isnan(own.mean["down"])
    assert own.ranks == {} and math.isnan(own.mean_rank)


def test_wrong_folders_are_refused(pairs, tmp_path) -> None:
    folder = tmp_path / "other"
    write_image(folder / "b.png", np.zeros((32, 48), np.uint8))
    with pytest.raises(UsageError, match="no such folder"):
        find_methods([str(tmp_path / "absent")], pairs, [])
    with pytest.raises(UsageError, match="'other' is taken"):
        find_methods([str(folder), f"other={folder}"], pairs, [])
    with pytest.raises(UsageError, match="NAME="):
        find_methods([f"own={folder}"], pairs, ["own"])
    with pytest.raises(UsageError, match="'a/1'"):
        (tmp_path / "empty").mkdir()
        find_methods([str(tmp_path / "empty")], pairs, [])
    write_image(folder / "a" / "1.png", np.zeros((32, 49), np.uint8))
    with pytest.raises(ImageSizeError, match=r"49x32.*48x32"):
        find_methods([str(folder)], pairs, [])
