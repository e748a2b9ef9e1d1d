"""How many damaged inputs the readers stand: inputs, longest time, peak memory, errors outside our own classes.

    python benchmarks/fuzz.py --inputs 5000 --engine hypothesis
    python benchmarks/fuzz.py --inputs 5000 --engine atheris       # pip install atheris (coverage-guided, Linux)

Each target (tests/reliability/fuzz_targets.py) gets `--inputs` inputs in a process of its own. Prints a Markdown table.
"""

import argparse
import collections
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"


class Counter:
    """What reading inputs has shown; `check` reads one."""

    def __init__(self, read: Callable[[bytes], bool], failed: Path) -> None:
        self._read, self._failed = read, failed
        self.inputs = self.taken = 0
        self.longest = 0.0  # seconds
        self.errors: collections.Counter[str] = collections.Counter()  # by class and place

    def check(self, content: bytes) -> None:
        """Read one input; whatever is wrong is counted and the first input of its kind kept."""
        self.inputs += 1
        started = time.perf_counter()
        try:
            self.taken += self._read(content)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}"
            if kind not in self.errors:
                self._failed.mkdir(parents=True, exist_ok=True)
                (self._failed / f"{len(self.errors)}").write_bytes(content)
                (self._failed / f"{len(self.errors)}.txt").write_text(traceback.format_exc())
            self.errors[kind] += 1
        self.longest = max(self.longest, time.perf_counter() - started)

    def report(self) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        figures = {"inputs": self.inputs, "taken": self.taken, "longest": self.longest, "peak": peak}
        print(json.dumps({**figures, "errors": dict(self.errors)}), flush=True)


def run_target(name: str, engine: str, inputs: int, seed: int, failed: Path) -> None:
    """Fuzz one target in this process and print its figures as JSON."""
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["thfuse_sam", "PIL", "yaml", "json"], enable_loader_override=False):
            from reliability import fuzz_targets
    else:
        from reliability import fuzz_targets

    fuzz_targets.quiet()
    target = fuzz_targets.TARGETS[name]
    with tempfile.TemporaryDirectory() as folder:
        seeds = target.seeds(Path(folder))
        counter = Counter(lambda content: fuzz_targets.expect_own_error(target, content, Path(folder)), failed)
        if engine == "hypothesis":
            _by_hypothesis(target, seeds, counter, inputs, seed)
            counter.report()
            return
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for index, content in enumerate(seeds):
            (corpus / str(index)).write_bytes(content)

        def check(content: bytes) -> None:
            counter.check(content)
            if counter.inputs == inputs:  # the engine ends the process itself
                counter.report()

        options = [
            f"-runs={inputs}",
            f"-seed={seed}",
            "-max_len=16384",
            "-timeout=30",
            f"-artifact_prefix={folder}/",
            "-rss_limit_mb=0",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus)], check)
        atheris.Fuzz()


def _by_hypothesis(target: object, seeds: list[bytes], counter: Counter, inputs: int, number: int) -> None:
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from reliability.fuzz_mutations import contents

    @seed(number)
    @settings(max_examples=inputs, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(contents(target, seeds))  # type: ignore[arg-type]
    def check(content: bytes) -> None:
        counter.check(content)

    check()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="of each target")
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", nargs="+", help="None: all")
    parser.add_argument(
        "--failed", type=Path, default=Path("fuzz_failed"), help="folder for inputs that were not stood"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    if options.here:
        run_target(options.targets[0], options.engine, options.inputs, options.seed, options.failed)
        return
    from reliability.fuzz_targets import TARGETS

    print("| reader | inputs | taken | longest, s | peak RSS, MiB | other errors |\n|---|---:|---:|---:|---:|---:|")
    total = errors = 0
    for name in options.targets or TARGETS:
        command = [sys.executable, __file__, "--here", "--engine", options.engine, "--inputs", str(options.inputs)]
        command += ["--seed", str(options.seed), "--failed", str(options.failed / name), "--targets", name]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"inputs"')]
        if not lines:
            print(f"| {name} | ended with {done.returncode}: {done.stderr[-300:]!r} |", flush=True)
            errors += 1
            continue
        found = json.loads(lines[-1])
        total, errors = total + found["inputs"], errors + sum(found["errors"].values())
        print(f"| {name} | {found['inputs']:,} | {found['taken']:,} | {found['longest']:.2f} | {found['peak']:.0f} | "
              f"{sum(found['errors'].values())} |", flush=True)  # fmt: skip
        for kind, count in found["errors"].items():
            print(f"  {count} x {kind}", file=sys.stderr, flush=True)
    print(f"\n{total:,} inputs, {errors} errors of other classes")


if __name__ == "__main__":
    main()
