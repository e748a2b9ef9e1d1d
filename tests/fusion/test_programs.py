import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from thfuse_sam.datasets.pairs import PairSet, find_pairs
from thfuse_sam.errors import OptionError, ThFuseError
from thfuse_sam.fusion.programs import Program, run_program
from thfuse_sam.images import read_visible

COPY = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"
ALL = "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2], dirs_exist_ok=True)"


def program(code: str, *words: str) -> Program:
    return Program("other", (sys.executable, "-c", code, *words), "{out}" in words)


@pytest.fixture
def pairs(make_pairs, tmp_path: Path) -> PairSet:
    return find_pairs(make_pairs(("a b/$(touch x)", "{vi}"), root=tmp_path / "it's"))


def test_a_program_gets_each_path_as_one_word(pairs: PairSet, tmp_path: Path) -> None:
    run = run_program(program(COPY, "{ir}", "{out}"), pairs, tmp_path / "out")
    assert run.problems == {} and run.seconds > 0
    for pair in pairs.pairs:
        np.testing.assert_array_equal(read_visible(tmp_path / "out" / f"{pair.name}.png"), read_visible(pair.ir))


def test_a_program_for_folders_runs_once(pairs: PairSet, tmp_path: Path) -> None:
    code = f"{ALL}; print('ran')"
    run_program(program(code, "{vi_dir}", "{out_dir}"), pairs, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2
    assert (tmp_path / "out.log").read_text().split() == ["ran"]


@pytest.mark.parametrize("folders", [("ir", "vi/{name}_vi"), ("ir/**/lwir", "vi")])
def test_a_program_for_folders_needs_folders(pairs: PairSet, tmp_path: Path, folders: tuple[str, str]) -> None:
    ir_dir, vi_dir = (pairs.ir_dir.parent / folder for folder in folders)
    with pytest.raises(OptionError, match="do not lie in two folders"):
        run_program(program(ALL, "{vi_dir}"), replace(pairs, ir_dir=ir_dir, vi_dir=vi_dir), tmp_path / "out")


def test_failures_are_named_and_former_images_are_not_taken_for_new_ones(pairs: PairSet, tmp_path: Path) -> None:
    run_program(program(COPY, "{ir}", "{out}"), pairs, tmp_path / "out")
    code = "import sys; assert '$' in sys.argv[1], 'no dollar'"
    run = run_program(program(code, "{ir}", "{out}"), pairs, tmp_path / "out")
    assert run.problems == {"{vi}": "exit status 1: AssertionError: no dollar"}
    assert not list((tmp_path / "out").rglob("*.png"))
    with pytest.raises(ThFuseError, match=r"`run` other: exit status 3: no message; .*out\.log"):
        run_program(program("raise SystemExit(3)", "{ir}", "{out}"), pairs, tmp_path / "out")
    with pytest.raises(OptionError, match="absent cannot be started"):
        run_program(Program("other", ("absent", "{ir}"), True), pairs, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("python f.py {ir} {vi} {out}", "begins with no name"),
        ("../x=f {ir} {vi} {out}", "begins with no name"),
        ("x=f {ir} {vi}", "has the placeholders {ir} {vi};"),
        ("x=f {ir} {vi} {out} {out_dir}", "has the placeholders"),
        ("x=", "has the placeholders none"),
        ("x=f '{ir} {vi} {out}", "no closing quotation"),
    ],
)
def test_wrong_programs_are_refused(text: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Program.parse(text)


def test_words_are_those_of_a_shell() -> None:
    parsed = Program.parse("x=python 'my script.py' --pair={ir},{vi} {out}")
    assert parsed == Program("x", ("python", "my script.py", "--pair={ir},{vi}", "{out}"), True)
    filled = parsed.filled({"ir": Path("/a b"), "vi": Path("/{out}"), "out": Path("/c")})
    assert filled == ["python", "my script.py", "--pair=/a b,/{out}", "/c"]
