"""Readers given what they do not expect: an error of the project's own classes, in bounded time and memory."""

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from .fuzz_mutations import contents
from .fuzz_targets import TARGETS, expect_own_error

TOO_LARGE = ("sam checkpoint", "vgg weights")  # to be whole here
SECONDS = 5.0  # for one input, of this process's own work
EXAMPLES = 40  # of each target; benchmarks/fuzz.py runs as many as wanted


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_content(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    seeds = target.seeds(tmp_path)
    for content in seeds:
        assert name in TOO_LARGE or expect_own_error(target, content, tmp_path)

    @seed(2026)
    @settings(max_examples=EXAMPLES, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(contents(target, seeds))
    def check(content: bytes) -> None:
        started = time.process_time()
        expect_own_error(target, content, tmp_path)
        assert time.process_time() - started < SECONDS

    check()


# What benchmarks/fuzz.py has found and was mended: a reader, and what was replaced in the inputs that it takes.
FOUND = [
    ("coco", '"category_id": 1', '"category_id": [1]'),
    ("coco", '[{"id": 1, "name": "thing"}]', "7"),
    ("labelme", '"shape_type": "mask", "mask": "', '"shape_type": "mask", "mask": 7, "x": "'),
    ("labelme", "[1, 1]", f"[1{'0' * 400}, 1]"),
    ("labelme", '"a.png"', f'"{"a" * 5000}.png"'),
    ("mixture", "percentage: 0.5", "percentage: " + "[" * 3000),
    ("mixture", "percentage: 0.5", "percentage: 2001-99-99"),
    ("config", "points_per_side: 8", "points_per_side: 2001-99-99"),
    ("shard", "[", "[Infinity, "),
    ("options", "1/4", "1/" + "4" * 4000),
    ("trained weights", '{\\"rank\\": 4', '{\\"rank\\": 1'),
    ("vgg weights", "features.0.weight", "features.\xff.weight"),
    ("training log", "epoch", "epoch\x95"),
    ("training log", "0.25", "0.25,1,2,3,4,5"),
    ("training log", "\n2,", "\n²,"),
    ("archive", "PK\1\2", "PK\1\1"),
    ("sam checkpoint", "PK\5\6", "PK\6\7" + 12 * "\0" + "\t\0\0\0PK\5\6"),
]


@pytest.mark.parametrize(("name", "old", "new"), FOUND, ids=range(len(FOUND)))
def test_what_fuzzing_has_found(tmp_path: Path, name: str, old: str, new: str) -> None:
    contents_with = [content for content in TARGETS[name].seeds(tmp_path) if old.encode() in content]
    assert contents_with
    for content in contents_with:
        expect_own_error(TARGETS[name], content.replace(old.encode(), new.encode("latin-1"), 1), tmp_path)
