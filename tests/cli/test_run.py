import contextlib
import logging
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import pytest
import torch

from thfuse_sam.cli import run as command_run
from thfuse_sam.cli.parser import CommandLine, spell_options
from thfuse_sam.cli.run import report_stop
from thfuse_sam.errors import ThFuseError, TrainingError, UsageError, naming
from thfuse_sam.interrupts import Terminated
from thfuse_sam.options.fields import Options, option


@dataclass(frozen=True, kw_only=True)
class Demo(Options, group="demo"):
    epochs: int = option(3, "passes", low=1)
    kind: Literal["a", "b"] = option("a", "which")
    folder: Path | None = option(None, "where")


def run(argv: list[str], work=lambda command: 0) -> int:
    return command_run.Command("demo.py", "A command.", Demo, None, work).main(argv)


def one_line(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("demo.py: error: "), lines
    return lines[0]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--epochs", "0"], ("--epochs 0: ", "at least 1", "--help")),
        (["--epochs", "x"], ("--epochs x: ", "a whole number")),
        (["--kind", "c"], ("--kind c: ", "a, b")),
        (["--unheard", "1"], ("--unheard",)),
        (["--epoch", "1"], ("--epoch",)),  # no abbreviations: they change meaning as options are added
    ],
)
def test_wrong_option_is_one_line_and_status_2(capsys, argv: list[str], words: tuple[str, ...]) -> None:
    assert run(argv) == 2
    line = one_line(capsys)
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("--x 1: no; give 2"), 2, "--x 1: no; give 2"),
        (TrainingError("a\n  b"), 1, "a b"),
        (OSError(28, "No space left on device", "a.png"), 1, "a.png: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (torch.cuda.OutOfMemoryError("x"), 1, "--batch_size"),
        (cv2.error("error: (-4:Insufficient memory) Failed to allocate 1 bytes"), 1, "out of memory; use a smaller"),
        (
            RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel"),
            1,
            "CUDA error: unspecified launch failure;",
        ),
    ],
)
def test_error_in_the_work_is_one_line(capsys, error: BaseException, status: int, message: str) -> None:
    def work(command: CommandLine[Demo]) -> int:
        raise error

    assert run([], work) == status
    assert message in one_line(capsys)


@pytest.mark.skipif(sys.platform == "win32", reason="signals to oneself")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_in_a_destructor_is_not_lost(capsys, number: signal.Signals, status: int) -> None:
    class Slow:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def work(command: CommandLine[Demo]) -> int:
        thing = Slow()
        del thing
        time.sleep(60)
        return 0

    assert run([], work) == status
    one_line(capsys)


INTERRUPTED_IMPORT = """
import signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from thfuse_sam.cli.commands import train
sys.exit(train.main([]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals to oneself")
def test_an_interrupt_while_torch_is_imported_is_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_IMPORT], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.startswith("train.py: error: interrupted") and len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals to oneself")
@pytest.mark.parametrize("caught", [True, False])
def test_what_an_interrupt_left_half_built_says_nothing(capsys, monkeypatch, caught: bool) -> None:
    class Bar:
        def __init__(self) -> None:
            signal.raise_signal(signal.SIGINT)

        def __del__(self) -> None:
            raise AttributeError

    def work(command: CommandLine[Demo]) -> int:
        try:
            Bar()
        except KeyboardInterrupt:
            if not caught:
                raise
        return 130

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: seen.append(dropped.exc_type))
    assert run([], work) == 130
    assert seen == [] and "Traceback" not in capsys.readouterr().err


def test_an_interrupt_in_the_last_moment_is_one_line(capsys, monkeypatch) -> None:
    @contextlib.contextmanager
    def late():
        yield
        raise Terminated

    monkeypatch.setattr(command_run, "stop_on_interrupts", late)
    assert run([]) == 143
    assert "terminated" in one_line(capsys)


def test_an_error_in_the_clean_up_does_not_hide_the_interrupt(capsys) -> None:
    def work(command: CommandLine[Demo]) -> int:
        try:
            raise Terminated
        finally:
            raise RuntimeError("trying to pop from empty mode stack")  # as `torch.device` does

    assert run([], work) == 143
    assert "terminated" in one_line(capsys)


def test_other_errors_in_a_destructor_are_shown(monkeypatch) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ZeroDivisionError

    def work(command: CommandLine[Demo]) -> int:
        thing = Broken()
        del thing
        return 0

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: seen.append(dropped.exc_type))
    assert run([], work) == 0
    assert seen == [ZeroDivisionError]


def test_an_error_names_options_as_they_are_typed(capsys) -> None:
    def fail(command: CommandLine[Demo]) -> int:
        with naming("folder", Path("a.png")):
            raise ThFuseError("a.png: is damaged; give another `kind`")

    assert run([], fail) == 1
    assert one_line(capsys) == "demo.py: error: --folder a.png: is damaged; give another --kind"


@pytest.mark.parametrize(
    ("called", "program", "processes", "typed"),
    [
        ("train.py", "train.py", "1", "python train.py"),
        ("../code/train.py", "train.py", "1", "python ../code/train.py"),
        ("../code/train.py", "train.py", "2", "torchrun --nproc_per_node=2 ../code/train.py"),
        ("/bin/thfuse-train", "train.py", "1", "thfuse-train"),
        ("/bin/thfuse", "thfuse train", "1", "thfuse train"),
        ("/lib/thfuse_sam/__main__.py", "thfuse train", "2", "torchrun --nproc_per_node=2 -m thfuse_sam train"),
    ],
)
def test_the_command_that_goes_on_starts_as_this_one_did(
    monkeypatch, caplog, called: str, program: str, processes: str, typed: str
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    caplog.set_level(logging.INFO)
    arguments = ("--resume", "old.pth", "--output_dir", "a b")
    assert report_stop(CommandLine(None, program, arguments), 3, Path("a b/latest.pth")) == 130
    assert f"to go on: {typed} --output_dir 'a b' `resume` 'a b/latest.pth'" in caplog.text


@pytest.mark.parametrize(
    ("called", "shown"),
    [
        ("train.py", "train.py: python precompute_masks.py --lr, then test.py and thfuse align"),
        ("/bin/thfuse", "train.py: thfuse masks --lr, then thfuse fuse and thfuse align"),
        ("/bin/thfuse-train", "train.py: thfuse masks --lr, then thfuse fuse and thfuse align"),
        ("/lib/thfuse_sam/__main__.py", "train.py: thfuse masks --lr, then thfuse fuse and thfuse align"),
    ],
)
def test_scripts_are_named_as_commands_of_thfuse_where_that_was_called(monkeypatch, called: str, shown: str) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    assert spell_options("train.py: `precompute()` `lr`, then `fuse()` and `align()`") == shown


def test_a_misspelt_option_is_corrected(capsys) -> None:
    assert run(["--epoch=3"]) == 2
    assert "unrecognized arguments: --epoch=3; did you mean --epochs?" in one_line(capsys)
    assert run(["--entirely", "wrong"]) == 2
    assert "did you mean" not in one_line(capsys)


def test_stray_words_are_told_where_they_belong(capsys) -> None:
    assert run(["a", "b"]) == 2
    assert "unrecognized arguments: a b; write an option before each. See demo.py --help" in one_line(capsys)
    assert run(["-z", "3"]) == 2
    assert "unrecognized arguments: -z 3; see demo.py --help" in one_line(capsys)


def test_debug_shows_the_traceback_and_a_bug_is_not_hidden(capsys) -> None:
    def fail(command: CommandLine[Demo]) -> int:
        raise ThFuseError("known")

    assert run(["--debug"], fail) == 1
    assert "Traceback" in capsys.readouterr().err

    def bug(command: CommandLine[Demo]) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run([], bug)


def test_status_of_the_work_and_of_help(capsys) -> None:
    assert run([], lambda command: 5) == 5
    assert run(["--help"]) == 0
    assert "--epochs" in capsys.readouterr().out


def test_an_interrupt_waits_until_a_log_line_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def write(text: str, file: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        written.append(text)

    def work(command: CommandLine[Demo]) -> int:
        command_run.log.info("a line")
        return 0

    monkeypatch.setattr("tqdm.tqdm.write", write)
    assert run([], work) == 143
    assert written == ["a line"]


def test_log_lines_reach_stderr_once(capsys) -> None:
    command_run.show_log_lines()
    command_run.show_log_lines()
    command_run.log.info("seen `epochs`")
    assert capsys.readouterr().err == "seen --epochs\n"


# Start

COMMANDS = ("precompute", "train", "test", "finetune", "predict", "prepare", "app", "figure")
LOADED = """
import sys
from thfuse_sam.cli import commands
status = getattr(commands, sys.argv[1]).main(sys.argv[2:])
heavy = ("torch", "numpy", "cv2", "PIL", "lightning_fabric", "segment_anything", "thfuse_sam.commands")
print(status, *(module for module in heavy if module in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("argument", "status"), [("--help", "0"), ("--no_such_option", "2")])
def test_help_and_wrong_usage_load_nothing_heavy(name: str, argument: str, status: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, name, argument], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == status, done.stderr
