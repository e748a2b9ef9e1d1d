"""Train the small SAM that ships: `python -m tools.vit_nano --photos DIR... --output_dir DIR`.

It runs in a checkout and needs the extra `nano`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import joblib
import safetensors.torch
import torch

from thfuse_sam.cli.parser import CommandLine
from thfuse_sam.cli.run import INTERRUPTED, command
from thfuse_sam.datasets.named_images import list_images
from thfuse_sam.devices import resolve_device
from thfuse_sam.files import make_directory, remove_abandoned, write_atomically
from thfuse_sam.images import read_visible
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.training.checkpoint import load_checkpoint
from thfuse_sam.training.random_state import set_seed
from thfuse_sam.training.trainer import Trainer
from tools.scenes import Scene, render_scene
from tools.vit_nano.images import Photo, photo_regions
from tools.vit_nano.options import NanoOptions, NanoSettings
from tools.vit_nano.people import LabelledPhoto, find_labelled
from tools.vit_nano.training import NanoModel, NanoTask, steps_within

FIRST_SCENE = 1_000_000  # seed; the sample set and the evaluation use others

Item = TypeVar("Item")
Product = TypeVar("Product")


def load_or_make(cache: Path | None, make: Callable[[Item], Product], items: Sequence[Item]) -> list[Product]:
    """The content of the file `cache`; if there is none, `make` of each item on two processes, written to `cache`."""
    if cache is not None and cache.exists():
        return joblib.load(cache, mmap_mode="r")  # several trainings on one machine share the pages
    products = joblib.Parallel(n_jobs=2, verbose=1)(joblib.delayed(make)(item) for item in items)
    if cache is not None:
        write_atomically(cache, lambda file: joblib.dump(products, file))
    return products


def _rendered(seed: int) -> Scene:
    return render_scene(seed, height=480, width=640)


def _regions_of(source: Path | LabelledPhoto) -> Photo:
    return source.read() if isinstance(source, LabelledPhoto) else photo_regions(read_visible(source))


def initialise(model: NanoModel, path: Path) -> None:
    """Begin with the weights in `path`: a checkpoint of another training, or a file without the auxiliary head."""
    if path.suffix == ".safetensors":
        model.sam.load_state_dict(safetensors.torch.load_file(path))
    else:
        model.load_state_dict(load_checkpoint(path).weights)


@command("python -m tools.vit_nano", "Train the small SAM that ships.", NanoOptions)
def train(line: CommandLine[NanoOptions]) -> int:
    options = line.options
    device = resolve_device(options.device)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # denormal numbers appear during training and slow a CPU down by several times
    paths = [path for folder in options.photos for path in list_images(folder).values()]
    labelled = [find_labelled(folder, options.held_out) for folder in options.people]
    sources: list[Path | LabelledPhoto] = [*paths, *dict.fromkeys(source for folder in labelled for source in folder)]
    photos = dict(zip(sources, load_or_make(options.regions, _regions_of, sources), strict=True))
    people = [[photos[source] for source in folder] for folder in labelled]
    scenes = load_or_make(options.rendered, _rendered, range(FIRST_SCENE, FIRST_SCENE + options.scenes))
    print(f"{len(photos)} photos, {len(scenes)} scenes")
    set_seed(options.seed)
    sam = build_vit_nano(options.image_size)
    former = None if options.former is None else safetensors.torch.load_file(options.former)
    task = NanoTask(sam, scenes, [photos[path] for path in paths], options.part(NanoSettings), people, former)
    if options.init is not None:
        initialise(task.module, options.init)
    if options.epochs is None and options.max_steps is None:
        if options.resume is not None:
            max_steps = load_checkpoint(options.resume).training["max_steps"]
        else:
            max_steps = steps_within(options.minutes, task, device)
            print(f"{options.minutes:g} minutes are about {max_steps} steps")
        task.settings = dataclasses.replace(task.settings, max_steps=max_steps)
    trainer = Trainer(task, device=device, output_dir=options.output_dir, options=options.plain())
    if options.resume is not None:
        trainer.resume(options.resume)
    make_directory(options.output_dir)
    remove_abandoned(options.output_dir)
    set_seed(options.seed)  # again, because measuring steps drew random numbers
    return INTERRUPTED if trainer.run().interrupted else 0


if __name__ == "__main__":
    raise SystemExit(train.main())
