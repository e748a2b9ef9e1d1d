"""The rate of `precompute_masks.py` against that of its mask generator alone: whether reading and writing are hidden.

    python benchmarks/precompute_command.py --ir_dir DIR --vi_dir DIR [--pairs 40] [--rounds 1] [OPTION...]

In turn, each in a process of its own: the generator on images that lie in memory; the command on the same images, into
an empty folder. Further options go to the command. Prints one line for each round.

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
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ir_dir", type=Path, required=True)
    parser.add_argument("--vi_dir", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=40, help="the first so many of the folders")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options, further = parser.parse_known_args()
    if options.child:
        generator_alone(["--ir_dir", str(options.ir_dir), "--vi_dir", str(options.vi_dir), *further])
        return
    names = sorted(path.name for path in options.vi_dir.iterdir())[: options.pairs]
    with tempfile.TemporaryDirectory() as folder:
        for modality, source in (("ir", options.ir_dir), ("vi", options.vi_dir)):
            (Path(folder) / modality).mkdir()
            for name in names:
                (Path(folder) / modality / name).symlink_to((source / name).resolve())
        folders = ["--ir_dir", f"{folder}/ir", "--vi_dir", f"{folder}/vi"]
        print(
            "images  generator images/s  command images/s  share  command CPU s  start and end, s  peak MiB  GPU busy"
        )
        for number in range(options.rounds):
            alone = json.loads(run([__file__, "--child", *folders, *further]).stdout)
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            command = [str(ROOT / "precompute_masks.py"), *folders, "--output_dir", f"{folder}/{number}", *further]
            with gpu_use() as used:
                done = run(command)
            seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
            made = re.search(r"masks made: (\d+) in ([\d.]+) s", done.stderr)
            assert made is not None, done.stderr
            rate = int(made[1]) / float(made[2])
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(
                f"{made[1]:>6s}  {alone['rate']:18.3f}  {rate:16.3f}  {rate / alone['rate']:5.3f}  {cpu:13.1f}  "
                f"{seconds - float(made[2]):16.1f}  {after.ru_maxrss / 2**10:8.0f}  {busy(used):>8s}",
                flush=True,
            )


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


def run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)


def generator_alone(arguments: list[str]) -> None:
    from thfuse_sam.cli.precompute import build_parser
    from thfuse_sam.commands.inputs import load_sam
    from thfuse_sam.devices import resolve_device
    from thfuse_sam.images import read_for_sam
    from thfuse_sam.sam.generator import AutomaticMaskGenerator

    options = build_parser().parse_command(arguments).options
    sam, model_type = load_sam(options, resolve_device(options.device))
    generator = AutomaticMaskGenerator(sam, options.generator_settings(model_type))
    folders = {"ir": options.ir_dir, "vi": options.vi_dir}
    images = [read_for_sam(path, key) for key, folder in folders.items() for path in sorted(folder.iterdir())]
    started = time.perf_counter()
    for image in images:
        generator.generate(image)
    print(json.dumps({"rate": len(images) / (time.perf_counter() - started)}))


if __name__ == "__main__":
    main()
