import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from thfuse_sam.cli import commands as cli_commands
from thfuse_sam.images import read_visible

main = cli_commands.figure.main


@pytest.fixture
def dataset(make_pairs, tmp_path, monkeypatch) -> Path:
    root = make_pairs(("a/1", "b", "c", "d"))
    shutil.copytree(root / "vi", tmp_path / "work" / "results")
    monkeypatch.chdir(tmp_path / "work")
    return root


def run(dataset: Path, *argv: str) -> int:
    return main(["--dataset_path", str(dataset), *argv])


def test_writes_png_and_pdf(dataset) -> None:
    assert run(dataset, "--width", "3", "--dpi", "100") == 0
    assert Path("figure.pdf").read_bytes().startswith(b"%PDF")
    picture = read_visible(Path("figure.png"))
    assert picture.shape[1] == 300
    first = Path("figure.pdf").read_bytes()
    assert run(dataset, "--width", "3", "--dpi", "100") == 0
    assert Path("figure.pdf").read_bytes() == first


def test_zoom_is_marked_in_every_picture_and_shown_below(dataset) -> None:
    def red(path: str) -> int:
        rgb = read_visible(Path(path)).astype(int)
        return int(np.count_nonzero((rgb[..., 0] > 200) & (rgb[..., 1] < 90) & (rgb[..., 2] < 90)))

    options = ["--pairs", "b", "--dpi", "100", "--output"]
    assert run(dataset, *options, "plain.png") == 0
    assert run(dataset, *options, "zoom.png", "--zoom", "b:4,4,20,10") == 0
    assert red("zoom.png") > red("plain.png") + 500
    assert read_visible(Path("zoom.png")).shape[0] > read_visible(Path("plain.png")).shape[0] + 50


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--pairs", "x"], ("--pairs x", "no such pair")),
        (["--methods", "absent"], ("--methods absent", "no such folder")),
        (["--methods", "Visible=results"], ("--methods", "'Visible' is taken")),
        (["--zoom", "1,2,3"], ("--zoom", "LEFT,TOP,WIDTH,HEIGHT")),
        (["--zoom", "40,0,20,10"], ("--zoom 40,0,20,10", "48x32")),
        (["--zoom", "d:0,0,4,4"], ("--zoom d", "--pairs")),
        (["--output", "figure.svg"], ("--output figure.svg", ".pdf")),
        (["--zoom", "0,0,4,4"] * 5, ("--zoom", "at most 4")),
        (["--width", "0.3"], ("--width 0.3", "too narrow for 3 columns", "0.56 inches")),
    ],
)
def test_wrong_option_is_one_line(dataset, capsys, argv: list[str], words: tuple[str, ...]) -> None:
    assert run(dataset, *argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and all(word in lines[0] for word in words), lines
    assert not list(Path().glob("figure.*"))
