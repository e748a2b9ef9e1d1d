"""The page about a GPU, from start to end at a tiny size; figures mean nothing here."""

import os
import re
import signal
import subprocess
import sys
from unittest import mock

import pytest
import torch

from benchmarks import gpu
from tests.reliability.pretended_cuda import pretended_cuda

TINY = ["--model_types", "vit_nano", "--tuned_model_type", "vit_nano", "--precisions", "fp32", "--images", "2"]
TINY += ["--size", "48", "64", "--points_per_side", "2", "--rounds", "1", "--in_process", "--parts"]


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


def test_video(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    assert gpu.main(["--device", "cpu", *TINY, "Video"]) == 0
    assert len(re.findall(r"\| (64x48|192x108) \| thfuse_(lite|tiny) \| [\d.]+ \|", capsys.readouterr().out)) == 4


def test_a_part_that_fails_says_so_and_the_next_one_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("no such part")

    with mock.patch.dict(gpu.PARTS, {"Profile": fail, "Tests": lambda *_: "all well"}):
        assert gpu.main(["--device", "cpu", *TINY, "Profile", "Tests"]) == 1
    page = capsys.readouterr().out
    assert "RuntimeError: no such part" in page and "## Tests\n\nall well" in page


# Prints as `gpu.measure` does; the part "dies" ends the process, "hangs" takes too long.
PARTS = """
import os, sys, time
print("# GPU", flush=True)
for name in sys.argv[sys.argv.index("--parts") + 1:]:
    print(f"## {name}", flush=True)
    if name == "dies":
        os.abort()
    time.sleep(60 * (name == "hangs"))
    print(f"{name} is done", flush=True)
"""


def test_parts_that_end_their_process_or_hang_do_not_end_the_page(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_PART_SECONDS", 5.0)
    command = [sys.executable, "-S", "-c", PARTS]
    assert gpu.supervise(command, ["a", "dies", "b", "hangs", "c"], minutes=1) == 1
    page = capsys.readouterr().out
    assert [f"{name} is done" in page for name in ("a", "dies", "b", "hangs", "c")] == [True, False, True, False, True]
    assert page.count("# GPU") == 1 and page.count("**This part took too long, or ended its process") == 2
    assert gpu.supervise(command, ["hangs", "a"], minutes=0) == 1
    assert gpu.supervise(command, ["a"], minutes=1) == 0


def test_a_part_alone_has_all_the_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_PART_SECONDS", 0.0)
    assert gpu.supervise([sys.executable, "-S", "-c", PARTS], ["a"], minutes=1) == 0
    assert "a is done" in capsys.readouterr().out


def test_an_interrupt_ends_the_process_that_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *words, **kinds: started.append(popen(*words, **kinds)) or started[0]
    )
    killpg = os.killpg

    def kill_twice(group: int, number: int) -> None:  # as if the timer came first
        killpg(group, number)
        started[0].wait()
        killpg(group, number)

    monkeypatch.setattr(os, "killpg", kill_twice)
    with mock.patch("builtins.print", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        gpu.supervise([sys.executable, "-S", "-c", PARTS], ["hangs"], minutes=1)
    assert started[0].returncode == -signal.SIGKILL


def test_parts_without_time_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.supervise([sys.executable, "-S", "-c", PARTS], ["hangs", "a", "b"], minutes=0.1) == 1
    assert "No time was left for: a, b." in capsys.readouterr().out
