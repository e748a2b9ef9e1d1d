"""Write a data set of rendered pairs: `python -m tools.scenes --output DIR --count N`."""

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from thfuse_sam.cli.parser import CommandLine
from thfuse_sam.cli.run import command
from thfuse_sam.errors import OutputError
from thfuse_sam.files import make_directory, write_atomically, write_json
from tools.scenes import CONDITIONS, Scene, render_scene
from tools.scenes.options import SceneOptions

JPEG_QUALITY = 90


@command("python -m tools.scenes", "Write rendered pairs of infrared and visible images.", SceneOptions)
def scenes(line: CommandLine[SceneOptions]) -> None:
    write_dataset(line.options)


def write_dataset(options: SceneOptions) -> None:
    """Write pairs, and with `labels` their label maps.

        output/ir/<name>.png           grey, 8 bit
        output/vi/<name>.jpg           colour
        output/labels/ir/<name>.npy    HxW uint16, numbers shared by both modalities
        output/labels/vi/<name>.npy
        output/labels/names.json       {"<name>": {"1": "sky", ...}}

    The scenes are numbers `seed`, `seed + 1`, ...; the conditions take turns unless one is given.
    """
    make_directory(options.output)
    classes: dict[str, dict[int, str]] = {}
    for index in tqdm(range(options.count), desc="rendering", unit="pair", disable=None):
        condition = options.condition or CONDITIONS[index % len(CONDITIONS)]
        scene = render_scene(options.seed + index, height=options.height, width=options.width, condition=condition)
        name = f"{options.prefix}{condition}_{index:03d}"
        _write_image(options.output / "ir" / f"{name}.png", scene.infrared, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        visible = options.output / "vi" / f"{name}.jpg"
        _write_image(visible, scene.visible[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if options.labels:
            _write_labels(options.output / "labels", name, scene)
            classes[name] = scene.names
    if options.labels:
        write_json(options.output / "labels" / "names.json", classes)


def _write_image(path: Path, image: NDArray[np.uint8], parameters: list[int]) -> None:
    succeeded, data = cv2.imencode(path.suffix, np.ascontiguousarray(image), parameters)
    if not succeeded:
        raise OutputError(f"cannot encode {path}; check the OpenCV installation")
    write_atomically(path, lambda file: file.write(data.tobytes()))


def _write_labels(folder: Path, name: str, scene: Scene) -> None:
    write_atomically(folder / "ir" / f"{name}.npy", lambda file: np.save(file, scene.infrared_labels))
    write_atomically(folder / "vi" / f"{name}.npy", lambda file: np.save(file, scene.visible_labels))


if __name__ == "__main__":
    sys.exit(scenes.main())
