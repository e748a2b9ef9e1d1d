"""What the benchmarks share: the command line, times, memory, work in a process of its own."""

import argparse
import contextlib
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thfuse_sam.report.tables import markdown_table as markdown_table

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[1]


def command_line(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring as it stands."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def made_by(device: "str | torch.device" = "cpu") -> str:
    """Machine, code and date, for the line beside a table."""
    # Imported here: the parents of measured processes stay small and start at once.
    import torch

    from thfuse_sam.report.run_facts import code_version, machine

    return f"{machine(torch.device(device))}; {code_version()}; {datetime.date.today().isoformat()}"


@dataclass
class Seconds:
    """How long a piece of work took."""

    wall: float = 0.0
    cpu: float = 0.0  # of all threads together; other work on the machine does not count


@contextlib.contextmanager
def timed() -> Iterator[Seconds]:
    """Inside, the work is done; afterwards the value says how long it took."""
    seconds = Seconds()
    started, cpu_started = time.perf_counter(), time.process_time()
    yield seconds
    seconds.wall, seconds.cpu = time.perf_counter() - started, time.process_time() - cpu_started


def peak_memory() -> int:
    """Largest resident size of this process so far, bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # unlike getrusage, this does not include the parent's size
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def run_python(*arguments: str, stderr: int | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Python in a process of its own, with the checkout on its path. Raises CalledProcessError where it fails."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=variables, stdout=subprocess.PIPE, stderr=stderr, check=True, text=True)


def figures_of(module: str, *arguments: str, stderr: int | None = None, **environment: str) -> Any:
    """What `python -m module` prints as JSON in its last line."""
    return json.loads(run_python("-m", module, *arguments, stderr=stderr, **environment).stdout.splitlines()[-1])
