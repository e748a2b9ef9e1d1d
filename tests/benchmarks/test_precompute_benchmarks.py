"""How busy a GPU was, with a program in place of `nvidia-smi`."""

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks import precompute_command

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="reads processes' times as Unix keeps them")


def test_gpu_use_is_read_while_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nfor one in 0 0 90 '[N/A]' 100 0 80 0; do echo $one; done; exec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with precompute_command.gpu_use() as used:
        time.sleep(1)
    assert used == [0, 0, 90, 100, 0, 80, 0]
    assert precompute_command.busy(used) == "68 %"


def test_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with precompute_command.gpu_use() as used:
        pass
    assert used == [] and precompute_command.busy(used) == "-"
