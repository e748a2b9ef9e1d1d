"""The benchmark of fine-tuning runs, on little."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import finetune
from thfuse_sam.files import file_sha256
from thfuse_sam.sam.nano import build_vit_nano


@pytest.fixture(autouse=True)
def restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No weights of the user's, and the number of threads as it was."""
    monkeypatch.setenv("SAM_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two images, each with its right half labelled."""
    root = tmp_path / "data"
    for folder in ("imgs", "masks"):
        (root / folder).mkdir(parents=True)
    mask = np.zeros((24, 32), np.uint8)
    mask[:, 16:] = 255
    for name in ("a", "b"):
        for folder in ("imgs", "masks"):
            Image.fromarray(mask).save(root / folder / f"{name}.png")
    return root


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_cache_gives_a_time_for_each_epoch_and_the_gain(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune.main(["cache", "--data_dir", str(data), "--model_type", "vit_nano", "--epochs", "2"])
    text = capsys.readouterr().out
    assert "2 images with 2 objects." in text and "times as fast" in text
    for name in ("off", "on"):
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert all(float(cell) >= 0 for cell in line.strip("|").split("|")[1:]) and line.count("|") == 4


def test_cost_of_encoder_and_decoder(capsys: pytest.CaptureFixture[str]) -> None:
    finetune.main(["cost", "--model_types", "vit_nano", "--objects", "1", "2"])
    _, (name, encoder, *decoders) = rows(capsys.readouterr().out)
    assert name == "vit_nano" and float(encoder) > 0 and len(decoders) == 2


def test_table_has_both_prompts_of_each_set(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(build_vit_nano(64).state_dict(), tmp_path / "base.pth")
    given = ["table", "--sets", f"halves={data}", "--output_dir", str(tmp_path / "runs")]
    finetune.main([*given, "--", "--checkpoint", str(tmp_path / "base.pth"), "--num_epochs", "1"])
    text = capsys.readouterr().out
    found = [row for row in rows(text) if row[0] == "halves"]
    assert [row[1:4] for row in found] == [["1", "1", "point"], ["1", "1", "box"]]
    assert all(0 <= float(cell) <= 1 for row in found for cell in row[4:])
    assert f"Tuned from vit_nano, SHA-256 {file_sha256(tmp_path / 'base.pth')[:16]}, seed 0: " in text
