"""The rate of `precompute_masks.py` against that of its mask generator alone: whether reading and writing are hidden.

    python -m benchmarks.precompute_command --ir_dir DIR --vi_dir DIR [--pairs 40] [--rounds 1] [OPTION...]

In turn, each in a process of its own: the generator on images that lie in memory; the command on the same images, into
an empty folder. Further options go to the command. Prints a Markdown table with one row for each round.

Where `nvidia-smi` is, also how busy the first GPU was: the mean of what it reports five times a second, from the first
to the last time that the GPU worked, so without the time to load the model.
"""

import argparse
import contextlib
import json
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.common import ROOT, command_line, figures_of, markdown_table, run_python, timed


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line(__doc__)
    parser.add_argument("--ir_dir", type=Path, required=True)
    parser.add_argument("--vi_dir", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=40, help="the first so many of the folders")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options, further = parser.parse_known_args(argv)
    if options.child:
        generator_alone(options.ir_dir, options.vi_dir, further)
        return
    names = sorted(path.name for path in options.vi_dir.iterdir())[: options.pairs]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for modality, source in (("ir", options.ir_dir), ("vi", options.vi_dir)):
            (Path(folder) / modality).mkdir()
            for name in names:
                (Path(folder) / modality / name).symlink_to((source / name).resolve())
        folders = ["--ir_dir", f"{folder}/ir", "--vi_dir", f"{folder}/vi", *further]
        for number in range(options.rounds):
            alone = figures_of("benchmarks.precompute_command", "--child", *folders, stderr=subprocess.PIPE)["rate"]
            rows.append(command_figures([*folders, "--output_dir", f"{folder}/{number}"], alone))
            print(*rows[-1], file=sys.stderr, flush=True)
    rates = "images", "generator images/s", "command images/s", "ratio"
    print(markdown_table((*rates, "command CPU s", "start and end, s", "peak MiB", "GPU busy"), rows, text_columns=0))


def command_figures(arguments: list[str], generator_rate: float) -> list[str]:
    """A row: the command's own rate beside the generator's, CPU time, memory, and how busy the GPU was."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with timed() as spent, gpu_use() as used:
        done = run_python(str(ROOT / "precompute_masks.py"), *arguments, stderr=subprocess.PIPE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    message = re.search(r"masks made: (\d+) in ([\d.]+) s", done.stderr)
    assert message is not None, done.stderr
    images, seconds = int(message[1]), float(message[2])
    rates = f"{generator_rate:.3f}", f"{images / seconds:.3f}", f"{images / seconds / generator_rate:.3f}"
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [
        str(images), *rates, f"{cpu:.1f}", f"{spent.wall - seconds:.1f}", f"{after.ru_maxrss / 2**10:.0f}", busy(used),
    ]  # fmt: skip


@contextlib.contextmanager
def gpu_use() -> Iterator[list[int]]:
    """At its end the list says how busy the GPU was, in percent, every 0.2 s; it is empty without `nvidia-smi`."""
    used: list[int] = []
    program = shutil.which("nvidia-smi")
    if program is None:
        yield used
        return
    query = ["--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]
    with subprocess.Popen([program, *query], stdout=subprocess.PIPE, text=True) as watch:
        try:
            yield used
        finally:
            watch.terminate()
            used += [int(line) for line in watch.communicate()[0].split() if line.isdecimal()]


def busy(used: list[int]) -> str:
    """The mean from the first to the last percentage that is not 0; "-" where there is none."""
    working = [index for index, percent in enumerate(used) if percent > 0]
    return f"{statistics.mean(used[working[0] : working[-1] + 1]):.0f} %" if working else "-"


def generator_alone(ir_dir: Path, vi_dir: Path, further: list[str]) -> None:
    """Print the rate of the command's mask generator on images in memory."""
    from thfuse_sam.cli.commands import precompute
    from thfuse_sam.commands.inputs import open_sam
    from thfuse_sam.devices import resolve_device
    from thfuse_sam.images import read_for_sam
    from thfuse_sam.sam.generator import AutomaticMaskGenerator
    from thfuse_sam.sam.registry import own_settings

    arguments = ["--ir_dir", str(ir_dir), "--vi_dir", str(vi_dir), *further]
    options = precompute.build_parser().parse_command(arguments).options
    sam, _ = open_sam(options, resolve_device(options.device))
    generator = AutomaticMaskGenerator(sam, options.generator_settings(own_settings(sam)))
    images = [read_for_sam(path, "ir") for path in sorted(ir_dir.iterdir())]
    images += [read_for_sam(path, "vi") for path in sorted(vi_dir.iterdir())]
    with timed() as spent:
        for image in images:
            generator.generate(image)
    print(json.dumps({"rate": len(images) / spent.wall}))


if __name__ == "__main__":
    main()
