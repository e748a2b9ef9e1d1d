"""How busy a GPU was, with a program in place of `nvidia-smi`."""

import importlib.util
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="reads processes' times as Unix keeps them")


@pytest.fixture
def benchmark() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "precompute_command.py"
    spec = importlib.util.spec_from_file_location("benchmark_precompute_command", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_gpu_use_is_read_while_the_work_goes_on(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nfor one in 0 0 90 '[N/A]' 100 0 80 0; do echo $one; done; exec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with benchmark.gpu_use() as used:
        time.sleep(1)
    assert used == [0, 0, 90, 100, 0, 80, 0]
    assert benchmark.busy(used) == "68 %"


def test_without_a_gpu(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with benchmark.gpu_use() as used:
        pass
    assert used == [] and benchmark.busy(used) == "-"
