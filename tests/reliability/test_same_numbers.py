"""The same command gives the same numbers: bit by bit on one machine, within a tolerance on any.

`golden.json` holds figures of each command on the small data of these tests. After a change that is to alter them:

    THFUSE_WRITE_GOLDEN=1 python -m pytest tests/reliability/test_same_numbers.py
"""

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .conftest import CASES, Ground

GOLDEN = Path(__file__).with_name("golden.json")
TOLERANCE = 2e-3  # relative; versions of torch, and processors, add numbers up in other orders

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")


@pytest.mark.parametrize("name", CASES)
def test_two_runs_are_equal_bit_by_bit(ground: Ground, name: str) -> None:
    expected = ground.undisturbed(name)
    ground.clear()
    ground.require_recovery(name)
    assert expected == ground.undisturbed(name)


def mask_figures(out: Path) -> dict[str, float]:
    """Mean and number of labels of each mask."""
    figures = {}
    for path in sorted(out.rglob("*.npy")):
        mask = np.load(path)
        figures[f"{path.parent.name}/{path.stem} share"] = float((mask > 0).mean())
        figures[f"{path.parent.name}/{path.stem} segments"] = float(mask.max())
    return figures


def log_figures(out: Path) -> dict[str, float]:
    """Losses and scores of each epoch."""
    with (out / "train_log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        f"epoch {row['epoch']} {key}": float(value)
        for row in rows
        for key, value in row.items()
        if value and key.startswith(("train/", "val/"))
    }


def metric_figures(out: Path) -> dict[str, float]:
    """Mean metrics of the fused images."""
    mean = json.loads((out / "metrics.json").read_text())["mean"]
    return {key: value for key, value in mean.items() if value is not None}


FIGURES: dict[str, Callable[[Path], dict[str, float]]] = {
    "precompute": mask_figures,
    "train": log_figures,
    "test": metric_figures,
    "finetune": log_figures,
    "predict": mask_figures,
}


@pytest.mark.parametrize("name", CASES)
def test_golden_values(ground: Ground, name: str) -> None:
    ground.undisturbed(name)
    ground.clear()
    assert ground.run(name)["status"] == 0
    found = FIGURES[name](ground.root / "out")
    kept = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("THFUSE_WRITE_GOLDEN"):
        kept[name] = {key: float(f"{value:.6g}") for key, value in found.items()}
        GOLDEN.write_text(json.dumps(kept, indent=2) + "\n")
    assert found == pytest.approx(kept[name], rel=TOLERANCE, abs=TOLERANCE)
