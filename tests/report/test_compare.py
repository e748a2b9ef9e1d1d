"""All methods are measured alike, on the pairs that all have."""

import csv
import dataclasses
import logging
import math

import numpy as np
import pytest

from thfuse_sam.datasets.pairs import ImagePair, find_pairs
from thfuse_sam.datasets.targets import TargetSet
from thfuse_sam.errors import UsageError
from thfuse_sam.fusion.fusing import FusedPair
from thfuse_sam.images import luma, read_infrared, read_visible, write_image, write_numbers
from thfuse_sam.metrics import METRICS, fusion_metrics, natural_metrics
from thfuse_sam.metrics.targets import Target
from thfuse_sam.report.compare import Comparison, Method, find_methods
from thfuse_sam.report.measures import targets_text, write_comparison, write_metrics, write_targets
from thfuse_sam.thermal import AS_STORED, InfraredReading


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
        comparison.add(seen(pair, dict.fromkeys(METRICS, 0.0)))
    infrared, visible = read_infrared(pairs[1].ir), luma(read_visible(pairs[1].vi))
    rgb = read_visible(pairs[1].vi)
    expected = {**fusion_metrics(visible, infrared, visible), **natural_metrics(visible, rgb, infrared, visible, rgb)}
    np.testing.assert_equal(comparison.values["b"][1], expected)
    assert [len(row.mean) for row in comparison.table()] == [16, 16]


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
    own, better = comparison.table({"up": "higher", "down": "lower"}, None)
    assert comparison.shared_pairs == 1 and comparison.left_out == {"a/1": "Better: no fused image"}
    assert comparison.caption()[0] == "Means over 1 of 2 pairs."
    assert "1 pair left out of every row: a/1 (Better: no fused image)." in comparison.caption()
    assert (own.images, better.images, better.name) == (2, 1, "Better")
    assert own.mean == {"up": 5.0, "down": 5.0} and better.mean == {"up": 7.0, "down": 7.0}
    assert own.ranks == {"up": 2.0, "down": 1.0} and own.mean_rank == 1.5
    write_comparison(tmp_path, [own, better])
    with (tmp_path / "comparison.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    head = ["method", "images", "mean_rank", "rank_low", "rank_high", "seconds"]
    assert rows[0] == [*head, "up", "down", "rank_up", "rank_down"]
    assert rows[1] == ["own", "2", "1.5", "1.5", "1.5", "", "5", "5", "2", "1"]


def test_unreadable_image_counts_as_missing(pairs, tmp_path, caplog) -> None:
    broken = tmp_path / "b.png"
    broken.write_bytes(b"no image")
    comparison = Comparison("own", [Method("other", {"b": broken})], fixed())
    comparison.add(seen(pairs[1], {"up": 1.0, "down": 1.0}))
    own, other = comparison.table({"up": "higher", "down": "lower"}, None)
    assert other.images == 0 and math.isnan(own.mean_rank) and math.isnan(own.mean["up"])
    assert "left out" in caplog.text


def test_a_single_method_has_a_mean_and_no_rank(pairs) -> None:
    comparison = Comparison("own", [], fixed())
    comparison.add(seen(pairs[0], {"up": 1.0, "down": math.nan}))
    (own,) = comparison.table({"up": "higher", "down": "lower"}, None)
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


@pytest.mark.parametrize(
    ("now", "remedy"),
    [
        (AS_STORED, "give `ir_polarity` black-hot and give `ir_range` 0 40000"),
        (InfraredReading((0, 40_000), gray=True, polarity="black-hot"), "leave `ir_gray` out"),
        (InfraredReading((0, 40_000), polarity="black-hot"), None),
    ],
)
def test_images_of_another_reading_are_told(pairs, tmp_path, caplog, now, remedy) -> None:
    write_image(tmp_path / "b.png", np.zeros((32, 48), np.uint8))
    write_image(tmp_path / "a" / "1.png", np.zeros((32, 48), np.uint8))
    for pair in pairs:
        write_numbers(pair.ir, np.full((32, 48), 2000, np.uint16))
    here = [dataclasses.replace(pair, reading=now) for pair in pairs]
    write_metrics(tmp_path, {}, "net", reading=InfraredReading((0, 40_000), polarity="black-hot"))
    find_methods([f"x={tmp_path}"], here, [])
    line = f"{tmp_path}: these images were fused of infrared images that are read in another way here; {remedy}"
    assert caplog.messages == ([] if remedy is None else [line])
    caplog.clear()
    for text in ("", "[]", "{}", '{"infrared": 3}', "[" * 100_000):
        (tmp_path / "metrics.json").write_text(text)
        find_methods([f"x={tmp_path}"], here, [])
    assert not caplog.messages


def test_images_of_another_size_count_as_missing(pairs, tmp_path) -> None:
    write_image(tmp_path / "a" / "1.png", np.zeros((32, 49), np.uint8))
    with pytest.raises(UsageError, match=r"49x32.*48x32"):
        find_methods([str(tmp_path)], pairs, [])
    write_image(tmp_path / "b.png", np.zeros((32, 48), np.uint8))
    (method,) = find_methods([f"x={tmp_path}"], pairs, [])
    assert list(method.images) == ["b"] and "49x32" in method.lacks("a/1") and not method.lacks("b")


def test_targets_are_measured_on_the_pairs_that_count(pairs, tmp_path) -> None:
    write_image(tmp_path / "b.png", read_infrared(pairs[1].ir))
    target = Target("person", (0, 0, 16, 10))
    targets = TargetSet({pair.name: [target] for pair in pairs}, ["x.txt, line 1: bad"])
    comparison = Comparison("own", find_methods([f"other={tmp_path}"], pairs, []), fixed(), targets)
    for pair in pairs:
        comparison.add(seen(pair, {"up": 1.0, "down": 1.0}))
    own, other = (method.targets[0] for method in comparison.table({"up": "higher"}, None))
    assert (own.category, own.size) == ("person", "all") and own.targets <= 1 and other == own
    assert "1 label left out of every row: x.txt, line 1: bad." in comparison.caption()
    write_targets(tmp_path, {"own": [own]})
    rows = (tmp_path / "targets.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("method,category,size,targets,contrast_kept") and rows[1].startswith("own,person,all,")
    text = targets_text({"own": [own]})
    assert "| own | person | all |" in text and "boxes" not in text  # no masks were asked
    assert "| boxes | found by masks |" in targets_text({"own": [dataclasses.replace(own, boxes=1, found=1.0)]})
