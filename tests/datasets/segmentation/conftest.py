"""Small fake data sets, one writer for each format."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

HEIGHT, WIDTH = 24, 32


def picture(seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """uint8 HxWx3."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def square(label: str = "a", x: float = 4, y: float = 4, side: float = 8, **more: Any) -> dict[str, Any]:
    """A LabelMe polygon."""
    points = [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]
    return {"label": label, "points": points, "shape_type": "polygon", "group_id": None, "flags": {}, **more}


@pytest.fixture
def labelme(tmp_path: Path) -> Callable[..., Path]:
    """labelme(name, shapes, embed=False, **content): write one file in `lm/annotations/`, its image in `lm/images/`."""

    def write(name: str, shapes: list[dict[str, Any]], *, embed: bool = False, **content: Any) -> Path:
        root = tmp_path / "lm"
        image = picture(len(name))
        save(root / "images" / f"{name}.png", image)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        record = {
            "version": "5.0.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"..\\images\\{name}.png",
            "imageData": base64.b64encode(buffer.getvalue()).decode() if embed else None,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
            **content,
        }
        path = root / "annotations" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
        return root

    return write


@pytest.fixture
def mask_pairs(tmp_path: Path) -> Callable[..., Path]:
    """mask_pairs({name: uint8 HxW}, root="pairs", folders=("imgs", "masks"), suffix=".png", ending="")."""

    def write(
        masks: dict[str, np.ndarray],
        *,
        root: str = "pairs",
        folders: tuple[str, str] = ("imgs", "masks"),
        suffix: str = ".png",
        ending: str = "",
    ) -> Path:
        folder = tmp_path / root
        for seed, (name, mask) in enumerate(masks.items()):
            save(folder / folders[0] / f"{name}.png", picture(seed))
            save(folder / folders[1] / f"{name}{ending}{suffix}", mask)
        return folder

    return write


@pytest.fixture
def coco(tmp_path: Path) -> Callable[..., Path]:
    """coco(annotations, images=2, **content): write `coco/annotations.json` and its images."""

    def write(annotations: list[dict[str, Any]], *, images: int = 2, **content: Any) -> Path:
        root = tmp_path / "coco"
        root.mkdir(exist_ok=True)
        listed = []
        for number in range(1, images + 1):
            save(root / "images" / f"{number:04d}.png", picture(number))
            listed.append({"id": number, "file_name": f"{number:04d}.png", "height": HEIGHT, "width": WIDTH})
        record = {"images": listed, "annotations": annotations, "categories": [{"id": 7, "name": "cat"}], **content}
        (root / "annotations.json").write_text(json.dumps(record))
        return root

    return write


def box_mask(top: int = 4, left: int = 4, side: int = 8, value: int = 255) -> np.ndarray:
    """uint8 HxW with one square."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top : top + side, left : left + side] = value
    return mask
