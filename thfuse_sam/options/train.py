"""Options of `train.py`, which trains fusion networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from thfuse_sam.options.fields import option, redefault
from thfuse_sam.options.shared import (
    TRAIN_SAMPLE,
    DeviceOptions,
    FolderOptions,
    LiveSamOptions,
    MaskOptions,
    PairOptions,
    RunOutputOptions,
)
from thfuse_sam.options.training import FusionSettings, SplitOptions

# Names that the registries of `models`, `losses` and `metrics` have.
NETWORKS = ("thfuse", "thfuse_lite")
LOSS_PARTS = (
    "intensity", "intensity_squared", "intensity_average", "intensity_salient", "pyramid", "gradient", "ssim",
    "region", "region_edges", "perceptual", "colour",
)  # fmt: skip
METRICS = ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM", "MS_SSIM", "CC", "PSNR", "Nabf")


@dataclass(frozen=True, kw_only=True)
class TrainPairOptions(FolderOptions, group=FolderOptions.group):
    """Which image pairs a network is trained on."""

    dataset_path: tuple[Path, ...] | None = redefault(
        PairOptions,
        "dataset_path",
        None,
        help="folders of pairs, see datasets/README.md",
        default_text=str(TRAIN_SAMPLE),
    )
    skip_bad: bool = option(False, "read all images first, leave out pairs that cannot be used, list them")
    crop_size: int = option(128, "side of the crops that are trained on, pixels", low=1)


@dataclass(frozen=True, kw_only=True)
class TrainMaskOptions(LiveSamOptions, group=LiveSamOptions.group):
    """Where the masks of the pairs come from."""

    precomputed_masks_dir: tuple[Path, ...] | None = redefault(MaskOptions, "precomputed_masks_dir", None)


@dataclass(frozen=True, kw_only=True)
class TrainValidationOptions(SplitOptions, group=SplitOptions.group):
    """Which pairs a network is validated on."""

    val_dataset_path: Path | None = option(None, "pairs for validation, in place of `val_fraction`")
    val_precomputed_masks_dir: Path | None = option(
        None, "their mask tree", default_text="the first `precomputed_masks_dir`"
    )


@dataclass(frozen=True, kw_only=True)
class TrainOptions(
    TrainPairOptions,
    TrainMaskOptions,
    TrainValidationOptions,
    FusionSettings,
    DeviceOptions,
    RunOutputOptions,
    group=FusionSettings.group,
):
    """What is trained, on which pairs, and how."""

    network: str = option("thfuse_lite", "which network", choices=NETWORKS)
    loss_weights: Mapping[str, float] = option({}, "change parts of the loss", low=0, choices=LOSS_PARTS)
    vgg_weights: Path | None = option(None, "torchvision's vgg16, for the loss part 'perceptual'", metavar="FILE")
    val_metrics: tuple[str, ...] = redefault(
        FusionSettings,
        "val_metrics",
        ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM", "Nabf"),
        help="measured on the validation crops at each evaluation; also 'all', 'none'",
        choices=(*METRICS, "all", "none"),
    )
    num_workers: int | None = redefault(FusionSettings, "num_workers", None, default_text="0 on a CPU")
