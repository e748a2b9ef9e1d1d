"""A command and how it runs: log lines, errors and interrupts as one line each, and the exit status."""

import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import thfuse_sam
from thfuse_sam.cli.parser import CommandLine, CommandParser, register, spell_options
from thfuse_sam.cores import share_one_heap
from thfuse_sam.errors import ThFuseError
from thfuse_sam.interrupts import Terminated, delay_interrupts, stop_on_interrupts
from thfuse_sam.options.fields import Options

INTERRUPTED = 130  # exit status after Ctrl-C, as shells report it
TERMINATED = 143  # after SIGTERM
LONGEST_LINE = 2000  # characters of an error

_T = TypeVar("_T", bound=Options)
_Work = Callable[[CommandLine[_T]], int | None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Command(Generic[_T]):
    """A command: its name, its description, its options and its work."""

    program: str
    description: str
    options: type[_T]
    dry_run: str | None  # help of `--dry_run`; None: the command has none
    work: _Work[_T]  # returns the exit status; None means 0
    usage: str | None = None  # the first line of its help; None: the program and its options

    def build_parser(self) -> CommandParser[_T]:
        return CommandParser(self.program, self.description, self.options, dry_run=self.dry_run, usage=self.usage)

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Parse `argv` (None: the process's own), do the work, and return the exit status.

        A mistake of the user, a lack of memory, disk space or other processes, and a failed GPU become one line
        `PROG: error: ...` on stderr, with status 2 for wrong usage and 1 for a failure; `--debug` also shows the
        traceback. Ctrl-C gives 130 and SIGTERM 143, both after the work was cleaned up as after an error. What is
        slow to import is imported by `work`: help and wrong options are answered at once, and an interrupt during
        the imports is one line, too.
        """
        arguments = list(sys.argv[1:] if argv is None else argv)
        try:
            with stop_on_interrupts():
                return self._attempt(arguments)
        except KeyboardInterrupt as stop:  # at the last moment, after the work was done
            return self._report_interrupt(stop)

    def _attempt(self, arguments: Sequence[str]) -> int:
        try:
            line = self.build_parser().parse_command(arguments)
            show_log_lines(debug=line.debug)
            share_one_heap()
            return self.work(line) or 0
        except SystemExit as stop:  # argparse after --help
            return stop.code if isinstance(stop.code, int) else 0
        except KeyboardInterrupt as stop:
            return self._report_interrupt(stop)
        except Exception as error:
            # Cut in two, PyTorch's contexts may fail in their clean-up, and that error would hide the interrupt.
            if isinstance(error, RuntimeError) and isinstance(error.__context__, KeyboardInterrupt):
                return self._report_interrupt(error.__context__)
            traceback.clear_frames(error.__traceback__)  # what they hold may be the memory that the line needs
            reason = _reason(error)
            if reason is None:
                raise
            if "--debug" in arguments:
                traceback.print_exc()
            return self._report(reason, error.exit_status if isinstance(error, ThFuseError) else 1)

    def _report_interrupt(self, stop: KeyboardInterrupt) -> int:
        terminated = isinstance(stop, Terminated)
        what_is_there = str(stop) or "the files that are there are whole"
        message = f"{'terminated' if terminated else 'interrupted'}; {what_is_there}"
        return self._report(message, TERMINATED if terminated else INTERRUPTED)

    def _report(self, message: str, status: int) -> int:
        line = " ".join(spell_options(message).split())
        print(f"{self.program}: error: {line[:LONGEST_LINE]}{'...' * (len(line) > LONGEST_LINE)}", file=sys.stderr)
        return status


def command(
    program: str, description: str, options: type[_T], *, dry_run: str | None = None
) -> Callable[[_Work[_T]], Command[_T]]:
    """A decorator that makes a function the work of a command."""
    register(program, options)
    return lambda work: Command(program, description, options, dry_run, work)


def report_stop(command: CommandLine[_T], step: int, latest: Path) -> int:
    """Log the command that resumes an interrupted training from the checkpoint `latest`; returns the exit status."""
    typed = shlex.join([*_start_of_command(command.program), *_to_repeat(command.arguments)])
    log.info("stopped after step %d; to go on: %s `resume` %s", step, typed, shlex.quote(str(latest)))
    return INTERRUPTED


def _start_of_command(program: str) -> list[str]:
    """How the command `program` of this process is started: as a script, by its own name, or as part of `thfuse`."""
    called = Path(sys.argv[0])
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    launcher = ["python"] if processes == "1" else ["torchrun", f"--nproc_per_node={processes}"]
    if program.startswith("thfuse "):
        words = program.split()
        return words if processes == "1" else [*launcher, "-m", "thfuse_sam", *words[1:]]
    if called.name.startswith("thfuse-"):
        return [called.name]
    return [*launcher, str(called) if called.name == program else program]


def _to_repeat(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command that resumes this one: without `--overwrite` and without another `--resume`."""
    kept: list[str] = []
    skip_value = False
    for argument in arguments:
        is_value = skip_value and not argument.startswith("-")
        skip_value = argument == "--resume"
        if not (skip_value or is_value or argument.startswith("--resume=") or argument == "--overwrite"):
            kept.append(argument)
    return kept


def _reason(error: Exception) -> str | None:
    """One line for an error whose cause is outside of the program; None for any other error."""
    if isinstance(error, ThFuseError):
        return str(error)
    import torch

    from thfuse_sam.devices import is_gpu_failure, is_out_of_memory

    if is_out_of_memory(error):
        where = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
        return f"out of {where}; use a smaller `batch_size` or smaller images"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}; check the path, its permissions and the free space"
    text = str(error)
    # PyTorch raises a plain RuntimeError here, and in some cases of the next kind.
    if "DataLoader worker" in text:
        return f"a process that makes samples died ({text.splitlines()[0]}); use fewer `num_workers`"
    if isinstance(error, torch.distributed.DistError) or "gloo" in text:
        return "another process of this run is lost; look at its messages, then start all of them again with `resume`"
    if is_gpu_failure(error):
        return f"the GPU has failed: {text.splitlines()[0]}; start again, or use another `device`"
    return None


class _BesideProgressBars(logging.Handler):
    """Writes log lines to stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        with delay_interrupts():  # one that comes while tqdm takes its lock would leave it in a state that fails
            tqdm.write(spell_options(self.format(record)), file=sys.stderr)


def show_log_lines(*, debug: bool = False) -> None:
    """Show the package's log lines on stderr. If a run has several processes, all but the first show errors only."""
    from tqdm import tqdm  # not needed for help and wrong options, and slow to import beside what they need

    package = logging.getLogger(thfuse_sam.__name__)
    is_first = "LOCAL_RANK" not in os.environ or os.environ.get("RANK", "0") == "0"
    package.setLevel(logging.DEBUG if debug else logging.INFO if is_first else logging.ERROR)
    tqdm.get_lock()  # made now, because an interrupt while it is made at first use would leave it unusable
    if not any(isinstance(handler, _BesideProgressBars) for handler in package.handlers):
        package.addHandler(_BesideProgressBars())
