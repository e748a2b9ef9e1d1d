import dataclasses

import numpy as np
import pytest

from tests.align.scenes import SIZE
from thfuse_sam.align.estimate import Alignment
from thfuse_sam.align.rig import Rig, calibrate
from thfuse_sam.align.transform import corner_distance, corners, similarity, transformed
from thfuse_sam.errors import UsageError

TRUTH = similarity(2, 1.03, (8, -5), SIZE)


def estimates(count: int, seed: int = 0) -> dict[str, Alignment]:
    """Confident estimates that differ from TRUTH by about a pixel, each with blocks."""
    random = np.random.default_rng(seed)
    result = {}
    for index in range(count):
        matrix = similarity(0, 1, tuple(random.normal(0, 0.5, 2)), SIZE) @ TRUTH
        places = random.uniform((0, 0), (SIZE[1], SIZE[0]), (50, 2))
        target = transformed(places, matrix) + random.normal(0, 0.3, (50, 2))
        result[f"p{index}"] = Alignment(matrix, SIZE, SIZE, "similarity", True, 50, 1, 0, places, target)
    return result


def test_many_pairs_make_one_rig() -> None:
    pairs = estimates(9)
    wrong = similarity(0, 1, (30, 0), SIZE) @ TRUTH
    pairs["far"] = dataclasses.replace(pairs["p0"], matrix=wrong)
    pairs["dark"] = dataclasses.replace(pairs["p1"], confident=False, matrix=np.eye(3))
    result = calibrate(pairs, "similarity")
    assert corner_distance(result.matrix, TRUTH, SIZE) < 0.5 and 0.2 < result.residual < 1.5
    assert set(result.outliers) == {"far"} and result.outliers["far"] == pytest.approx(30, abs=1)
    assert result.unsure == ["dark"] and len(result.used) == 9
    assert np.array_equal(calibrate(pairs, "shift").matrix[:2, :2], np.eye(2))


def test_a_written_rig_is_read_as_it_was(tmp_path) -> None:
    result = calibrate(estimates(5), "homography")
    result.write(tmp_path / "rig.yaml")
    rig = Rig.load(tmp_path / "rig.yaml")
    assert np.array_equal(rig.matrix, result.matrix) and (rig.ir_size, rig.vi_size, rig.kind) == (
        SIZE,
        SIZE,
        "homography",
    )
    assert rig.alignment(SIZE, SIZE).confident


def test_too_few_pairs_are_no_calibration() -> None:
    pairs = {name: dataclasses.replace(one, confident=name < "p2") for name, one in estimates(6).items()}
    with pytest.raises(UsageError, match="only 2 of 6 pairs show enough structure"):
        calibrate(pairs, "similarity")


GOOD = "kind: shift\ninfrared: 32x24\nvisible: 64x48\nmatrix: [[1, 0, 0], [0, 1, 0], [0, 0, 1]]\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("[0, 0, 1]]", "[-0.5, 0, 1]]"), "folds"),
        (("[[1, 0, 0]", "[[-1, 0, 0]"), "mirrors"),
        (("[[1, 0, 0]", "[[.nan, 0, 0]"), "folds"),
        (("[[1, 0, 0]", "[[1, 0, 900]"), "out of the visible ones"),
        (("[[1, 0, 0]", "[[1, 0]"), "no rig file"),
        (("[[1, 0, 0], ", "[["), "no rig file"),
        (("kind: shift", "kind: turn"), "kind, sizes or matrix"),
        (("32x24", "32"), "no rig file"),
        (("32x24", "32x0"), "kind, sizes or matrix"),
        (("infrared", "ir"), "no rig file"),
        ((GOOD, "[1, 2]"), "no rig file"),
        ((GOOD, "{"), "no rig file"),
        ((GOOD, ""), "no rig file"),
    ],
)
def test_wrong_rig_files_are_one_line(tmp_path, change, words) -> None:
    path = tmp_path / "rig.yaml"
    path.write_text(GOOD)
    assert Rig.load(path).kind == "shift"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(UsageError, match=words) as error:
        Rig.load(path)
    assert "\n" not in str(error.value) and "calibrate" in str(error.value)
    with pytest.raises(UsageError, match="No such file"):
        Rig.load(tmp_path / "absent.yaml")


def test_corners_are_the_middles_of_pixels() -> None:
    assert corners((24, 32)).tolist() == [[0, 0], [31, 0], [31, 23], [0, 23]]
