"""Write a data set of rendered pairs: `python -m tools.scenes --output DIR --count N`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from thfuse_sam.errors import OutputError, ThFuseError, UsageError
from thfuse_sam.files import make_directory, write_atomically, write_json
from tools.scenes import CONDITIONS, render_scene

JPEG_QUALITY = 90


def write_dataset(
    output: Path,
    *,
    count: int,
    seed: int = 0,
    height: int = 480,
    width: int = 640,
    condition: str | None = None,
    prefix: str = "",
    labels: bool = False,
    quiet: bool = True,
) -> list[str]:
    """Write `count` pairs and return their names.

        output/ir/<name>.png           grey, 8 bit
        output/vi/<name>.jpg           colour
        output/labels/ir/<name>.npy    with `labels`: HxW uint16, numbers shared by both modalities
        output/labels/vi/<name>.npy
        output/labels/names.json       {"<name>": {"1": "sky", ...}}

    The scenes are numbers `seed`, `seed + 1`, ...; the conditions take turns unless one is given.
    """
    if count < 1:
        raise UsageError(f"--count is {count}; it must be at least 1")
    make_directory(output)
    names: list[str] = []
    classes: dict[str, dict[int, str]] = {}
    for index in tqdm(range(count), desc="rendering", unit="pair", disable=quiet):
        chosen = condition or CONDITIONS[index % len(CONDITIONS)]
        scene = render_scene(seed + index, height=height, width=width, condition=chosen)  # type: ignore[arg-type]
        name = f"{prefix}{chosen}_{index:03d}"
        _write(output / "ir" / f"{name}.png", scene.infrared, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        _write(output / "vi" / f"{name}.jpg", scene.visible[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if labels:
            for modality, label_map in (("ir", scene.infrared_labels), ("vi", scene.visible_labels)):
                _write_labels(output / "labels" / modality / f"{name}.npy", label_map)
            classes[name] = scene.names
        names.append(name)
    if labels:
        write_json(output / "labels" / "names.json", classes)
    return names


def _write(path: Path, image: NDArray[np.uint8], options: list[int]) -> None:
    fine, data = cv2.imencode(path.suffix, np.ascontiguousarray(image), options)
    if not fine:
        raise OutputError(f"cannot encode {path}; check the OpenCV installation")
    write_atomically(path, lambda file: file.write(data.tobytes()))


def _write_labels(path: Path, label_map: NDArray[np.uint16]) -> None:
    write_atomically(path, lambda file: np.save(file, label_map, allow_pickle=False))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.scenes", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder that gets ir/ and vi/")
    parser.add_argument("--count", type=int, default=16, help="number of pairs (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="number of the first scene (default: 0)")
    parser.add_argument("--height", type=int, default=480, help="pixels (default: 480)")
    parser.add_argument("--width", type=int, default=640, help="pixels (default: 640)")
    parser.add_argument("--condition", choices=CONDITIONS, help="only this one (default: they take turns)")
    parser.add_argument("--prefix", default="", help="begins every file name (default: none)")
    parser.add_argument(
        "--labels", action="store_true", help="also write the instance label maps, labels/{ir,vi}/*.npy"
    )
    options = parser.parse_args(argv)
    try:
        write_dataset(**vars(options), quiet=False)
    except ThFuseError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
