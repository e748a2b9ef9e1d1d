"""How precomputation scales with the number of images: start-up on a finished tree, peak memory, with a stub for SAM.

    python benchmarks/precompute_scale.py [--images 1000 100000] [--store npy] [--folder DIR]

Images are small, links to a few files (the file system sees as many names as there are images). Each size runs in
processes of its own: one that fills the tree, then one that plans on the finished tree, as the command does at its
start. Prints one line for each.
"""

import argparse
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from thfuse_sam.images import write_image

PER_FOLDER = 1000  # images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 100_000], help="numbers of images to try")
    parser.add_argument("--store", choices=("npy", "shards"), default="npy")
    parser.add_argument("--folder", type=Path, help="where the trees are made and removed (None: the temporary one)")
    parser.add_argument("--child", nargs=2, metavar=("WORK", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]), options.store)
        return
    print("images   store   task   seconds  CPU seconds  images/s  peak MiB  MiB after import")
    for count in options.images:
        folder = Path(tempfile.mkdtemp(prefix="precompute_scale_", dir=options.folder))
        try:
            make_images(folder / "ir", count)
            for task in ("fill", "start"):
                found = run_child(task, folder, options.store)
                rate = count / found["seconds"]
                print(
                    f"{count:7d}  {options.store:6s}  {task:5s}  {found['seconds']:7.2f}  {found['cpu']:11.2f}  "
                    f"{rate:8.0f}  {found['peak']:8.0f}  {found['imported']:6.0f}",
                    flush=True,
                )
        finally:
            shutil.rmtree(folder)


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


def run_child(task: str, folder: Path, store: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", task, str(folder), "--store", store]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "TQDM_DISABLE": "1"}
    )
    return dict(json.loads(done.stdout))


def child(task: str, folder: Path, store: str) -> None:
    from thfuse_sam.datasets.pairs import find_images
    from thfuse_sam.masks.manifest import Signature
    from thfuse_sam.precompute.jobs import list_jobs
    from thfuse_sam.precompute.plan import plan_precompute
    from thfuse_sam.precompute.worker import make_masks
    from thfuse_sam.precompute.writing import RunSummary, save_manifest, write_masks

    class Stub:
        def generate(self, image: np.ndarray) -> list:
            return []

    imported = peak_mib()
    started, started_cpu = time.perf_counter(), time.process_time()
    gc.disable()  # as the command does until it knows what to do
    found = find_images(ir_dir=folder / "ir", modality="ir")
    jobs = list_jobs({"ir": found.images})
    signature = Signature("stub", "0" * 64, {}, "0")
    plan = plan_precompute(folder / "masks", jobs, {"ir": found.folder}, signature, store=store)
    gc.enable()
    assert len(plan.todo) == (len(jobs) if task == "fill" else 0)
    if task == "fill":
        results = make_masks(plan.todo, Stub(), plan.options, num_workers=2)
        write_masks(plan, results, RunSummary(), num_workers=2)
    else:
        save_manifest(plan, RunSummary())
    seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak_mib(), "imported": imported}))


def peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
