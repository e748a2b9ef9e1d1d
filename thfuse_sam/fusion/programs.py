"""Fusing pairs by another method's own program, such as a script in its checkout. No shell is involved."""

import dataclasses
import re
import shlex
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from thfuse_sam.datasets.named_images import list_images
from thfuse_sam.datasets.pairs import PairSet
from thfuse_sam.errors import OptionError, ThFuseError
from thfuse_sam.files import as_output_error, make_directory

FOR_PAIRS = ("ir", "vi", "out")  # files; the program is run once for each pair
FOR_FOLDERS = ("ir_dir", "vi_dir", "out_dir")  # folders; it is run once
_PLACEHOLDER = re.compile(r"\{(" + "|".join((*FOR_PAIRS, *FOR_FOLDERS)) + r")\}")
_WANTED = "give NAME='COMMAND {ir} {vi} {out}', or {ir_dir} {vi_dir} {out_dir} for all pairs at once"


@dataclasses.dataclass(frozen=True)
class Program:
    """A method's name and its command, whose words hold placeholders."""

    name: str
    words: tuple[str, ...]
    is_for_pairs: bool

    @classmethod
    def parse(cls, text: str) -> "Program":
        """The program of a text such as "SDNet=python test.py {ir} {vi} {out}". Raises OptionError."""
        name, separator, command = text.partition("=")
        if not separator or not name or name.startswith(".") or re.search(r"[\s/\\]", name):
            raise OptionError("run", text, f"begins with no name; {_WANTED}")
        try:
            words = tuple(shlex.split(command))
        except ValueError as error:
            raise OptionError("run", text, f"{str(error).lower()}; {_WANTED}") from error
        used = {match for word in words for match in _PLACEHOLDER.findall(word)}
        if used not in (set(FOR_PAIRS), set(FOR_FOLDERS)):
            named = " ".join(f"{{{name}}}" for name in sorted(used)) or "none"
            raise OptionError("run", text, f"has the placeholders {named}; {_WANTED}")
        return cls(name, words, used == set(FOR_PAIRS))

    def filled(self, values: Mapping[str, Path]) -> list[str]:
        """The command's words with paths in place of the placeholders; a path stays one word, whatever is in it."""
        return [_PLACEHOLDER.sub(lambda match: str(values[match[1]].absolute()), word) for word in self.words]


@dataclasses.dataclass(frozen=True)
class ProgramRun:
    """What a program has done."""

    problems: dict[str, str]  # pair name -> how the program failed at it
    seconds: float  # per pair, start of the program included


def run_program(program: Program, pairs: PairSet, folder: Path) -> ProgramRun:
    """Run a program on all pairs; its images go to `folder`, what it prints to `folder` with the suffix `.log`.

    Images that `folder` already has for the pairs are removed first, so that they are never taken for new ones. Raises
    OptionError: the program cannot be started, or there are no two folders for placeholders of folders; ThFuseError: it
    failed at every pair.
    """
    make_directory(folder)
    names = {pair.name for pair in pairs.pairs}
    for former in (path for name, path in list_images(folder).items() if name in names):
        with as_output_error(former):
            former.unlink()
    log = folder.with_name(f"{folder.name}.log")
    problems: dict[str, str] = {}
    started = time.perf_counter()
    with as_output_error(log), log.open("wb") as output:
        if program.is_for_pairs:
            for pair in pairs.pairs:
                out = folder / f"{pair.name}.png"
                make_directory(out.parent)
                if failure := _run(program, {"ir": pair.ir, "vi": pair.vi, "out": out}, log, output.fileno()):
                    problems[pair.name] = failure
        else:
            folders = {"ir_dir": pairs.ir_dir, "vi_dir": pairs.vi_dir, "out_dir": folder}
            if not (pairs.ir_dir.is_dir() and pairs.vi_dir.is_dir()):  # but patterns
                raise OptionError("run", program.name, "the pairs do not lie in two folders; use {ir} {vi} {out}")
            if failure := _run(program, folders, log, output.fileno()):
                problems = {pair.name: failure for pair in pairs.pairs}
    if len(problems) == len(pairs.pairs):
        raise ThFuseError(f"`run` {program.name}: {next(iter(problems.values()))}; what it printed is in {log}")
    return ProgramRun(problems, (time.perf_counter() - started) / len(pairs.pairs))


def _run(program: Program, values: Mapping[str, Path], log: Path, output: int) -> str:
    """Run the program once; returns how it failed, "" if it did not."""
    words = program.filled(values)
    try:
        status = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    except OSError as error:
        raise OptionError("run", program.name, f"{words[0]} cannot be started ({error.strerror})") from error
    if status == 0:
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return f"exit status {status}: {next((line.strip() for line in reversed(lines) if line.strip()), 'no message')}"
