"""Options of `predict.py`."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal

from thfuse_sam.errors import OptionError
from thfuse_sam.options.fields import Options, option
from thfuse_sam.options.generator import GeneratorOptions
from thfuse_sam.options.shared import DeviceOptions, InfraredOptions, TunedSamOptions

MaskFormat = Literal["npy", "png", "coco"]


@dataclass(frozen=True)
class PointPrompt:
    """A point in pixels, inside or outside of an object."""

    x: float
    y: float
    label: int = 1  # 1 inside, 0 outside
    WANTED: ClassVar = "X,Y, or X,Y,LABEL with LABEL inside (1) or outside (0), such as 120,80"

    @classmethod
    def parse(cls, text: str) -> "PointPrompt":
        """The point that a text such as "120,80" or "120,80,0" means. Raises ValueError."""
        x, y, label = (*_numbers(text), 1.0)[:3]
        if label not in (0, 1):
            raise ValueError(text)
        return cls(x, y, int(label))


@dataclass(frozen=True)
class BoxPrompt:
    """A box around an object, in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float
    WANTED: ClassVar = "X0,Y0,X1,Y1, such as 10,20,200,180"

    @classmethod
    def parse(cls, text: str) -> "BoxPrompt":
        """The box that a text such as "10,20,200,180" means. Raises ValueError."""
        return cls(*_numbers(text))


def _numbers(text: str) -> list[float]:
    numbers = [float(word) for word in text.split(",")]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(text)
    return numbers


@dataclass(frozen=True, kw_only=True)
class PromptOptions(Options, group="prompts, the same for each image, in pixels"):
    """Where the objects are; without any prompt, everything in the image gets masks."""

    points: tuple[tuple[PointPrompt, ...], ...] = option(
        (),
        "points on one object; X,Y,0 is a point outside of it; repeat the option for each further object",
        metavar="X,Y[,0]",
    )
    boxes: tuple[BoxPrompt, ...] = option((), "boxes, each around one object", metavar="X0,Y0,X1,Y1")


@dataclass(frozen=True, kw_only=True)
class PredictionOptions(Options, group="output"):
    """What is written."""

    output_dir: Path = option(Path("results/predict"), "folder of the masks", aliases=("output", "-o"))
    format: tuple[MaskFormat, ...] = option(
        ("npy",), "files to write: label maps as .npy or PNG, or objects as COCO JSON", metavar="npy|png|coco"
    )
    overlay: bool = option(False, "also draw the masks and their prompts over the images")


@dataclass(frozen=True, kw_only=True)
class PredictOptions(
    TunedSamOptions,
    DeviceOptions,
    InfraredOptions,
    PromptOptions,
    GeneratorOptions,
    PredictionOptions,
    group=TunedSamOptions.group,
):
    """Which images get masks, and by which model."""

    input: Path | None = option(None, "an image or a folder of images", aliases=("image", "image_path"))
    modality: Literal["ir", "vi"] = option("vi", "kind of the images; ir: thermal images, 16-bit or grey")
    export_onnx: Path | None = option(
        None, "write the model as encoder.onnx and decoder.onnx to a folder, check them and stop", metavar="FOLDER"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [item.name for item in fields(InfraredOptions) if getattr(self, item.name) != item.default]
        settings = self.changed_settings()
        given += ["thermal_points"] if settings.get("thermal_points") else []
        if given and self.modality == "vi":
            raise OptionError(given[0], getattr(self, given[0]), "is for infrared images; give `modality` ir with it")
        if self.points or self.boxes:
            for name, value in settings.items():
                raise OptionError(name, value, "is for masks of everything; leave it out, or `points` and `boxes`")
