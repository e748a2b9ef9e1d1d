"""How precomputation scales with the number of images: start-up on a finished tree, peak memory, with a stub for SAM.

    python -m benchmarks.precompute_scale [--images 1000 100000] [--store npy] [--folder DIR]

Images are small, links to a few files (the file system sees as many names as there are images). Each size runs in
processes of its own: one that fills the tree, then one that plans on the finished tree, as the command does at its
start.
"""

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.common import command_line, figures_of, markdown_table, peak_memory, timed
from thfuse_sam.images import write_image

if TYPE_CHECKING:
    from thfuse_sam.precompute.plan import StoreKind

PER_FOLDER = 1000  # images


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line(__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 100_000], help="numbers of images to try")
    parser.add_argument("--store", choices=("npy", "shards"), default="npy")
    parser.add_argument("--folder", type=Path, help="where the trees are made and removed (None: the temporary one)")
    parser.add_argument("--child", nargs=2, metavar=("WORK", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        child(options.child[0], Path(options.child[1]), options.store)
        return
    rows = []
    for count in options.images:
        with tempfile.TemporaryDirectory(prefix="precompute_scale_", dir=options.folder) as folder:
            make_images(Path(folder) / "ir", count)
            for task in ("fill", "start"):
                arguments = ["--child", task, folder, "--store", options.store]
                figures = figures_of("benchmarks.precompute_scale", *arguments, TQDM_DISABLE="1")
                times = (f"{figures[kind]:.2f}" for kind in ("seconds", "cpu"))
                memory = (f"{figures[kind] / 2**20:.0f}" for kind in ("peak", "imported"))
                rows.append((count, options.store, task, *times, f"{count / figures['seconds']:.0f}", *memory))
                print(*rows[-1], file=sys.stderr, flush=True)
    header = "images", "store", "task", "seconds", "CPU seconds", "images/s", "peak MiB", "MiB after import"
    print(markdown_table(header, rows, text_columns=3))


def make_images(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    # Several, as a file can have only so many links.
    originals = [folder.parent / f"original_{index}.png" for index in range(8)]
    for path in originals:
        write_image(path, random.integers(0, 256, (48, 64), dtype=np.uint8))
    for index in range(count):
        path = folder / f"{index // PER_FOLDER:04d}" / f"{index:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(originals[index % len(originals)])


def child(task: str, folder: Path, store: "StoreKind") -> None:
    from thfuse_sam.datasets.pairs import find_images
    from thfuse_sam.masks.manifest import Signature
    from thfuse_sam.precompute.jobs import list_jobs
    from thfuse_sam.precompute.plan import plan_precompute
    from thfuse_sam.precompute.worker import make_masks
    from thfuse_sam.precompute.writing import RunSummary, save_manifest, write_masks

    class Stub:
        def generate(self, image: np.ndarray, infrared: np.ndarray | None) -> list:
            return []

    imported = peak_memory()
    with timed() as spent:
        gc.disable()  # as the command does until it knows what to do
        images = find_images(ir_dir=folder / "ir", modality="ir")
        jobs = list_jobs({"ir": images.images})
        signature = Signature("stub", "0" * 64, {}, "0")
        plan = plan_precompute(folder / "masks", jobs, {"ir": images.folder}, signature, store=store)
        gc.enable()
        assert len(plan.todo) == (len(jobs) if task == "fill" else 0)
        if task == "fill":
            results = make_masks(plan.todo, Stub(), plan.options, num_workers=2)  # type: ignore[arg-type]
            write_masks(plan, results, RunSummary(), num_workers=2)
        else:
            save_manifest(plan, RunSummary())
    print(json.dumps({"seconds": spent.wall, "cpu": spent.cpu, "peak": peak_memory(), "imported": imported}))


if __name__ == "__main__":
    main()
