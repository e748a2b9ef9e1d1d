"""The commands under injected faults: one clear line, nothing half-written, and a rerun ends as if undisturbed."""

import random
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import CASES, Ground, mounted, partial_files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither fork nor these signals")

KILLS = 20


@pytest.mark.parametrize("name", CASES)
def test_killed_twenty_times(ground: Ground, name: str) -> None:
    ground.undisturbed(name)
    moments = random.Random(7)
    ground.clear()
    kills = 0
    while kills < KILLS:
        answer = ground.run(name, send=signal.SIGKILL, after=moments.uniform(0.05, 1.0) * ground.seconds(name))
        assert answer["status"] in (0, -signal.SIGKILL), answer["err"]
        kills += answer["status"] != 0
        if answer["status"] == 0:
            assert CASES[name].result(ground.root / "out") == ground.undisturbed(name)
            ground.clear()
    ground.require_recovery(name)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop(ground: Ground, name: str, number: signal.Signals, status: int) -> None:
    # Training finishes its step and reports a stop, whichever signal asked for it.
    expected = {0, status, 130}
    ground.undisturbed(name)
    ground.clear()
    parts = [0.2, 0.5, 0.8]
    while parts:
        answer = ground.run(name, send=number, after=parts[0] * ground.seconds(name))
        assert answer["status"] in expected and "Traceback" not in answer["err"], answer["err"]
        assert partial_files(ground.root) == []
        if answer["status"]:
            parts.pop(0)
            assert any(word in answer["err"] for word in ("stopped", "interrupted", "terminated"))
        else:  # it was faster: again from the start, whose time is now known better
            ground.clear()
            parts[0] *= 0.9
    ground.require_recovery(name)


# Largest size of a file, bytes: options and the manifest fit, the results of the largest image or of training do not.
ROOM = {"precompute": 6000, "train": 60_000, "test": 9000, "finetune": 60_000, "predict": 6000}


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_does_not_fit(ground: Ground, name: str) -> None:
    ground.undisturbed(name)
    ground.clear()
    answer = ground.run(name, limits={"RLIMIT_FSIZE": ROOM[name]})
    assert answer["status"] == 1
    assert_one_error(answer["err"], "File too large")
    assert partial_files(ground.root) == []
    ground.require_recovery(name)


@pytest.mark.parametrize("name", CASES)
def test_a_full_disk(ground: Ground, name: str) -> None:
    ground.undisturbed(name)
    out = ground.clear()
    with mounted(out, "-o", "size=24k"):
        answer = ground.run(name)
        assert answer["status"] == 1
        assert_one_error(answer["err"], "No space left on device")
        assert partial_files(out) == []
    out.rmdir()
    ground.require_recovery(name)


@pytest.mark.parametrize("name", CASES)
def test_an_output_folder_that_cannot_be_written(ground: Ground, name: str) -> None:
    ground.undisturbed(name)
    out = ground.clear()
    with mounted(out, "-o", "ro"):
        answer = ground.run(name)
        assert answer["status"] in (1, 2)
        assert_one_error(answer["err"], "")
        assert "out" in answer["err"]
        assert list(out.iterdir()) == []
    out.rmdir()
    ground.require_recovery(name)


# The image that suffers, and at which reading: training reads in another order than listing, after checks have passed.
VICTIMS = {"precompute": ("pairs/vi/2.png", 2), "train": ("pairs/vi/2.png", 6), "test": ("pairs/vi/2.png", 4),
           "finetune": ("objects/PNGImages/2.png", 5), "predict": ("pairs/vi/2.png", 2)}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["vanish", "truncate", "hang"])
def test_an_image_that_changes_under_the_run(ground: Ground, tmp_path: Path, name: str, kind: str) -> None:
    ground.undisturbed(name)
    ground.clear()
    victim, read = VICTIMS[name]
    shutil.copy2(ground.root / victim, tmp_path / "kept.png")
    answer = ground.run(name, fault=[kind, read, victim])
    shutil.copy2(tmp_path / "kept.png", ground.root / victim)
    assert answer["status"] == 1, answer["err"]
    assert "Traceback" not in answer["err"] and partial_files(ground.root) == []
    words = {"vanish": "no such file", "truncate": "truncated", "hang": "not read within"}
    (line,) = [line for line in answer["err"].splitlines() if words[kind] in line]
    assert ".png" in line
    if name == "precompute":  # the others are done all the same
        assert "masks made: 7" in answer["err"]
    ground.require_recovery(name)


# At how many of seven amounts of memory a library in C may end a command, as often as it is tried. oneDNN crashes in
# some runs, nearly all of them at 40 and 60 MiB, and on some machines in each run at one of these, which may be either;
# PyTorch 2.6's libraries wait forever in most runs at 20 and 40 MiB.
ENDED_BY_OTHERS, TRIES = (3, 2) if torch.__version__.startswith("2.6.") else (2, 3)


def without_last_digits(result: dict[str, Any]) -> dict[str, Any]:
    """Where memory ends, points are decoded in smaller batches, whose predicted IoUs differ in the last digits."""
    return {
        name: re.sub(rb'("predicted_iou":-?\d+\.\d{5})\d*', rb"\1", content) if name.endswith(".json") else content
        for name, content in result.items()
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is one of Linux")
@pytest.mark.parametrize("name", CASES)
def test_little_memory(ground: Ground, name: str) -> None:
    ground.undisturbed(name)
    ground.clear()
    ended_by_others = 0
    patience = max(15, 8 * ground.seconds(name))
    for spare in (1, 3, 6, 12, 20, 40, 60):
        for _ in range(TRIES):
            answer = ground.run(name, limits={"MEMORY": spare << 20}, patience=patience)
            if answer["status"] in (0, 1, 2):
                assert partial_files(ground.root) == []
                assert "Traceback" not in answer["err"], answer["err"]
                assert answer["status"] == 0 or "memory" in answer["err"]
                break
            # Without memory, libraries in C may end the process, and Python may wait forever for a thread it started.
        else:
            ended_by_others += 1
    assert ended_by_others <= ENDED_BY_OTHERS
    ground.require_recovery(name, compared=without_last_digits)


@pytest.mark.parametrize("name", ["train", "finetune"])
def test_a_dead_data_loader_worker(ground: Ground, name: str) -> None:
    ground.undisturbed(name)
    ground.clear()
    answer = ground.run(name, more=["--num_workers", "1"], fault=["die", 6, ""])
    assert answer["status"] == 1
    assert_one_error(answer["err"], "a process that makes samples died")
    ground.require_recovery(name)


DEATHS = {"train": 8, "finetune": 5}  # at which reading of an image: training has begun in both


@pytest.mark.parametrize("name", DEATHS)
def test_a_lost_process_of_a_distributed_run(ground: Ground, name: str) -> None:
    ground.undisturbed(name, ranks=2)
    ground.clear()
    first, last = ground.run(name, ranks=2, fault=["die", DEATHS[name], ""])
    assert last["status"] == -signal.SIGKILL, last["err"]
    assert first["status"] == 1, first["err"]
    assert_one_error(first["err"], "another process of this run is lost")
    assert first["seconds"] < last["seconds"] + 30
    assert partial_files(ground.root) == []
    ground.require_recovery(name, ranks=2)


def assert_one_error(err: str, words: str) -> None:
    lines = [line for line in err.splitlines() if "error:" in line]
    assert len(lines) == 1 and words in lines[0] and "Traceback" not in err, err
