"""Options that several commands share."""

from dataclasses import dataclass
from pathlib import Path

from thfuse_sam.options.fields import AUTO, Options, option
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

    sam_checkpoint: Path | None = option(
        None, "SAM weights", default_text="those of the model type, see the README", aliases=("checkpoint",)
    )
    sam_model_type: str = option(
        AUTO, "which SAM; auto: the checkpoint's", choices=MODEL_TYPE_NAMES, aliases=("model_type", "-m")
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
