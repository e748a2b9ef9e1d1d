"""`thfuse`: the first screen, what words before the options mean, and that it is the scripts' commands."""

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import thfuse_sam
from thfuse_sam.cli.main import ENTRIES, SHELLS, main

ROOT = Path(__file__).resolve().parents[2]


def test_the_first_screen_shows_what_one_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == main(["-h"]) == main(["help"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("thfuse fuse A B\n") == 4 and "thfuse masks A B" in shown and "thfuse train A B" in shown
    assert set(re.findall(r"^  thfuse (\w+)", shown, re.MULTILINE)) == {*ENTRIES, "completion"}
    assert main(["fuse", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: thfuse fuse [DATASET_PATH | IR_DIR VI_DIR] [options]\n")
    assert main(["verify", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Check the masks of a tree" in shown and shown.index("\nimage pairs:") < shown.index(
        "\ninfrared images: see"
    )
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"thfuse {thfuse_sam.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fuze"], "fuze: no such command; did you mean fuse? the commands are masks, train, fuse"),
        ([""], "error: '': no such command; the commands are masks, train, fuse"),
        (["a\nb"], "error: a b: no such command; the commands are masks"),
        (
            ["fuse", "a", "b", "c"],
            "fuse a b c: takes DATASET_PATH or IR_DIR VI_DIR before its options; see thfuse fuse",
        ),
        (["verify", "a", "b"], "verify a b: takes TREE before its options"),
        (["app", "a"], "app a: takes no word before its options; see thfuse app --help"),
        (["completion", "fish"], "completion fish: name one shell of bash, zsh"),
        (["completion"], "error: completion: name one shell of"),
    ],
)
def test_usage_errors(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("thfuse: error: ") and message in shown and shown.count("\n") == 1


def test_every_command_that_writes_takes_o_for_output(capsys: pytest.CaptureFixture[str]) -> None:
    for name in {*ENTRIES} - {"app"}:
        assert main([name, "--help"]) == 0
        assert re.search(r"^  --output(_dir)?\b.*, -o ", capsys.readouterr().out, re.MULTILINE), name


def test_errors_name_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fuse", "no/such", "--device", "cpu"]) == 2
    assert capsys.readouterr().err.startswith("thfuse fuse: error: --dataset_path no/such: ")
    assert main(["train", "--crop_sise", "3"]) == 2
    assert "did you mean --crop_size? See thfuse train --help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["fuse", "--epochs", "3"], "--epochs 3; --epochs belongs to finetune.py, train.py. See thfuse fuse --help"),
        (["train", "--calibrate", "x"], "--calibrate belongs to thfuse align. See"),
        (["prepare", "--device", "cpu"], " and 4 more. See"),
        (["predict", "--nothing_like_it"], "--nothing_like_it; see thfuse predict --help"),
        (["fuse", "-o", "x", "a", "b"], ": a b; write thfuse fuse [DATASET_PATH | IR_DIR VI_DIR] [options]. See"),
    ],
)
def test_an_option_of_another_command(words: list[str], advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("tools.vit_nano.__main__")  # a tool, which has many of the options, is none of the commands
    assert main(words) == 2
    assert advice in capsys.readouterr().err


def test_words_stand_for_options(make_pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = make_pairs(("a",))
    folders = [str(pairs / "ir"), str(pairs / "vi")]
    assert main(["fuse", *folders, "--output_dir", "out", "--device", "cpu"]) == 0
    report = (tmp_path / "out" / "report" / "data.js").read_text(encoding="utf-8")
    assert f"thfuse fuse --ir_dir {folders[0]} --vi_dir {folders[1]} --output_dir out" in report
    few = ["--sam_model_type", "vit_nano", "--points_per_side", "2", "--device", "cpu"]
    assert main(["masks", str(pairs), "--output_dir", "tree", *few]) == 0
    assert main(["verify", "tree"]) == 0
    assert "2 of 2 images have a sound mask; no problem" in capsys.readouterr().out
    (tmp_path / "tree" / "vi" / "a.npy").write_bytes(b"broken")
    assert main(["verify", "tree"]) == 1


def test_an_output_with_an_equals_sign_may_be_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fuse", f"{tmp_path}/ir", f"{tmp_path}/vi", f"--output={tmp_path}/fused.mp4", "--device", "cpu"]) == 2
    assert "no such file; give a video" in capsys.readouterr().err


def test_two_images_are_fused(make_pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    pair = make_pairs(("a",))
    infrared = str(pair / "ir" / "a.png")
    assert main(["fuse", infrared, str(pair / "vi" / "a.png"), "-o", "fused.png", "--device", "cpu"]) == 0
    assert (tmp_path / "fused.png").is_file()
    globs = [str(pair / modality / "*.png") for modality in ("ir", "vi")]
    assert main(["fuse", *globs, "-o", "globbed", "--no-report", "--device", "cpu"]) == 0
    assert (tmp_path / "globbed" / "a.png").is_file()
    assert main(["fuse", infrared, "none.png", "--device", "cpu"]) == 2
    assert "thfuse fuse: error: --vi none.png: no such file" in capsys.readouterr().err


def test_help_and_errors_load_nothing_slow() -> None:
    slow = "{'torch', 'lightning_fabric', 'numpy', 'cv2', 'PIL'}"
    code = f"import sys; from thfuse_sam.cli.main import main; main(sys.argv[1:]); print({slow} & set(sys.modules))"
    for words in ([], ["masks", "--help"], ["train", "--lrr", "3"], ["--version"], ["video", "a", "b", "-o", __file__]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("set()\n"), words


def test_fusing_loads_only_what_it_uses(make_pairs: Callable[..., Path], tmp_path: Path) -> None:
    slow = "{'torchvision', 'torch._dynamo', 'lightning_fabric', 'segment_anything'}"
    code = f"import sys; from thfuse_sam.cli.main import main; main(sys.argv[1:]); print({slow} & set(sys.modules))"
    folders = [str(make_pairs() / modality) for modality in ("ir", "vi")]
    words = ["fuse", *folders, "--output_dir", str(tmp_path / "fused"), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n") and "2 images fused" in done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "--tile_size" in script and "finetune" in script
    assert "_files" in script and "vit_nano" in script
    if shell == "bash":
        for words, offered in (
            ("fuse --mod", "--model_path"),
            ("fuse --gra", "--gray"),
            ("masks --sam_model_type vit_n", "vit_nano"),
        ):
            ask = (
                f"COMP_WORDS=(thfuse {words}); COMP_CWORD={words.count(' ') + 1}; _shtab_thfuse; echo ${{COMPREPLY[@]}}"
            )
            done = subprocess.run(["bash", "-c", script + ask], capture_output=True, text=True, check=True)
            assert done.stdout == f"{offered}\n"


def test_completion_without_its_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'th-fuse-sam[completion]'" in capsys.readouterr().err
