"""`thfuse`, one command for all: `thfuse fuse A B`, `thfuse masks --help` and so on, with the scripts' options."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import thfuse_sam
from thfuse_sam.cli import commands
from thfuse_sam.cli.run import Command
from thfuse_sam.errors import did_you_mean, shown
from thfuse_sam.options.video import is_video

_ONE_FOLDER = ("dataset_path",)
_TWO_FOLDERS = ("ir_dir", "vi_dir")
_TWO_FILES = ("ir", "vi")


@dataclass(frozen=True)
class _Entry:
    """A command, the options that the words before its first option stand for, options that are always given, and what
    it then does, where its own description says otherwise.
    """

    command: Command[Any]
    places: tuple[tuple[str, ...], ...] = ()  # one tuple for each possible number of words
    always: tuple[str, ...] = ()
    description: str | None = None

    @property
    def words(self) -> list[str]:
        """The possible words before the first option, as usage and messages show them."""
        return [" ".join(options).upper().replace("OUTPUT_DIR", "TREE") for options in self.places]


ENTRIES: Mapping[str, _Entry] = {
    "masks": _Entry(commands.precompute, (_ONE_FOLDER, _TWO_FOLDERS)),
    "train": _Entry(commands.train, (_ONE_FOLDER, _TWO_FOLDERS)),
    "fuse": _Entry(commands.test, (_ONE_FOLDER, _TWO_FOLDERS)),
    "align": _Entry(commands.align, (_ONE_FOLDER, _TWO_FOLDERS)),
    "video": _Entry(commands.video, (_TWO_FILES,)),
    "prepare": _Entry(commands.prepare, (("data_dir",),)),
    "finetune": _Entry(commands.finetune, (("data_dir",),)),
    "predict": _Entry(commands.predict, (("input",),)),
    "verify": _Entry(
        commands.precompute, (("output_dir",),), ("--verify",), "Check the masks of a tree against their images."
    ),
    "compare": _Entry(commands.compare, (_ONE_FOLDER, _TWO_FOLDERS)),
    "figure": _Entry(commands.figure, (_ONE_FOLDER, _TWO_FOLDERS)),
    "app": _Entry(commands.app),
}
SHELLS = ("bash", "zsh")

FIRST_SCREEN = """\
usage: thfuse COMMAND [options]

Fuse two images or two folders, A infrared and B visible; that is all you need to begin with:

  thfuse fuse A B

To train on your own pairs, make their masks once, train, and fuse with the trained network:

  thfuse masks A B
  thfuse train A B
  thfuse fuse A B --model_path models/best.pth

Also:

  thfuse verify TREE              check masks against their images
  thfuse align A B                bring infrared images onto visible ones, or calibrate two cameras
  thfuse video IR VI              fuse two videos or live streams
  thfuse prepare DATA             check and convert annotated images
  thfuse finetune DATA            adapt Segment Anything to them
  thfuse predict IMAGE            masks of single images, by points, boxes or of everything
  thfuse compare A B --methods F  measures and ranks of folders of fused images
  thfuse figure A B --methods F   a figure of them for a paper
  thfuse app                      fuse in the browser
  thfuse completion bash          what your shell needs to complete commands (or zsh)

thfuse COMMAND --help lists a command's options; thfuse --version shows the version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `thfuse` with the words `argv` (None: the process's own). Returns the exit status, as `Command.main` does."""
    name, *words = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(FIRST_SCREEN)
    elif name == "--version":
        print(f"thfuse {thfuse_sam.__version__}")
    elif name == "completion":
        return _print_completion(words)
    elif name not in ENTRIES:
        meant = did_you_mean(name, ENTRIES)
        return _refuse(f"{shown(name)}: no such command; {meant}the commands are {', '.join(ENTRIES)}")
    else:
        return _run(name, words)
    return 0


def _run(name: str, words: Sequence[str]) -> int:
    number = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    parts = [part for word in words for part in (word.split("=", 1) if word.startswith("-") else [word])]
    outputs = [value for option, value in pairwise(parts) if option in ("-o", "--output")]
    if name == "fuse" and any(map(is_video, [*words[:number], *outputs])):
        name = "video"
    entry = ENTRIES[name]
    options = next((options for options in entry.places if len(options) == number), None)
    if number and options is None:
        known = " or ".join(entry.words) or "no word"
        return _refuse(f"{name} {' '.join(words[:number])}: takes {known} before its options; see thfuse {name} --help")
    if name == "fuse" and options == _TWO_FOLDERS and any(Path(word).is_file() or "*" in word for word in words[:2]):
        options = _TWO_FILES
    placed = [word for pair in zip(options or (), words, strict=False) for word in (f"--{pair[0]}", pair[1])]
    return _named(name).main([*entry.always, *placed, *words[number:]])


def _named(name: str) -> Command[Any]:
    entry = ENTRIES[name]
    words = " | ".join(entry.words)
    usage = f"thfuse {name} [{words}] [options]" if words else None
    description = entry.description or entry.command.description
    return replace(entry.command, program=f"thfuse {name}", description=description, usage=usage)


def _print_completion(words: Sequence[str]) -> int:
    """Print the completion script for a shell."""
    try:
        import shtab
    except ImportError:
        return _refuse("completion needs shtab, which is not installed; run: pip install 'th-fuse-sam[completion]'")
    if len(words) != 1 or words[0] not in SHELLS:
        return _refuse(f"{' '.join(['completion', *words])}: name one shell of {', '.join(SHELLS)}")
    parser = argparse.ArgumentParser("thfuse")
    parser.add_argument("--version", action="store_true")
    parsers = parser.add_subparsers(parser_class=lambda prog: _completing(_named(prog.split()[-1]).build_parser()))  # type: ignore[call-overload]
    for name in ENTRIES:
        parsers.add_parser(name, help=_named(name).description.partition(".")[0])
    print(shtab.complete(parser, shell=words[0]))
    return 0


def _completing(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser with what its words and its options' values may be: files, or the choices that help names."""
    import shtab

    parser.add_argument("words", nargs="*")
    for action in parser._actions:
        if isinstance(action.metavar, str) and action.metavar.startswith("{"):
            action.choices = action.metavar[1:-1].split(",")
        elif action.nargs != 0:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser


def _refuse(message: str) -> int:
    print(f"thfuse: error: {message}", file=sys.stderr)
    return 2
