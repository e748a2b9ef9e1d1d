"""Rendered scenes: what training and the demo rely on, and that the two cameras see what they ought to."""

import hashlib
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from thfuse_sam.errors import UsageError
from tools.scenes import CONDITIONS, MIN_PIXELS, Condition, Scene, render_scene
from tools.scenes.__main__ import scenes

SAMPLE = Path(__file__).parents[3] / "datasets" / "sample"
SEEDS = range(7)


def _scenes(condition: Condition) -> list[Scene]:
    return [render_scene(seed, height=192, width=256, condition=condition) for seed in SEEDS]


@pytest.fixture(scope="module")
def night() -> list[Scene]:
    return _scenes("night")


@pytest.fixture(scope="module")
def day() -> list[Scene]:
    return _scenes("day")


def _digest(scene: Scene) -> str:
    arrays = (scene.visible, scene.infrared, scene.visible_labels, scene.infrared_labels)
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays) + repr(scene.names).encode()).hexdigest()


@pytest.mark.parametrize("condition", CONDITIONS)
def test_same_seed_gives_same_bytes(condition: Condition) -> None:
    first = render_scene(7, height=128, width=160, condition=condition)
    np.random.default_rng(0).random(100)  # noise in between must not matter
    render_scene(8, height=96, width=96)
    assert _digest(first) == _digest(render_scene(7, height=128, width=160, condition=condition))
    assert _digest(first) != _digest(render_scene(8, height=128, width=160, condition=condition))


def test_global_random_state_is_left_alone() -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    render_scene(1, height=96, width=128)
    assert np.array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize(("height", "width"), [(128, 160), (160, 128), (33, 47), (256, 256), (480, 640), (201, 333)])
def test_sizes_types_and_labels(height: int, width: int) -> None:
    scene = render_scene(11, height=height, width=width)
    assert scene.visible.shape == (height, width, 3) and scene.visible.dtype == np.uint8
    assert scene.infrared.shape == (height, width) and scene.infrared.dtype == np.uint8
    used: set[int] = set()
    for label_map in (scene.visible_labels, scene.infrared_labels):
        assert label_map.shape == (height, width) and label_map.dtype == np.uint16
        labels, areas = np.unique(label_map[label_map > 0], return_counts=True)
        assert areas.min() >= MIN_PIXELS
        used |= set(labels.tolist())
    assert sorted(used) == list(range(1, len(used) + 1))
    assert set(scene.names) == used


def test_conditions_are_all_drawn() -> None:
    assert {render_scene(seed, height=32, width=40).condition for seed in range(16)} == set(CONDITIONS)


def test_night_is_dark_and_day_is_not(night: list[Scene], day: list[Scene]) -> None:
    assert max(scene.visible.mean() for scene in night) < 60 < 80 < min(scene.visible.mean() for scene in day)


def test_background_and_objects_are_labelled(day: list[Scene]) -> None:
    found: set[str] = set()
    for scene in day:
        assert {"road", "sidewalk"} <= set(scene.names.values())
        assert np.count_nonzero(scene.visible_labels) / scene.visible_labels.size > 0.97
        found |= set(scene.names.values())
    assert {"sky", "house", "tree", "car", "person", "street lamp", "lane marking", "traffic sign"} <= found


def _people(scene: Scene, at_least: int = 60) -> list[np.ndarray]:
    masks = [scene.infrared_labels == k for k, name in scene.names.items() if name == "person"]
    return [mask for mask in masks if np.count_nonzero(mask) >= at_least]


def test_bodies_are_warmer_than_what_is_around_them_at_night(night: list[Scene]) -> None:
    count = 0
    for scene in night:
        everybody = np.isin(
            scene.infrared_labels, [k for k, n in scene.names.items() if n in ("person", "cyclist", "dog")]
        )
        for mask in _people(scene):
            around = cv2.dilate(mask.astype(np.uint8), np.ones((13, 13), np.uint8)).astype(bool) & ~everybody
            if np.count_nonzero(around) > 30:
                count += 1
                assert scene.infrared[mask].mean() > scene.infrared[around].mean() + 30
    assert count >= 8


def test_people_at_night_are_bright_in_infrared_and_dark_in_visible(night: list[Scene]) -> None:
    pairs = [(s.infrared[m].mean(), s.visible[m].mean()) for s in night for m in _people(s)]
    assert len(pairs) >= 8
    assert all(ir > vi for ir, vi in pairs)
    assert np.median([ir for ir, _ in pairs]) > 150 > 60 > np.median([vi for _, vi in pairs])


def test_label_maps_differ_where_the_cameras_do(night: list[Scene], day: list[Scene]) -> None:
    only_infrared, only_visible = set(), set()
    for scene in [*night, *day]:
        vi, ir = set(np.unique(scene.visible_labels)), set(np.unique(scene.infrared_labels))
        only_infrared |= {(scene.condition, scene.names[k]) for k in ir - vi}
        only_visible |= {(scene.condition, scene.names[k]) for k in vi - ir}
    assert ("night", "person") in only_infrared
    assert ("day", "lane marking") in only_visible
    assert ("day", "person") not in only_visible


def test_fog_hides_more_from_the_eye_than_from_infrared() -> None:
    upright = ("person", "house", "tree", "car", "van", "street lamp")
    seen = {"vi": 0, "ir": 0}
    for scene in _scenes("fog"):
        for modality, label_map in (("vi", scene.visible_labels), ("ir", scene.infrared_labels)):
            seen[modality] += sum(scene.names[k] in upright for k in np.unique(label_map).tolist() if k)
    assert 0 < seen["vi"] < seen["ir"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"height": 16}, "at least 32"),
        ({"condition": "rain"}, "'rain'.*day, night, fog, glare"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        render_scene(**{"seed": 0, **options})  # type: ignore[arg-type]


def test_command_writes_pairs_and_labels(tmp_path: Path) -> None:
    sizes = ["--count", "3", "--seed", "5", "--height", "64", "--width", "96"]
    arguments = ["--output", str(tmp_path), *sizes, "--labels"]
    assert scenes.main(arguments) == 0
    names = [p.stem for p in sorted((tmp_path / "ir").iterdir())]
    assert names == [p.stem for p in sorted((tmp_path / "vi").iterdir())] == ["day_000", "fog_002", "night_001"]
    scene = render_scene(6, height=64, width=96, condition="night")
    stored = cv2.imread(str(tmp_path / "ir" / "night_001.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(stored, scene.infrared)
    labels = np.load(tmp_path / "labels" / "vi" / "night_001.npy", allow_pickle=False)
    assert np.array_equal(labels, scene.visible_labels) and labels.dtype == np.uint16


def test_command_reports_a_wrong_count_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scenes.main(["--output", str(tmp_path / "new"), "--count", "0"]) == 2
    assert re.fullmatch(r"python -m tools.scenes: error: --count 0: must be .* at least 1.*\n", capsys.readouterr().err)
    assert not (tmp_path / "new").exists()


def test_sample_set_is_complete_and_small() -> None:
    files = [p for p in SAMPLE.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 3_000_000
    names: dict[str, set[str]] = {}
    for split, count in (("train", 24), ("test", 8)):
        infrared = {p.stem for p in (SAMPLE / split / "ir").glob("*.png")}
        visible = {p.stem for p in (SAMPLE / split / "vi").glob("*.jpg")}
        assert infrared == visible and len(infrared) == count
        names[split] = infrared
    assert not names["train"] & names["test"]
