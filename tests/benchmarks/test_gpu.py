"""The page about a GPU, from start to end at a tiny size; figures mean nothing here."""

import re
from unittest import mock

import pytest
import torch

from benchmarks import gpu
from tests.reliability.pretended_cuda import pretended_cuda

TINY = ["--model_types", "vit_nano", "--tuned_model_type", "vit_nano", "--precisions", "fp32", "--images", "2"]
TINY += ["--size", "48", "64", "--points_per_side", "2", "--rounds", "1", "--compile", "off", "--parts"]


@pytest.mark.skipif(
    not hasattr(torch._C, "_ensureCUDADeviceGuardSet"), reason="needs a newer torch to pretend that there is a GPU"
)
def test_the_generator_on_the_pretended_device(capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["The generator beside stock", "Parts of an image", "precompute_masks.py"]
    with pretended_cuda(), mock.patch.object(torch.cuda, "reset_peak_memory_stats"):
        assert gpu.main([*TINY, *parts]) == 0
    page = capsys.readouterr().out
    assert "| vit_nano | fp32 |" in page
    [row] = re.findall(r"\| vit_nano \| bf16 \| 128 \|.*", page)
    assert int(row.split("|")[-2]) <= 12
    assert re.search(r"\| vit_nano \| 2 \| [\d.]+ \| [\d.]+ \|", page)


@pytest.mark.slow
def test_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["Profile", "finetune.py", "predict.py", "test.py"]
    assert gpu.main(["--device", "cpu", *TINY, *parts]) == 0
    page = capsys.readouterr().out
    assert [f"## {part}" in page for part in parts] == [True] * 4
    assert len(re.findall(r"\| (frozen|LoRA|whole) \| fp32 \| [\d.]+ \|", page)) == 3


def test_a_part_that_fails_says_so_and_the_next_one_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("no such part")

    with mock.patch.dict(gpu.PARTS, {"Profile": fail, "Tests": lambda *_: "all well"}):
        assert gpu.main(["--device", "cpu", *TINY, "Profile", "Tests"]) == 1
    page = capsys.readouterr().out
    assert "RuntimeError: no such part" in page and "## Tests\n\nall well" in page
