"""A thousand pairs through the whole pipeline: do memory, open files and temporary files stay where they are?

    python -m benchmarks.soak [--pairs 1000] [--folder DIR]

Makes small random pairs and the weights of a small random SAM, runs precompute_masks.py, train.py, test.py and
finetune.py on them, each in a process of its own, and looks at it ten times a second. Prints a
Markdown table: of memory and open files the median of the second and of the last fifth of the time.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.common import ROOT, command_line, markdown_table, timed
from thfuse_sam.masks.tree import partial_files
from thfuse_sam.sam.nano import build_vit_nano

HEIGHT, WIDTH = 48, 64
FEW_POINTS = ["--points_per_side", "3", "--pred_iou_thresh", "0", "--stability_score_thresh", "0"]


@dataclass
class Samples:
    """What was seen of a process while it ran."""

    memory: list[float] = field(default_factory=list)  # MiB
    files: list[int] = field(default_factory=list)  # open ones
    temporary: list[int] = field(default_factory=list)  # in the folder for them

    def cells(self) -> list[str]:
        """Medians of the second and of the last fifth of the time."""
        return [
            f"{statistics.median(_fifth(values, 1)):.0f} -> {statistics.median(_fifth(values, 4)):.0f}"
            for values in (self.memory, self.files, self.temporary)
        ]


def _fifth(values: list[float] | list[int], number: int) -> list[float]:
    size = max(len(values) // 5, 1)
    return [float(value) for value in values[number * size : (number + 1) * size]] or [float(values[-1])]


def make_data(folder: Path, pairs: int) -> None:
    for index in range(pairs):
        random = np.random.default_rng(index)
        image = random.integers(0, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        top, left = int(random.integers(0, HEIGHT // 2)), int(random.integers(0, WIDTH // 2))
        image[top : top + 20, left : left + 25] += 150
        for modality, pixels in (("ir", image[..., 0]), ("vi", image)):
            path = folder / "pairs" / modality / f"{index // 100:02d}" / f"{index:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    torch.manual_seed(0)
    torch.save(build_vit_nano(64).state_dict(), folder / "nano.pth")


def watch(script: str, arguments: list[str], folder: Path) -> tuple[float, Samples]:
    """Run a command and look at it; its seconds and what was seen. Ends the program where it fails."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    samples = Samples()
    env = {**psutil.Process().environ(), "TMPDIR": str(temporary), "THFUSE_OFFLINE": "1"}
    with timed() as spent, (folder / "log.txt").open("wb") as log:
        process = psutil.Popen(
            [sys.executable, str(ROOT / script), *arguments], cwd=folder, stdout=log, stderr=log, env=env
        )
        while process.poll() is None:
            try:
                samples.memory.append(process.memory_info().rss / 2**20)
                samples.files.append(process.num_fds())
            except psutil.NoSuchProcess:
                break
            samples.temporary.append(sum(1 for _ in temporary.rglob("*")))
            time.sleep(0.1)
        status = process.wait()
    if status:
        sys.exit(f"{script} ended with {status}: {(folder / 'log.txt').read_text(errors='replace')[-1000:]}")
    return spent.wall, samples


def stages() -> dict[str, list[str]]:
    """Script -> options, in the order in which they are run."""
    pairs = ["--dataset_path", "pairs", "--precomputed_masks_dir", "precomputed_masks", "--device", "cpu"]
    finetune = ["--n_iterations", "300", "--val_ratio", "0", "--freeze_image_encoder", "--skip_bad"]
    return {
        "precompute_masks.py": ["--dataset_path", "pairs", "--sam_checkpoint", "nano.pth", *FEW_POINTS],
        "train.py": [*pairs, "--epochs", "2", "--batch_size", "8", "--crop_size", "32", "--val_metrics", "none"],
        "test.py": [*pairs, "--model_path", "models/latest.pth", "--metrics"],
        "finetune.py": ["--data_dir", "precomputed_masks", "--checkpoint", "nano.pth", *finetune,
                        "--cache_embeddings", "off"],
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line(__doc__)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where everything is made (None: a temporary one)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_data(folder, options.pairs)
        rows = []
        for script, arguments in stages().items():
            seconds, samples = watch(script, arguments, folder)
            left = len(partial_files(folder)) + sum(path.is_file() for path in (folder / "tmp").rglob("*"))
            rows.append((f"`{script}`", f"{seconds:.0f}", *samples.cells(), left))
            print(*rows[-1], file=sys.stderr, flush=True)
    header = "command", "seconds", "memory, MiB", "open files", "temporary files", "left over"
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
