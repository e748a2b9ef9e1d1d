"""How the commands fare on a machine that others use too: one command, under four minutes on two cores.

    python -m benchmarks.busy_machine [--rounds 1] [--commands NAME...]

Masks, training, fusing with metrics and fine-tuning, each on a few generated pictures: on the machine as it is; with
OpenMP's own way of waiting ("spinning"), for what the passive one costs there; with one core kept busy by another
program; with all cores kept busy; and in a CPU quota of half of the cores (a control group where one can be made, else
an affinity). Prints a Markdown table of seconds and slowdowns. The fair slowdown is the one of work that uses all cores
well: a busy program and a command share a core half and half.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, command_line, made_by, markdown_table, timed
from thfuse_sam.cores import WAIT_VARIABLES, usable_cores
from thfuse_sam.images import write_image

CORES = usable_cores()
BAR = 1.3  # times the fair slowdown
_GROUPS = Path("/sys/fs/cgroup")

# Condition -> (busy programs, share of the cores that a quota leaves, the fair slowdown).
CONDITIONS = {
    "quiet": (0, 1.0, 1.0),
    "spinning": (0, 1.0, 1.0),
    "one core busy": (1, 1.0, CORES / (CORES - 0.5)),
    "all busy": (CORES, 1.0, 2.0),
    "half a quota": (0, 0.5, CORES / max(1, CORES // 2)),
}
COMMANDS = {
    "masks": "precompute_masks.py --sam_model_type vit_nano --dataset_path pairs --modality ir",
    "training": "train.py --dataset_path pairs --crop_size 128 --batch_size 4 --max_steps 12",
    "fusing, metrics": "test.py --dataset_path pairs --metrics",
    "fine-tuning": "finetune.py --sam_model_type vit_nano --data_dir objects --max_steps 6",
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="NAME")
    options = parser.parse_args(argv)
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder))
        for number in range(options.rounds):
            for name in options.commands:
                for condition in CONDITIONS:
                    words = [*COMMANDS[name].split(), "--output_dir", f"{name} {condition} {number}", "--device", "cpu"]
                    taken = run(words, Path(folder), condition)
                    seconds.setdefault((name, condition), []).append(taken)
                    print(f"{name}, {condition}: {taken:.1f} s", file=sys.stderr, flush=True)
    rows = []
    for name in options.commands:
        quiet = statistics.median(seconds[name, "quiet"])
        times = [statistics.median(seconds[name, condition]) for condition in CONDITIONS]
        rows.append((name, *(f"{time:.1f} ({time / quiet:.2f})" for time in times)))
    rows.append(("at most", *(f"({fair * (BAR if fair > 1 else 1):.2f})" for _, _, fair in CONDITIONS.values())))
    print(f"Seconds, in brackets the slowdown; median of {options.rounds}. {made_by()}; {CORES} cores\n")
    print(markdown_table(("command", *CONDITIONS), rows))


def write_pictures(folder: Path) -> None:
    """Generated pairs in `pairs`, and annotated images in `objects`: bright boxes on noise."""
    random = np.random.default_rng(0)
    for number in range(4):
        image = random.integers(0, 90, (480, 640, 3), dtype=np.uint8)
        boxes = np.zeros((480, 640), np.uint8)
        for box in range(1, 6):
            top, left = random.integers(0, 400), random.integers(0, 560)
            boxes[top : top + 80, left : left + 80] = box
        image[boxes > 0] += 120
        for place in ("pairs/ir", "pairs/vi", "objects/images"):
            write_image(folder / place / f"{number}.png", image)
        write_image(folder / "objects/instances" / f"{number}.png", boxes)


def run(words: Sequence[str], folder: Path, condition: str) -> float:
    """Seconds that a command takes under a condition."""
    busy, share, _ = CONDITIONS[condition]
    environment = {
        name: value for name, value in os.environ.items() if name not in (*WAIT_VARIABLES, "OMP_NUM_THREADS")
    }
    if condition == "spinning":
        environment["GOMP_SPINCOUNT"] = "300000"  # libgomp's default
    command = [sys.executable, str(ROOT / words[0]), *words[1:]]
    with contextlib.ExitStack() as stack:
        limit = stack.enter_context(quota(share)) if share < 1 else None
        for _ in range(busy):
            stack.enter_context(busy_program())
        with timed() as taken:
            subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True, preexec_fn=limit)
    return taken.wall


@contextlib.contextmanager
def busy_program() -> Iterator[None]:
    """Inside, another program computes without a pause."""
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()


@contextlib.contextmanager
def quota(share: float) -> Iterator[Callable[[], object]]:
    """Yields what a new process calls to get `share` of the cores."""
    group = _GROUPS / ("" if (_GROUPS / "cgroup.controllers").is_file() else "cpu") / f"thfuse-{os.getpid()}"
    microseconds = int(share * CORES * 100_000)
    try:
        group.mkdir()
    except OSError:
        yield lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: max(1, int(share * CORES))])
        return
    try:
        if (group / "cpu.max").is_file():
            (group / "cpu.max").write_text(f"{microseconds} 100000")
        else:
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text(str(microseconds))
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        group.rmdir()


if __name__ == "__main__":
    main()
