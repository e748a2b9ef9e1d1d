"""Options of `train.py`, which trains fusion networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from thfuse_sam.options.fields import option, redefault, weights_text
from thfuse_sam.options.shared import (
    TRAIN_SAMPLE,
    DeviceOptions,
    FolderOptions,
    LiveSamOptions,
    MaskOptions,
    PairOptions,
    RunOutputOptions,
)
from thfuse_sam.options.training import DEFAULT_WORKERS, FusionSettings, SplitOptions

# The names in the registries of `models`, `losses` and `metrics`, which need torch; a test holds them equal.
NETWORKS = ("thfuse", "thfuse_lite", "thfuse_tiny")
# Default weights; a part with 0 is computed only if it is asked for. That of the gradient decides how sharp the result
# is, and those of the regions keep them below the parts that hold at every pixel.
LOSS_WEIGHTS = {
    "intensity": 0.0, "intensity_squared": 0.0, "intensity_average": 0.0, "intensity_salient": 0.0, "pyramid": 3.0,
    "gradient": 16.0, "ssim": 0.75, "region": 0.5, "region_edges": 2.0, "contrast": 1.0, "perceptual": 0.0,
    "colour": 0.0,
}  # fmt: skip
_LR = FusionSettings().lr
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
    skip_bad: bool = option(
        False, "leave out pairs that cannot be read or used, and list them (reads all images first)"
    )
    crop_size: int = option(
        128, "height and width of the training crops, pixels; smaller images are padded", low=1, high=4096
    )
    jitter: float = option(
        0.0,
        "probability that a crop is resized from a window of another size, and that each of its images gets another "
        "brightness and contrast, for images of other cameras than those trained on",
        low=0,
        high=1,
        metavar="P",
    )


@dataclass(frozen=True, kw_only=True)
class TrainMaskOptions(LiveSamOptions, group=LiveSamOptions.group):
    """Where the masks of the pairs come from."""

    precomputed_masks_dir: tuple[Path, ...] | None = redefault(MaskOptions, "precomputed_masks_dir", None)


@dataclass(frozen=True, kw_only=True)
class TrainValidationOptions(SplitOptions, group=SplitOptions.group):
    """Which pairs a network is validated on."""

    val_dataset_path: Path | None = option(None, "folder of pairs for validation, in place of `val_fraction`")
    val_precomputed_masks_dir: Path | None = option(
        None, "mask tree of the pairs in `val_dataset_path`", default_text="the first `precomputed_masks_dir`"
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

    network: str = option("thfuse_lite", "fusion network to train", choices=NETWORKS)
    init: Path | None = option(
        None,
        "weights to start from: a checkpoint of the same `network`, or thfuse_lite or thfuse_tiny, which ship",
        metavar="FILE",
        default_text="random weights",
    )
    lr: float | None = redefault(  # type: ignore[assignment]  # None: that of the run that goes on
        FusionSettings, "lr", None, default_text=f"{_LR}; with `init` a tenth of that, with `resume` that of the run"
    )
    contrast_gain: float = option(
        1.15, "contrast that warm segments get when pairs are fused, times that in infrared; 0: whatever comes", low=0
    )
    sky: float = option(
        1.0, "how far bright skies look as in the visible image when pairs are fused; 0: not at all", low=0, high=1
    )
    selection: float = option(
        0.4, "how far each place follows one source when pairs are fused; 0: as the layers mix them", low=0, high=1
    )
    loss_weights: Mapping[str, float] = option(
        {},
        f"weights of loss parts ({', '.join(LOSS_WEIGHTS)}); 0 leaves a part out; the other parts keep their defaults",
        low=0,
        choices=tuple(LOSS_WEIGHTS),
        default_text=weights_text(LOSS_WEIGHTS),
    )
    vgg_weights: Path | None = option(
        None, "torchvision's weights of VGG-16, which the loss part 'perceptual' needs", metavar="FILE"
    )
    val_metrics: tuple[str, ...] = redefault(
        FusionSettings,
        "val_metrics",
        ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM", "Nabf"),
        help="metrics of the validation crops, measured at each evaluation; or 'all', or 'none'",
        choices=(*METRICS, "all", "none"),
    )
    num_workers: int | None = redefault(FusionSettings, "num_workers", None, default_text=DEFAULT_WORKERS)

    def __post_init__(self) -> None:
        if self.lr is None and self.resume is None:
            object.__setattr__(self, "lr", _LR if self.init is None else _LR / 10)
        super().__post_init__()
