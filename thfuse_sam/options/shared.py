"""Options that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thfuse_sam.options.fields import AUTO, Options, option, redefault
from thfuse_sam.options.generator import MODEL_TYPE_NAMES

DEFAULT_MASKS_DIR = Path("precomputed_masks")
SWITCHED_OFF = Path("none")  # of `precomputed_masks_dir`: no mask tree, even where one lies in the default place
TEST_SAMPLE = Path("datasets/sample/test")
TRAIN_SAMPLE = Path("datasets/sample/train")
REPORT = "report/index.html"  # below the output folder
SHIPPED_MODEL = Path("models/thfuse_lite.safetensors")


@dataclass(frozen=True, kw_only=True)
class FolderOptions(Options, group="image pairs"):
    """The folders of the two modalities, in place of one that holds both."""

    ir_dir: Path | None = option(None, "folder of infrared images, in place of `dataset_path`")
    vi_dir: Path | None = option(None, "folder of visible images, in place of `dataset_path`")


@dataclass(frozen=True, kw_only=True)
class PairOptions(FolderOptions, group=FolderOptions.group):
    """Which image pairs."""

    dataset_path: Path | None = option(None, "folder of pairs, see datasets/README.md", default_text=str(TEST_SAMPLE))


@dataclass(frozen=True, kw_only=True)
class SamOptions(Options, group="SAM"):
    """Which Segment Anything model."""

    sam_checkpoint: Path | None = option(None, "SAM weights", default_text="those of the model type, see the README")
    sam_model_type: str = option(AUTO, "which SAM; auto: the checkpoint's", choices=MODEL_TYPE_NAMES)


@dataclass(frozen=True, kw_only=True)
class TunedSamOptions(SamOptions, group=SamOptions.group):
    """Which Segment Anything model, of those that finetune.py trained too."""

    sam_checkpoint: Path | None = redefault(
        SamOptions,
        "sam_checkpoint",
        None,
        help="SAM weights, whole or trained by finetune.py",
        aliases=("checkpoint", "checkpoint_path"),
    )
    sam_model_type: str = redefault(SamOptions, "sam_model_type", AUTO, aliases=("model_type", "-m"))
    base_checkpoint: Path | None = option(
        None, "what trained weights were tuned from", default_text="beside them or in the cache"
    )


@dataclass(frozen=True, kw_only=True)
class LiveSamOptions(SamOptions, group="masks"):
    """Whether SAM runs where no mask tree is given. Its options are unused with a mask tree."""

    use_sam: bool = option(False, "without a mask tree: run SAM on every image (slow)")


@dataclass(frozen=True, kw_only=True)
class MaskOptions(LiveSamOptions, group=LiveSamOptions.group):
    """Where masks come from."""

    precomputed_masks_dir: Path | None = option(
        None,
        f"mask tree of precompute_masks.py; '{SWITCHED_OFF}' switches it off",
        default_text=f"{DEFAULT_MASKS_DIR} where it holds a manifest and `use_sam` is not given",
    )


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options, group="device"):
    """Where to compute."""

    device: str = option(AUTO, "auto, cpu, cuda or cuda:1", aliases=("-g",))


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options, group="network"):
    """Which trained fusion network."""

    model_path: Path | None = option(None, "checkpoint of train.py", default_text=f"the shipped {SHIPPED_MODEL}")


@dataclass(frozen=True, kw_only=True)
class AnnotationOptions(Options, group="data"):
    """Which annotated images, and what is taken of them."""

    data_dir: Path | None = option(
        None, "annotated images: a folder, a COCO .json or a mixture .yaml", aliases=("data_root",)
    )
    labels: tuple[str, ...] | None = option(None, "only objects of these classes", metavar="LABEL", default_text="all")
    merge: bool = option(False, "make all objects of an image one")
    skip_bad: bool = option(False, "leave bad samples out and count them")


@dataclass(frozen=True, kw_only=True)
class PromptKindOptions(Options, group="prompts"):
    """Which prompts stand for annotated objects."""

    point_selection: Literal["center", "random", "bbox"] | None = option(
        None, "one kind of prompt: the point farthest inside, random points, or a jittered box"
    )
    num_points: int = option(1, "points of a prompt that has several", low=1, metavar="N")


@dataclass(frozen=True, kw_only=True)
class RunOutputOptions(Options, group="output"):
    """Where a training run writes, and what it goes on from."""

    output_dir: Path = option(Path("models"), "for checkpoints: the best, the latest and those that are kept")
    log_dir: Path | None = option(
        None, "for train_log.csv and TensorBoard's files", default_text="where the checkpoints are"
    )
    resume: Path | None = option(
        None, "go on from a checkpoint; auto: the latest one of the output folder, if any", bare=AUTO, metavar="PATH"
    )
    report: bool = option(False, f"write {REPORT} beside the log: the curves of the run, and samples")

    @property
    def run_dir(self) -> Path:
        """Folder of this run's checkpoints."""
        return self.output_dir

    @property
    def report_dir(self) -> Path:
        """Folder of this run's report, beside its log."""
        return (self.log_dir or self.run_dir) / Path(REPORT).parent
