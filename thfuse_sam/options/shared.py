"""Options that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thfuse_sam.errors import OptionError
from thfuse_sam.options.fields import AUTO, Options, option, redefault
from thfuse_sam.options.generator import MODEL_TYPE_NAMES

Precision = Literal["fp32", "bf16", "fp16"]  # number formats in which networks compute; `devices.DTYPES` maps them

DEFAULT_MASKS_DIR = Path("precomputed_masks")
SWITCHED_OFF = Path("none")  # value of `precomputed_masks_dir`: no mask tree, even if there is one in the default place
TEST_SAMPLE = Path("datasets/sample/test")
TRAIN_SAMPLE = Path("datasets/sample/train")
REPORT = "report/index.html"  # below the output folder
SHIPPED_MODEL = Path("models/thfuse_lite.safetensors")

Polarity = Literal["white-hot", "black-hot"]
_AS_TREE = "as the mask tree, if there is one, was made"
RANGE_WORDS = DATASET, EACH_IMAGE = "dataset", "image"  # values of `ir_range` in place of two numbers
# Those of `false_colour`, which needs OpenCV; a test holds them equal.
COLORMAPS = (
    "ironbow", "autumn", "bone", "cividis", "cool", "deepgreen", "hot", "hsv", "inferno", "jet", "magma", "ocean",
    "parula", "pink", "plasma", "rainbow", "spring", "summer", "turbo", "viridis", "winter",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class InfraredOptions(Options, group="infrared images: see datasets/README.md"):
    """How the numbers of infrared images become grey values."""

    ir_range: tuple[float | Literal["dataset", "image"], ...] | None = option(
        None,
        "numbers of images of more than 8 bits that become black and white; dataset: the same for all, taken from all "
        "images; image: of each image its own",
        metavar="LOW HIGH|dataset|image",
        default_text="as the network or the mask tree was made, else image",
    )
    ir_polarity: Polarity | None = option(
        None,
        "whether what is warm is bright or dark; black-hot images are turned round when they are read",
        default_text="as the mask tree was made, else white-hot",
    )
    ir_nodata: float | None = option(
        None,
        "number that means 'nothing measured', besides those that are recognised",
        metavar="VALUE",
        default_text=_AS_TREE,
    )
    ir_colormap: str | None = option(
        None,
        "turn infrared images that are drawn in this colour map back",
        choices=COLORMAPS,
        metavar="NAME",
        default_text=_AS_TREE,
    )
    ir_gray: bool = option(
        False,
        "take the brightness of infrared images in colours, whatever the colours mean",
        default_text=_AS_TREE,
    )
    ir_channel: int | None = option(
        None,
        "number of the channel, from 0, that holds the infrared: one file may then be both images",
        low=0,
        default_text=_AS_TREE,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.ir_range
        is_range = given is None or (
            given[0] < given[1]  # type: ignore[operator]
            if len(given) == 2 and not {*given} & {*RANGE_WORDS}
            else len(given) == 1 and given[0] in RANGE_WORDS
        )
        if not is_range:
            text = " ".join(str(value) for value in given or ())
            raise OptionError("ir_range", text, f"must be LOW HIGH with LOW below HIGH, {DATASET} or {EACH_IMAGE}")
        if self.ir_gray and self.ir_colormap is not None:
            raise OptionError("ir_colormap", self.ir_colormap, "is given beside `ir_gray`; give one of the two")


@dataclass(frozen=True, kw_only=True)
class FolderOptions(InfraredOptions, group="image pairs"):
    """The folders of the two modalities, in place of one folder that holds both."""

    ir_dir: Path | None = option(None, "folder of infrared images, in place of `dataset_path`")
    vi_dir: Path | None = option(None, "folder of visible images, in place of `dataset_path`")
    pair_pattern: tuple[str, str] | None = option(
        None,
        "how the names of infrared and visible files differ, such as '{name}_ir' '{name}_vi'; one folder may be both",
        metavar=("IR", "VI"),
        default_text="equal names, or patterns in common use",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for pattern in self.pair_pattern or ():
            if pattern.count("{name}") != 1 or "/" in pattern:
                raise OptionError("pair_pattern", pattern, "must be a file name with {name} in it once, no suffix")


@dataclass(frozen=True, kw_only=True)
class PairOptions(FolderOptions, group=FolderOptions.group):
    """Which image pairs are used."""

    dataset_path: Path | None = option(None, "folder of pairs, see datasets/README.md", default_text=str(TEST_SAMPLE))


@dataclass(frozen=True, kw_only=True)
class SamOptions(Options, group="SAM"):
    """Which Segment Anything model is used."""

    sam_checkpoint: Path | None = option(
        None,
        "file of SAM weights; for the type hf a model's folder, or its owner/name on huggingface.co",
        default_text="the usual file of the model type, see the README",
    )
    sam_model_type: str = option(
        AUTO,
        "type of the SAM model; auto: as the checkpoint says; hf: a model of Hugging Face's transformers",
        choices=MODEL_TYPE_NAMES,
    )


@dataclass(frozen=True, kw_only=True)
class TunedSamOptions(SamOptions, group=SamOptions.group):
    """Which Segment Anything model is used; it may be one that finetune.py trained."""

    sam_checkpoint: Path | None = redefault(
        SamOptions,
        "sam_checkpoint",
        None,
        help="file of SAM weights, or of weights trained by `finetune()`; for the type hf a model's folder, or its "
        "owner/name on huggingface.co",
        aliases=("checkpoint", "checkpoint_path"),
    )
    sam_model_type: str = redefault(SamOptions, "sam_model_type", AUTO, aliases=("model_type", "-m"))
    base_checkpoint: Path | None = option(
        None,
        "SAM weights that `finetune()` started from",
        default_text="looked for beside `sam_checkpoint` and in the cache folder",
    )


@dataclass(frozen=True, kw_only=True)
class LiveSamOptions(SamOptions, group="masks"):
    """Whether SAM runs if no mask tree is given. With a mask tree, the options of SAM are unused."""

    use_sam: bool = option(False, "run SAM on every image if no mask tree is given (slow)")


@dataclass(frozen=True, kw_only=True)
class MaskOptions(LiveSamOptions, group=LiveSamOptions.group):
    """Where masks come from."""

    precomputed_masks_dir: Path | None = option(
        None,
        f"mask tree that `precompute()` wrote; '{SWITCHED_OFF}': use no masks",
        default_text=f"{DEFAULT_MASKS_DIR}, if it holds a manifest and `use_sam` is not given",
    )


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options, group="device"):
    """Where the computation runs."""

    device: str = option(
        AUTO, "where to compute: auto, cpu, cuda or cuda:1; auto: a GPU if there is one", aliases=("-g",)
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options, group="network"):
    """Which trained fusion network is used."""

    model_path: Path | None = option(
        None,
        "fusion network: a checkpoint of `train()`, or thfuse_lite or thfuse_tiny, which ship",
        default_text=f"the shipped {SHIPPED_MODEL}",
    )


@dataclass(frozen=True, kw_only=True)
class AnnotationReading(Options, group="reading of annotations"):
    """What annotations mean, where their files do not say."""

    mask_kind: Literal["auto", "binary", "classes", "instances", "alpha"] = option(
        AUTO,
        "what mask images hold: one object, a number or colour for each class or for each object, or one object in "
        "their alpha channel; auto: as the files and the folder's name show",
    )
    mask_values: tuple[str, ...] = option(
        (), "values of mask images that are the object; others are background", metavar="N|R,G,B", default_text="auto"
    )
    ignore_value: int | None = option(
        None,
        "value of mask images that is neither object nor background; -1: no value is",
        low=-1,
        default_text="255 in maps of classes and objects",
    )
    line_width: int | None = option(
        None, "draw lines of LabelMe as objects of this width in pixels", low=1, high=1000, default_text="refuse lines"
    )
    use_crowds: bool = option(
        False, "take COCO's crowd regions (iscrowd 1), which some tools write for every brush mask, as objects"
    )
    ignore_exif: bool = option(False, "the outlines were drawn on images as stored, without their EXIF rotation")

    def __post_init__(self) -> None:
        super().__post_init__()
        for value in self.mask_values:
            words = value.split(",")
            if len(words) not in (1, 3) or not all(word.strip().isdecimal() for word in words):
                raise OptionError("mask_values", value, "give numbers, or colours as R,G,B")
        if self.mask_values and self.mask_kind != AUTO:
            raise OptionError("mask_kind", self.mask_kind, "is given beside `mask_values`; give one of the two")


@dataclass(frozen=True, kw_only=True)
class AnnotationOptions(AnnotationReading, group="data"):
    """Which annotated images are used, and which of their objects."""

    data_dir: Path | None = option(
        None, "annotated images: a folder, a COCO .json or a mixture .yaml", aliases=("data_root",)
    )
    labels: tuple[str, ...] | None = option(
        None, "take only objects of these classes", metavar="LABEL", default_text="all"
    )
    merge: bool = option(False, "join all objects of an image into one")
    skip_bad: bool = option(False, "leave out samples and annotations that cannot be read or used, and count them")
    strict: bool = option(False, "refuse annotations that would be mended: cut at the border, or left out as empty")

    @property
    def choices(self) -> dict[str, Any]:
        """What `open_segmentation_dataset` is told."""
        names = ("labels", "merge", "skip_bad", "strict")
        return {**{name: getattr(self, name) for name in names}, "reading": self.part(AnnotationReading)}


@dataclass(frozen=True, kw_only=True)
class PromptKindOptions(Options, group="prompts"):
    """Which prompts are made from annotated objects."""

    point_selection: Literal["center", "random", "bbox"] | None = option(
        None, "use one kind of prompt: the point farthest inside the object, random points, or a jittered box"
    )
    num_points: int = option(1, "number of points in a prompt of several points", low=1, metavar="N")


@dataclass(frozen=True, kw_only=True)
class RunOutputOptions(Options, group="output"):
    """Where a training run writes, and the checkpoint that it is resumed from."""

    output_dir: Path = option(
        Path("models"),
        "folder of the checkpoints: the best, the latest, and one each `save_interval` epochs",
        aliases=("-o",),
    )
    log_dir: Path | None = option(
        None, "folder of train_log.csv and TensorBoard's files", default_text="the folder of the checkpoints"
    )
    resume: Path | None = option(
        None,
        "checkpoint, or its folder, to resume training from; auto, or no PATH: the latest in the output folder, if any",
        bare=AUTO,
        metavar="PATH",
    )
    overwrite: bool = option(False, "remove the checkpoints and the log of an earlier run and start anew")
    report: bool = option(False, f"write {REPORT} beside the log: the curves of the run and sample pictures")

    @property
    def run_dir(self) -> Path:
        """Folder of this run's checkpoints."""
        return self.output_dir

    @property
    def report_dir(self) -> Path:
        """Folder of this run's report, beside its log."""
        return (self.log_dir or self.run_dir) / Path(REPORT).parent


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(Options, group="output"):
    """What fused images are measured by, and whether a report shows them."""

    targets: Path | None = option(
        None,
        "labelled objects of the infrared images: measure how they stand out; YOLO text, COCO .json or label maps",
        metavar="PATH",
    )
    report: bool | None = option(True, f"write OUTPUT_DIR/{REPORT}, a page with the pairs, their metrics and masks")
