import operator
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from thfuse_sam import cores
from thfuse_sam.errors import WorkerError

ROOT = Path(__file__).resolve().parents[1]
COUNTS = ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE")

# Imports no torch: whoever first asks for it ends the run, and the answer is what OpenMP would read now.
WHO_LOADS_TORCH = """
import importlib.abc, os, runpy, sys

class Torch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "torch":
            print("settled" if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & {*os.environ} else "spin")
            os._exit(0)

sys.meta_path.insert(0, Torch())
kind, name, *sys.argv[1:] = sys.argv[1:]
if kind == "import":
    __import__(name)
elif kind == "script":
    runpy.run_path(name, run_name="__main__")
else:
    runpy.run_module(name, run_name="__main__")
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 cores whose control groups are files below the folder."""
    for name in (*COUNTS, *cores.WAIT_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cores, "_CONTROL_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(cores, "_affinity", lambda: 8)
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "max 100000"}, 8),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "200000 100000"}, 2),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "350000 100000"}, 3),
        ({"proc/self/cgroup": "0::/a/b", "cgroup/a/cpu.max": "400000 100000", "cgroup/a/b/cpu.max": "max 100000"}, 4),
        ({"proc/self/cgroup": "0::/../..", "cgroup/cpu.max": "200000 100000"}, 2),
        ({"proc/self/cgroup": "3:cpu,cpuacct:/", "cgroup/cpu/cpu.cfs_quota_us": "-1"}, 8),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/docker/x\n0::/",
                "cgroup/cpu/cpu.cfs_quota_us": "300000",
                "cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            3,
        ),
    ],
)
def test_cores_that_quotas_leave(machine: Path, files: dict[str, str], expected: int) -> None:
    write(machine, files)
    assert cores.usable_cores() == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_CPUS_PER_TASK": "4"}, 4),
        ({"SLURM_CPUS_PER_TASK": "16"}, 8),
        ({"OMP_NUM_THREADS": "2", "SLURM_CPUS_PER_TASK": "4"}, 2),
        ({"OMP_NUM_THREADS": "3,2"}, 3),
        ({"OMP_NUM_THREADS": "many"}, 8),
        ({"OMP_NUM_THREADS": "0"}, 8),
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}, 4),  # as torchrun sets them
        ({"LOCAL_WORLD_SIZE": "16"}, 1),
    ],
)
def test_cores_that_variables_leave(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: int) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cores.usable_cores() == expected


def test_openmp_is_told_what_it_cannot_know(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores.prepare_openmp()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE" and "OMP_NUM_THREADS" not in os.environ
    write(machine, {"proc/self/cgroup": "0::/", "cgroup/cpu.max": "200000 100000"})
    cores.prepare_openmp()
    assert os.environ["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize(
    ("load", "machine_cores", "variable"),
    [
        ("0.02 0.1 0.1 1/90 7", 8, "GOMP_SPINCOUNT"),
        ("7.90 5.0 4.0 1/90 7", 8, "GOMP_SPINCOUNT"),  # what ran has ended
        ("0.05 0.1 0.1 3/90 7", 8, "GOMP_SPINCOUNT"),  # it has just begun, and may end at once
        ("0.90 0.5 0.4 2/90 7", 8, "OMP_WAIT_POLICY"),
        ("20.0 20.0 20.0 21/900 7", 64, "GOMP_SPINCOUNT"),  # they have cores of their own
        ("60.0 60.0 60.0 61/900 7", 64, "OMP_WAIT_POLICY"),
    ],
)
def test_threads_spin_briefly_where_nobody_else_computes(
    machine: Path, monkeypatch: pytest.MonkeyPatch, load: str, machine_cores: int, variable: str
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: machine_cores)
    write(machine, {"proc/loadavg": load})
    cores.prepare_openmp()
    assert [name for name in cores.WAIT_VARIABLES if name in os.environ] == [variable]


@pytest.mark.parametrize("name", cores.WAIT_VARIABLES)
def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "ACTIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "12")
    cores.prepare_openmp()
    assert {key: os.environ[key] for key in cores.WAIT_VARIABLES if key in os.environ} == {name: "ACTIVE"}
    assert os.environ["OMP_NUM_THREADS"] == "12"


@pytest.mark.parametrize(
    "entry",
    [
        ("import", "thfuse_sam.models"),
        ("import", "thfuse_sam.precompute.ray"),
        ("import", "tests.conftest"),
        ("module", "benchmarks.fusion_speed"),
        ("module", "tools.vit_nano"),
        ("script", "precompute_masks.py"),
        ("script", "train.py"),
        ("script", "test.py"),
        ("script", "finetune.py", "--data_dir", "."),
        ("script", "predict.py", "--image", "."),
    ],
    ids=lambda entry: entry[1],
)
def test_threads_are_settled_before_torch_loads(entry: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", WHO_LOADS_TORCH, *entry]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.stdout.strip() == "settled", done.stderr


def test_free_ram_is_the_least_of_machine_and_groups(machine: Path) -> None:
    assert cores.free_ram() == 0
    write(machine, {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 4000 kB", "proc/self/cgroup": "0::/a"})
    assert cores.free_ram() == 4000 * 1024
    write(machine, {"cgroup/memory.max": "max", "cgroup/memory.current": "5"})
    write(machine, {"cgroup/a/memory.max": "1000", "cgroup/a/memory.current": "400"})
    assert cores.free_ram() == 600
    write(machine, {"proc/self/cgroup": "8:memory:/b"})
    write(machine, {"cgroup/memory/b/memory.limit_in_bytes": "70", "cgroup/memory/b/memory.usage_in_bytes": "80"})
    assert cores.free_ram() == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_results_keep_the_order_of_their_items(processes: int) -> None:
    taken: list[int] = []
    items = (taken.append(number) or number for number in range(20))
    results = cores.with_results(items, operator.pow, lambda number: (number, 2), processes)
    assert next(results) == (0, 0) and len(taken) <= 2 * processes + 1
    assert list(results) == [(number, number**2) for number in range(1, 20)]


def test_a_process_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkerError, match="a process of this run died"):
        list(cores.with_results(range(4), os._exit, lambda number: (number,), 2))


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (2**40, [(-3, 2**28), (-1, 2**28)]),
        (2**25, [(-3, 2**28), (-3, 2**25), (-1, 2**28)]),  # older glibc
        (0, [(-3, 2**28), (-3, 2**25)]),
    ],
)
def test_freed_memory_is_kept_where_the_c_library_can_be_told(
    monkeypatch: pytest.MonkeyPatch, most: int, expected: list[tuple[int, int]]
) -> None:
    told: list[tuple[int, int]] = []

    def mallopt(option: int, value: int) -> int:
        told.append((option, value))
        return int(value <= most)

    library = SimpleNamespace(mallopt=mallopt)
    monkeypatch.setattr(cores.ctypes, "CDLL", lambda name: library)
    cores.keep_freed_memory()
    assert told == expected
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    cores.share_one_heap()
    assert told == [*expected, (-8, 1)]
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    cores.share_one_heap()
    del library.mallopt  # macOS, musl
    cores.keep_freed_memory()
    cores.share_one_heap()
    assert told == [*expected, (-8, 1)]
