"""Commands run in forked children, and the small data that they work on."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from thfuse_sam.fusion.loading import save_network
from thfuse_sam.models import build_network
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.training.checkpoint import NetworkSpec, load_checkpoint

HERE = Path(__file__).parent
FAST_MASKS = ["--points_per_side", "3", "--pred_iou_thresh", "0", "--stability_score_thresh", "0"]


class Server:
    """Runs commands in forked children; see fork_server.py."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, command: str, argv: Sequence[object], cwd: Path, **options: Any) -> Any:
        request = {"command": command, "argv": [str(value) for value in argv], "cwd": str(cwd), **options}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if sys.platform == "win32":
        pytest.skip("Windows has no fork")
    cache = tmp_path_factory.mktemp("cache")
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # OpenBLAS starts its own anew in each child
    env = {**os.environ, **threads, "THFUSE_OFFLINE": "1", "SAM_CACHE": str(cache)}
    with subprocess.Popen(
        [sys.executable, str(HERE / "fork_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    ) as process:
        yield Server(process)
        assert process.stdin is not None
        process.stdin.close()


@dataclasses.dataclass(frozen=True)
class Case:
    """One command on small data: how to run it, and how to tell that two results are equal."""

    command: str
    argv: Callable[[str], list[str]]  # of the output folder
    result: Callable[[Path], dict[str, Any]]  # of an output folder: everything that must be the same on each run
    again: tuple[str, ...] = ()  # added for going on


def small_data(root: Path) -> Path:
    """Pairs, annotated images and weights of random small models below `root`."""
    for index, size in enumerate(((32, 48), (32, 48), (48, 32), (80, 96))):
        random = np.random.default_rng(index)
        image = random.integers(0, 90, (*size, 3), dtype=np.uint8)
        image[8:24, 4:20] += 150
        labels = np.zeros(size, np.uint8)
        labels[8:24, 4:20] = 1
        for folder, pixels in (("pairs/ir", image[..., 0]), ("pairs/vi", image), ("objects/PNGImages", image)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{index}.png")
        (root / "objects/PedMasks").mkdir(exist_ok=True)
        Image.fromarray(labels).save(root / f"objects/PedMasks/{index}_mask.png")
    torch.manual_seed(0)
    torch.save(build_vit_nano(64).state_dict(), root / "nano.pth")
    network = build_network("thfuse_lite")
    save_network(root / "net.safetensors", network, NetworkSpec("thfuse_lite", network.options))
    return root


_RECORDED_TIME = re.compile(rb"(\[\d+,)\d+(?=,\"[0-9a-f]{32}\"[\],])")  # in images.json


def all_files(root: Path) -> dict[str, bytes]:
    """The content of every file but locks, without the times of images, which a test may have replaced."""
    return {
        path.relative_to(root).as_posix(): _RECORDED_TIME.sub(rb"\1", path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".manifest.lock"
    }


def checkpoints(root: Path) -> dict[str, Any]:
    """What the checkpoints in a folder hold, tensors as bytes, and the log without its clock."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in sorted(root.glob("*.safetensors"))}
    for path in sorted(root.glob("*.pth")):
        content = dataclasses.asdict(load_checkpoint(path))
        content["training"].pop("resume")
        found[path.name] = plain(content)
    rows = [line.rpartition(",")[0] for line in (root / "train_log.csv").read_text().splitlines()]
    return found | {"train_log.csv": rows}


def plain(value: Any) -> Any:
    """`value` with tensors as their bytes, so that == compares it."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.numpy().tobytes())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


CASES = {
    "precompute": Case(
        "precompute",
        lambda out: ["--dataset_path", "pairs", "--sam_checkpoint", "nano.pth", *FAST_MASKS, "--output_dir", out,
                     "--save_instances", "--device", "cpu"],
        all_files,
    ),
    "train": Case(
        "train",
        lambda out: ["--dataset_path", "pairs", "--precomputed_masks_dir", "none", "--epochs", "4", "--batch_size", "2",
                     "--crop_size", "32", "--val_metrics", "none", "--save_interval", "2", "--device", "cpu",
                     "--output_dir", out],
        checkpoints,
        ("--resume",),
    ),
    "test": Case(
        "test",
        lambda out: ["--model_path", "net.safetensors", "--dataset_path", "pairs", "--precomputed_masks_dir", "none",
                     "--metrics", "--no-report", "--device", "cpu", "--output_dir", out],
        all_files,
    ),
    "finetune": Case(
        "finetune",
        lambda out: ["--data_dir", "objects", "--checkpoint", "nano.pth", "--num_epochs", "3", "--n_sub_iteration", "1",
                     "--freeze_image_encoder", "--cache_embeddings", "off", "--device", "cpu", "--output_dir", ".",
                     "--exp_name", out],
        checkpoints,
        ("--resume",),
    ),
    "predict": Case(
        "predict",
        lambda out: ["--input", "pairs/vi", "--checkpoint", "nano.pth", *FAST_MASKS, "--format", "npy", "png", "coco",
                     "--overlay", "--device", "cpu", "--output_dir", out],
        all_files,
    ),
}  # fmt: skip


class Ground:
    """Small data, and the results of undisturbed runs on it, made when they are first asked for."""

    def __init__(self, server: Server, root: Path) -> None:
        self.server, self.root = server, small_data(root)
        self._undisturbed: dict[tuple[str, int], dict[str, Any]] = {}
        self._seconds: dict[str, float] = {}

    def undisturbed(self, name: str, ranks: int = 1) -> dict[str, Any]:
        """The result of a run that nothing disturbs, made when it is first asked for; it leaves its output there."""
        if (name, ranks) not in self._undisturbed:
            # Into the folder that disturbed runs use: checkpoints name it.
            self._undisturbed[name, ranks] = self.finish(name, self.clear(), ranks)
        return self._undisturbed[name, ranks]

    def seconds(self, name: str) -> float:
        """That a whole run takes: the last one, because the first ones are slower, and a machine may be busy."""
        self.undisturbed(name)
        return self._seconds[name]

    def run(self, name: str, out: str = "out", *, more: Sequence[str] = (), **options: Any) -> Any:
        """One run into `out`, which goes on where an earlier one has ended."""
        case, is_new = CASES[name], not (self.root / out).exists()
        again = () if is_new else case.again
        answer = self.server(case.command, [*case.argv(out), *again, *more], self.root, **options)
        if is_new and isinstance(answer, dict) and answer["status"] == 0:
            self._seconds[name] = answer["seconds"]
        return answer

    def finish(self, name: str, out: Path, ranks: int = 1) -> dict[str, Any]:
        """Run to the end; the result."""
        answer = self.run(name, out.name, ranks=ranks)
        for process in answer if ranks > 1 else [answer]:
            assert process["status"] == 0, process["err"]
        assert partial_files(out) == []
        return CASES[name].result(out)

    def clear(self, out: str = "out") -> Path:
        shutil.rmtree(self.root / out, ignore_errors=True)
        return self.root / out

    def require_recovery(
        self, name: str, out: str = "out", ranks: int = 1, *, compared: Callable[[Any], Any] = lambda result: result
    ) -> None:
        """An undisturbed run goes on, leaves nothing half-written, and ends with the undisturbed result.

        `compared` gives what of a result has to be equal.
        """
        found = self.finish(name, self.root / out, ranks)
        assert compared(found) == compared(self.undisturbed(name, ranks))


@pytest.fixture(scope="session")
def ground(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(server, tmp_path_factory.mktemp("ground"))


def partial_files(root: Path) -> list[Path]:
    return list(root.rglob("*.partial"))


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own in `folder`; skips the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting a file system needs rights that this user does not have")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
