import numpy as np
from PIL import Image

from benchmarks import align
from tests.align.scenes import pair


def test_moved_pairs_are_brought_back_and_counted(tmp_path, capsys) -> None:
    infrared, visible = pair(1)
    for folder, image in (("ir", infrared), ("vi", visible)):
        (tmp_path / "set" / folder).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "set" / folder / "a.png")
    align.main(["--dataset", str(tmp_path / "set"), "--seed", "1"])
    cells = [cell.strip() for cell in capsys.readouterr().out.strip().splitlines()[-1].split("|")[1:-1]]
    assert cells[:2] == ["set", "1 of 1"] and float(cells[2]) < 1 and float(cells[4]) < 1
    assert cells[7] == "0 (0.0 %)" and cells[11] == "0"


def test_movements_stay_in_their_bounds() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        matrix = align.movement(random, "similarity", (480, 640))
        scale = np.hypot(*matrix[:2, 0])
        assert 0.9 <= scale <= 1.1 and abs(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))) <= 5
        middle = matrix @ [319.5, 239.5, 1]
        assert np.abs(middle[:2] - [319.5, 239.5]).max() <= 0.056 * 640
    assert np.array_equal(align.movement(random, "shift", (480, 640))[:2, :2], np.eye(2))
