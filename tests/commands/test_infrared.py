from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thfuse_sam.cli import commands
from thfuse_sam.commands import app
from thfuse_sam.commands.infrared import _NUMBERS_OF_IMAGE, _range_of, infrared_reading, range_of_tree, reading_of
from thfuse_sam.images import write_numbers
from thfuse_sam.masks.manifest import Manifest, Signature
from thfuse_sam.options.shared import InfraredOptions
from thfuse_sam.thermal import AS_STORED, InfraredReading


def test_the_range_of_a_data_set_does_not_depend_on_few_columns(tmp_path: Path) -> None:
    numbers = np.full((512, 640), 1000, np.uint16)
    numbers[:, :: numbers.size // _NUMBERS_OF_IMAGE[1]] = 5000  # 1 column in 80
    write_numbers(tmp_path / "a.tif", numbers)
    assert _range_of([(tmp_path / "a.tif", AS_STORED)]) == (1000, 5000)


@pytest.mark.parametrize(
    "how",
    [
        AS_STORED,
        InfraredReading((1000, 5000.5), 0.0, polarity="black-hot"),
        InfraredReading(colormap="jet"),
        InfraredReading(gray=True),
        InfraredReading(channel=0),
    ],
)
def test_what_is_noted_of_reading_reads_back(how: InfraredReading) -> None:
    assert InfraredReading.of_settings({"points_per_side": 32, **how.settings()}) == how
    assert InfraredReading.of_settings({"ir_range": "1", "ir_channel": "x", "ir_gray": 3, "ir_nodata": []}) == AS_STORED


def test_a_way_that_is_given_is_taken_in_place_of_the_channel_of_a_tree(tmp_path: Path) -> None:
    Manifest(Signature("vit_nano", "00", {"ir_channel": 3}, "0.1")).save(tmp_path)
    assert reading_of(InfraredOptions(), tmp_path).channel == 3
    assert reading_of(InfraredOptions(ir_gray=True), tmp_path).settings() == {"ir_gray": True}


@pytest.mark.parametrize(
    ("main", "argv"),
    [(commands.video.main, ["--ir", "ir.tiff", "--vi", "vi.mp4"]), (commands.app.main, ["--port", "0"])],
)
def test_where_no_images_are_known_no_range_is_taken_from_all(
    main: Any, argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "_require_gradio", lambda: None)
    assert main([*argv, "--device", "cpu", "--ir_range", "dataset"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--ir_range dataset: " in line and "give LOW HIGH" in line


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (commands.test.main, ["--dataset_path", "pairs", "--skip_bad"]),
        (commands.align.main, ["--dataset_path", "pairs"]),
        (commands.predict.main, ["--input", "pairs/ir", "--modality", "ir"]),
        (commands.precompute.main, ["--dataset_path", "pairs", "--sam_model_type", "vit_nano"]),
        (commands.train.main, ["--dataset_path", "pairs"]),
    ],
)
def test_a_range_that_fits_no_image_leaves_nothing_behind(
    main: Any, argv: list[str], make_pairs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    make_pairs(("0", "1"))
    for name in "01":
        write_numbers(tmp_path / f"pairs/ir/{name}.png", np.full((32, 48), 7000, np.uint16))
    assert main([*argv, "--output_dir", "new", "--ir_range", "10", "40"]) == 1
    assert "0.png: has numbers from 7000 to 7000, none in --ir_range 10 40; " in capsys.readouterr().err
    assert not Path("new").exists()


def test_a_range_that_fits_only_some_images_is_taken(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in (7000, 20)]
    for path in paths:
        write_numbers(path, np.full((32, 48), int(path.stem), np.uint16))
    assert infrared_reading(InfraredOptions(ir_range=(10, 40)), paths).value_range == (10, 40)


def test_a_tree_without_a_range_has_none(tmp_path: Path) -> None:
    assert range_of_tree(None) is None and range_of_tree(tmp_path) is None
