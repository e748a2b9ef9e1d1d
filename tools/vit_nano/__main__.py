"""Train the small SAM that ships: `python -m tools.vit_nano --photos DIR... --output FILE.safetensors`.

It runs in a checkout and needs the extra `nano`.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import joblib
import numpy as np
import safetensors.torch
import torch
from segment_anything.modeling import Sam

from thfuse_sam.datasets.pairs import list_images
from thfuse_sam.devices import resolve_device
from thfuse_sam.files import write_atomically
from thfuse_sam.images import read_visible
from thfuse_sam.sam.nano import IMAGE_SIZE, build_vit_nano
from tools.scenes import Scene, render_scene
from tools.vit_nano.images import Photo, photo_regions
from tools.vit_nano.options import NanoTrainingConfig
from tools.vit_nano.region_head import RegionHead
from tools.vit_nano.training import train_nano

DEFAULTS = NanoTrainingConfig()
FIRST_SCENE = 1_000_000  # seed; the sample set and the evaluation use others

Item = TypeVar("Item")
Made = TypeVar("Made")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m tools.vit_nano", description=__doc__)
    options.add_argument("--photos", type=Path, nargs="*", default=[], help="folders of photos for region targets")
    options.add_argument("--regions", type=Path, help="cache of the photos' regions (.joblib), made where missing")
    options.add_argument("--scenes", type=int, default=900, help="rendered scenes (default: %(default)s)")
    options.add_argument("--rendered", type=Path, help="cache of the rendered scenes (.joblib), made where missing")
    options.add_argument("--output", type=Path, default=Path("models/vit_nano.safetensors"))
    options.add_argument("--init", type=Path, help="weights (.safetensors) to go on from")
    options.add_argument("--image_size", type=int, default=IMAGE_SIZE, help="pixels, a multiple of 16")
    for name in (f.name for f in fields(DEFAULTS) if f.name != "shares"):
        value = getattr(DEFAULTS, name)
        kind: dict[str, Any] = {"action": "store_true"} if value is False else {"type": type(value), "default": value}
        options.add_argument(f"--{name}", help="default: %(default)s", **kind)
    options.add_argument("--shares", type=float, nargs=3, default=DEFAULTS.shares, help="shapes, scenes, photos")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return options


def load_or_make(cache: Path | None, make: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
    """What `cache` holds, or else `make` of each item on two processes, kept in `cache`."""
    if cache is not None and cache.exists():
        return joblib.load(cache, mmap_mode="r")  # several trainings on one machine share the pages
    made = joblib.Parallel(n_jobs=2, verbose=1)(joblib.delayed(make)(item) for item in items)
    if cache is not None:
        write_atomically(cache, lambda file: joblib.dump(made, file))
    return made


def _rendered(seed: int) -> Scene:
    return render_scene(seed, height=480, width=640)


def _regions_of(path: Path) -> Photo:
    return photo_regions(read_visible(path))


def save_half(sam: Sam, path: Path) -> None:
    """Write the model's weights as fp16 safetensors."""
    weights = {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in sam.state_dict().items()
    }
    write_atomically(path, lambda file: file.write(safetensors.torch.save(weights)))


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    device = resolve_device(args.device)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # such numbers appear in the course of training and slow a CPU down by several times
    settings = {f.name: getattr(args, f.name) for f in fields(DEFAULTS)}
    config = NanoTrainingConfig(**{**settings, "shares": tuple(args.shares)})
    paths = [path for folder in args.photos for path in list_images(folder).values()]
    photos = load_or_make(args.regions, _regions_of, paths)
    scenes = load_or_make(args.rendered, _rendered, range(FIRST_SCENE, FIRST_SCENE + args.scenes))
    logging.info("%d photos, %d scenes", len(photos), len(scenes))
    torch.manual_seed(config.seed)
    np.random.seed(config.seed)
    sam = build_vit_nano(args.image_size).to(device)
    head = RegionHead()
    head_path = args.output.with_suffix(".head.pt")
    if args.init is not None:
        sam.load_state_dict(safetensors.torch.load_file(args.init))
        init_head = args.init.with_suffix(".head.pt")
        if init_head.exists():
            head.load_state_dict(torch.load(init_head, map_location="cpu", weights_only=True))

    def save(model: Sam) -> None:
        save_half(model, args.output)
        weights = {name: value.cpu() for name, value in head.state_dict().items()}
        write_atomically(head_path, lambda file: torch.save(weights, file))

    train_nano(sam, scenes, photos, config, save, head)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
