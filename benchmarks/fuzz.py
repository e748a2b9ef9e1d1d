"""How many damaged inputs the readers stand: inputs, longest time, peak memory, errors outside our own classes.

    python -m benchmarks.fuzz --inputs 5000 --engine hypothesis
    python -m benchmarks.fuzz --inputs 5000 --engine atheris       # pip install atheris (coverage-guided, Linux)

Each target (tests/reliability/fuzz_targets.py) gets `--inputs` inputs in a process of its own. Prints a Markdown table.
"""

import argparse
import collections
import json
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import command_line, markdown_table, peak_memory, run_python, timed


class Counter:
    """What reading inputs has shown; `check` reads one."""

    def __init__(self, read: Callable[[bytes], bool], failed: Path) -> None:
        self._read, self._failed = read, failed
        self.inputs = self.taken = 0
        self.longest = 0.0  # seconds
        self.errors: collections.Counter[str] = collections.Counter()  # by class and line

    def check(self, content: bytes) -> None:
        """Read one input; whatever is wrong is counted and the first input of its kind kept."""
        self.inputs += 1
        with timed() as spent:
            try:
                self.taken += self._read(content)
            except Exception as error:
                line = traceback.extract_tb(error.__traceback__)[-1]
                kind = f"{type(error).__name__} in {Path(line.filename).name}:{line.lineno}"
                if kind not in self.errors:
                    self._failed.mkdir(parents=True, exist_ok=True)
                    (self._failed / f"{len(self.errors)}").write_bytes(content)
                    (self._failed / f"{len(self.errors)}.txt").write_text(traceback.format_exc())
                self.errors[kind] += 1
        self.longest = max(self.longest, spent.wall)

    def report(self) -> None:
        peak = peak_memory() / 2**20
        figures = {"inputs": self.inputs, "taken": self.taken, "longest": self.longest, "peak": peak}
        print(json.dumps({**figures, "errors": dict(self.errors)}), flush=True)


def run_target(name: str, engine: str, inputs: int, seed: int, failed: Path) -> None:
    """Fuzz one target in this process and print its figures as JSON."""
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["thfuse_sam", "PIL", "yaml", "json"], enable_loader_override=False):
            from tests.reliability import fuzz_targets
    else:
        from tests.reliability import fuzz_targets

    fuzz_targets.quiet()
    target = fuzz_targets.TARGETS[name]
    with tempfile.TemporaryDirectory() as folder:
        seeds = target.seeds(Path(folder))
        counter = Counter(lambda content: fuzz_targets.expect_own_error(target, content, Path(folder)), failed)
        if engine == "atheris":
            _by_atheris(seeds, counter, inputs, seed, Path(folder))
        else:
            _by_hypothesis(target, seeds, counter, inputs, seed)


def _by_atheris(seeds: list[bytes], counter: Counter, inputs: int, number: int, folder: Path) -> None:
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir()
    for index, content in enumerate(seeds):
        (corpus / str(index)).write_bytes(content)

    def check(content: bytes) -> None:
        counter.check(content)
        if counter.inputs == inputs:  # the engine ends the process itself
            counter.report()

    limits = ["-max_len=16384", "-timeout=30", "-rss_limit_mb=0"]
    options = [f"-runs={inputs}", f"-seed={number}", *limits, f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], check)
    atheris.Fuzz()


def _by_hypothesis(target: object, seeds: list[bytes], counter: Counter, inputs: int, number: int) -> None:
    from hypothesis import HealthCheck, Phase, given, seed, settings

    from tests.reliability.fuzz_mutations import contents

    @seed(number)
    @settings(max_examples=inputs, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(contents(target, seeds))  # type: ignore[arg-type]
    def check(content: bytes) -> None:
        counter.check(content)

    check()
    counter.report()


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line(__doc__)
    parser.add_argument("--inputs", type=int, default=1000, help="of each target")
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", nargs="+", help="None: all")
    parser.add_argument("--failed", type=Path, default=Path("fuzz_failed"), help="folder for the inputs that failed")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        run_target(options.targets[0], options.engine, options.inputs, options.seed, options.failed)
        return
    from tests.reliability.fuzz_targets import TARGETS

    rows, total, errors = [], 0, 0
    for name in options.targets or TARGETS:
        figures = in_child(name, options)
        count = sum(figures["errors"].values())
        total, errors = total + figures["inputs"], errors + count
        times = f"{figures['longest']:.2f}", f"{figures['peak']:.0f}"
        rows.append((name, f"{figures['inputs']:,}", f"{figures['taken']:,}", *times, count))
        for kind, times_seen in figures["errors"].items():
            print(f"{name}: {times_seen} x {kind}", file=sys.stderr, flush=True)
    print(markdown_table(("reader", "inputs", "taken", "longest, s", "peak RSS, MiB", "other errors"), rows))
    print(f"\n{total:,} inputs, {errors} errors of other classes")


def in_child(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one target, fuzzed in a process of its own; a process that dies counts as an error."""
    arguments = ["--child", "--engine", options.engine, "--inputs", str(options.inputs), "--seed", str(options.seed)]
    arguments += ["--failed", str(options.failed / name), "--targets", name]
    try:
        output = run_python("-m", "benchmarks.fuzz", *arguments, stderr=subprocess.PIPE, OMP_NUM_THREADS="1").stdout
        figures: dict[str, Any] = json.loads(next(line for line in output.splitlines() if line.startswith('{"inputs"')))
    except subprocess.CalledProcessError as error:
        ended = f"ended with {error.returncode}: {error.stderr[-300:]!r}"
        return {"inputs": 0, "taken": 0, "longest": 0.0, "peak": 0.0, "errors": {ended: 1}}
    return figures


if __name__ == "__main__":
    main()
