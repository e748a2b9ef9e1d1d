"""How busy a GPU was, with a program in place of `nvidia-smi`; what runs in the process of a variant."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import precompute
from thfuse_sam.sam import generator

if sys.platform != "win32":
    from benchmarks import precompute_command

not_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="reads processes' times as Unix keeps them")


@not_on_windows
def test_gpu_use_is_read_while_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\nfor one in 0 0 90 '[N/A]' 100 0 80 0; do echo $one; done; touch $0.said; exec sleep 60\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with precompute_command.gpu_use() as used:
        while not program.with_name("nvidia-smi.said").exists():
            time.sleep(0.01)
    assert used == [0, 0, 90, 100, 0, 80, 0]
    assert precompute_command.busy(used) == "68 %"


@not_on_windows
def test_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with precompute_command.gpu_use() as used:
        pass
    assert used == [] and precompute_command.busy(used) == "-"


@pytest.mark.parametrize(("variant", "kept"), [("stock", 0), ("fp32", 2)])
def test_only_our_generator_keeps_freed_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variant: str, kept: int
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(generator, "keep_freed_memory", lambda: calls.append(None))
    argv = ["--model_types", "vit_nano", "--sizes", "60x80", "--points_per_side", "2", "--device", "cpu"]
    assert precompute.main([*argv, "--variants", variant, "--masks", str(tmp_path / "masks.npy")]) == 0
    spent = json.loads(capsys.readouterr().out)
    assert len(calls) == kept and spent["points"] == 4 and spent["wall"] > 0 and spent["peak"] > 2**24
    assert np.load(tmp_path / "masks.npy").shape[1:] == (60, 80)


def test_variants_take_turns_and_stock_waits_as_without_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[str, dict[str, str]]] = []

    def figures_of(module: str, *arguments: str, **environment: str) -> dict[str, float]:
        variant, file = (arguments[arguments.index(name) + 1] for name in ("--variants", "--masks"))
        turns.append((variant, environment))
        np.save(file, np.ones((1, 2, 2), dtype=bool))
        return {
            "wall": 8.0 if variant == "stock" else len(turns) / 2,
            "cpu": 1.0,
            "peak": 2**20 * len(turns),
            "points": 4,
        }

    monkeypatch.setattr(precompute, "figures_of", figures_of)
    results = precompute.in_turn([], ["stock", "bf16"], rounds=2)
    spinning = {"GOMP_SPINCOUNT": "300000"}
    assert turns == [("stock", spinning), ("bf16", {}), ("stock", spinning), ("bf16", {})]
    assert precompute.figures(results) == [
        ("stock", "8.00", "1.00", "1.00", "3", 4, 1, "1.00000", "1.000"),
        ("bf16", "1.50", "1.00", "5.33", "4", 4, 1, "1.00000", "1.000"),
    ]
