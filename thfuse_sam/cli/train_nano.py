"""Train the small SAM that ships: `python -m thfuse_sam.cli.train_nano --photos DIR... --output FILE.safetensors`."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import joblib
import numpy as np
import safetensors.torch
import torch
from segment_anything.modeling import Sam

from thfuse_sam.datasets.pairs import list_images
from thfuse_sam.engine.train_nano import (
    DensePointHead,
    NanoTrainingConfig,
    Photo,
    informed_init,
    photo_regions,
    train_nano,
)
from thfuse_sam.files import write_atomically
from thfuse_sam.images import read_visible
from thfuse_sam.sam.nano import IMAGE_SIZE, build_vit_nano

DEFAULTS = NanoTrainingConfig()


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="train_nano", description=__doc__)
    options.add_argument("--photos", type=Path, nargs="*", default=[], help="folders of photos for region targets")
    options.add_argument("--regions", type=Path, help="cache of the photos' regions (.joblib), made where missing")
    options.add_argument("--output", type=Path, default=Path("models/vit_nano.safetensors"))
    options.add_argument("--init", type=Path, help="weights (.safetensors) to go on from")
    options.add_argument("--image_size", type=int, default=IMAGE_SIZE, help="pixels, a multiple of 16")
    for name in ("minutes", "batch_size", "prompts", "dense_points", "lr", "final_lr_ratio", "workers", "seed"):
        value = getattr(DEFAULTS, name)
        options.add_argument(f"--{name}", type=type(value), default=value, help="default: %(default)s")
    options.add_argument("--shares", type=float, nargs=3, default=DEFAULTS.shares, help="shapes, scenes, photos")
    options.add_argument("--threads", type=int, default=2)
    return options


def load_photos(folders: Sequence[Path], cache: Path | None) -> list[Photo]:
    """Photos below `folders` with their regions, read from `cache` where it exists."""
    if cache is not None and cache.exists():
        return joblib.load(cache)
    paths = [path for folder in folders for path in list_images(folder).values()]
    photos = joblib.Parallel(n_jobs=2, verbose=1)(joblib.delayed(_regions_of)(path) for path in paths)
    if cache is not None:
        joblib.dump(photos, cache)
    return photos


def _regions_of(path: Path) -> Photo:
    return photo_regions(read_visible(path))


def save_half(sam: Sam, path: Path) -> None:
    """Write the model's weights as fp16 safetensors."""
    weights = {name: value.half().contiguous() for name, value in sam.state_dict().items()}
    write_atomically(path, lambda file: file.write(safetensors.torch.save(weights)))


def resized_weights(weights: dict[str, torch.Tensor], sam: Sam) -> dict[str, torch.Tensor]:
    """Weights whose position tables are interpolated to the size of `sam`'s image encoder."""
    resized = {}
    for name, wanted in sam.state_dict().items():
        value = weights[name].float()
        if value.shape != wanted.shape and name.endswith("pos_embed"):
            value = torch.nn.functional.interpolate(
                value.permute(0, 3, 1, 2), size=wanted.shape[1:3], mode="bicubic", align_corners=False
            ).permute(0, 2, 3, 1)
        elif value.shape != wanted.shape and "rel_pos" in name:
            value = torch.nn.functional.interpolate(value.T[None], size=len(wanted), mode="linear")[0].T
        resized[name] = value
    return resized


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(args.threads)
    config = NanoTrainingConfig(
        minutes=args.minutes,
        batch_size=args.batch_size,
        prompts=args.prompts,
        dense_points=args.dense_points,
        lr=args.lr,
        final_lr_ratio=args.final_lr_ratio,
        workers=args.workers,
        seed=args.seed,
        shares=tuple(args.shares),
    )
    photos = load_photos(args.photos, args.regions)
    logging.info("%d photos", len(photos))
    torch.manual_seed(config.seed)
    np.random.seed(config.seed)
    sam = build_vit_nano(args.image_size)
    informed_init(sam)
    head = DensePointHead()
    head_path = args.output.with_suffix(".head.pt")
    if args.init is not None:
        sam.load_state_dict(resized_weights(safetensors.torch.load_file(args.init), sam))
        init_head = args.init.with_suffix(".head.pt")
        if init_head.exists():
            head.load_state_dict(torch.load(init_head, weights_only=True))

    def save(model: Sam) -> None:
        save_half(model, args.output)
        write_atomically(head_path, lambda file: torch.save(head.state_dict(), file))

    train_nano(sam, photos, config, save, head)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
