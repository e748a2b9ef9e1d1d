"""The training report holds the log's numbers, and samples of the checkpoints of the last run only."""

import json
import os
from pathlib import Path

import pytest
import torch

from thfuse_sam.datasets.fusion import FusionDataset
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.errors import OutputError
from thfuse_sam.masks.source import NoMasks
from thfuse_sam.models import build_network
from thfuse_sam.report.training import write_training_report
from thfuse_sam.training.checkpoint import Checkpoint, NetworkSpec, save_checkpoint

LOG = "epoch,step,lr,train/total,val/total\n1,3,0.001,0.5,\n2,6,1e-05,0.25,0.75\n"


def data_of(page: Path) -> dict:
    return json.loads((page.parent / "data.js").read_text(encoding="utf-8")[len("window.REPORT = ") : -2])


def checkpoint(path: Path, epoch: int, seed: int, age: int) -> Path:
    network = build_network("thfuse_lite")
    spec = NetworkSpec("thfuse_lite", network.options)
    save_checkpoint(path, Checkpoint(spec, network.state_dict(), {"seed": seed}, epoch, 1, {}, {}, {}, {}))
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


def test_numbers_of_the_log(tmp_path) -> None:
    (tmp_path / "train_log.csv").write_text(LOG, encoding="utf-8")
    page = write_training_report(tmp_path / "report", tmp_path / "train_log.csv", [("command", "x")])
    data = data_of(page)
    assert data["columns"] == ["step", "lr", "train/total", "val/total"]
    assert data["rows"][0] == {"epoch": 1, "step": 3, "lr": 0.001, "train/total": 0.5}
    assert data["samples"] == []
    assert data["facts"] == [["command", "x"]]


def test_samples_of_each_checkpoint(tmp_path, make_pairs) -> None:
    torch.manual_seed(0)
    (tmp_path / "log.csv").write_text(LOG, encoding="utf-8")
    files = [
        checkpoint(tmp_path / "e2.pth", 2, seed=1, age=0),
        checkpoint(tmp_path / "e1.pth", 1, seed=1, age=5),
    ]
    pairs = find_pairs(make_pairs(("a/1", "b"))).pairs
    page = write_training_report(tmp_path / "report", tmp_path / "log.csv", [], files, FusionDataset(pairs, NoMasks()))
    data = data_of(page)
    assert data["sampleEpochs"] == [1, 2]
    assert [sample["name"] for sample in data["samples"]] == ["a/1", "b"]
    addresses = [address for sample in data["samples"] for address in (sample["ir"], sample["vi"], *sample["fused"])]
    assert len(set(addresses)) == 8 and all((page.parent / address).is_file() for address in addresses)


def test_no_log_is_one_line(tmp_path) -> None:
    with pytest.raises(OutputError, match="no log"):
        write_training_report(tmp_path / "report", tmp_path / "absent.csv", [])
    assert not (tmp_path / "report").exists()
