"""What the benchmarks share, and that those that nothing else tests run on little."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import mask_agreement, precompute, precompute_scale, train_modes
from benchmarks.common import figures_of, markdown_table, peak_memory, run_python, timed

SAMPLE = Path(__file__).resolve().parents[2] / "datasets" / "sample" / "test"


def test_tables_align_text_left_and_figures_right() -> None:
    table = markdown_table(("name", "kind", "value"), [("a", "b", 1), ("c", "d", 2.5)], text_columns=2)
    assert table == "| name | kind | value |\n|---|---|---:|\n| a | b | 1 |\n| c | d | 2.5 |"


def test_processor_time_is_not_the_clocks() -> None:
    with timed() as seconds:
        sum(range(100_000))
    assert seconds.wall > 0 and seconds.cpu >= 0


def test_a_process_of_its_own_finds_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "import os, benchmarks.common; print(os.environ['COLOUR'])"
    assert run_python("-c", code, COLOUR="blue").stdout == "blue\n"
    with pytest.raises(subprocess.CalledProcessError):
        figures_of("benchmarks.common.missing", stderr=subprocess.DEVNULL)


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not tell")
def test_peak_memory_is_in_bytes() -> None:
    assert 2**24 < peak_memory() < 2**40


def rows(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """First cells of the table that was printed."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    return [line.split("|")[1].strip() for line in lines[2:]]


@pytest.mark.slow
def test_precompute_compares_with_the_stock_generator(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--model_types", "vit_nano", "--sizes", "60x80", "--points_per_side", "2", "--rounds", "1"]
    assert precompute.main([*sizes, "--device", "cpu"]) == 0
    assert rows(capsys) == ["vit_nano"] * 3


@pytest.mark.slow
def test_mask_agreement_has_a_row_for_each_variant(capsys: pytest.CaptureFixture[str]) -> None:
    mask_agreement.main(["--photos", str(SAMPLE / "vi"), "--images", "1", "--points_per_side", "6"])
    assert rows(capsys) == list(mask_agreement.VARIANTS)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs hard links")
def test_precompute_scale_fills_a_tree_and_starts_on_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    precompute_scale.main(["--images", "3", "--folder", str(tmp_path)])
    assert rows(capsys) == ["3", "3"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_train_modes_has_a_row_for_each_mode(capsys: pytest.CaptureFixture[str]) -> None:
    little = ["--rounds", "1", "--steps", "1", "--batch_size", "1", "--crop_size", "32", "--device", "cpu"]
    assert train_modes.main([*little, "--dataset_path", str(SAMPLE)]) == 0
    assert rows(capsys) == list(train_modes.MODES)
