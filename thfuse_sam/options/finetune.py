"""Options of `finetune.py`, which trains Segment Anything models on annotated images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from thfuse_sam.errors import OptionError
from thfuse_sam.options.fields import AUTO, Options, option, redefault, weights_text
from thfuse_sam.options.shared import (
    AnnotationOptions,
    DeviceOptions,
    PromptKindOptions,
    RunOutputOptions,
    TunedSamOptions,
)
from thfuse_sam.options.training import DEFAULT_WORKERS, FinetuneSettings, SplitOptions

# Default weights of the parts in `losses.segmentation`. Focal to Dice 20:1 and the error of the IoU head at 1 are those
# of Kirillov et al., "Segment Anything", ICCV 2023.
LOSS_WEIGHTS = {"dice": 1.0, "focal": 20.0, "bce": 0.0, "iou": 0.0, "iou_head": 1.0}
PROMPT_KINDS = ("box", "point", "random", "points", "negative", "mask")  # the fields of `datasets.prompts.PromptMix`
DEFAULT_PROMPTS = {"box": 1.0, "point": 1.0}
OFF = "off"  # value of `cache_embeddings`


@dataclass(frozen=True)
class LoraSettings(Options):
    """Size of the adapters in an image encoder (Hu et al., "LoRA", ICLR 2022)."""

    rank: int = option(4, "train LoRA adapters of this rank on the image encoder", low=1)
    alpha: float = option(8.0, "scale of the adapters' output: lora_alpha / lora_rank", above=0)
    dropout: float = option(0.0, "dropout on the adapters' input", low=0, below=1)


@dataclass(frozen=True, kw_only=True)
class TunedPartsOptions(TunedSamOptions, group=TunedSamOptions.group):
    """Which model is tuned, and which parts of it."""

    freeze_image_encoder: bool = option(False, "do not train the image encoder")
    freeze_prompt_encoder: bool = option(False, "do not train the prompt encoder")
    freeze_mask_decoder: bool = option(False, "do not train the mask decoder")
    lora_rank: int | None = redefault(LoraSettings, "rank", None, default_text="no adapters")
    lora_alpha: float = redefault(LoraSettings, "alpha", LoraSettings.alpha)
    lora_dropout: float = redefault(LoraSettings, "dropout", LoraSettings.dropout)
    cache_embeddings: str = option(
        AUTO,
        "keep embeddings of a frozen image encoder in DIR; auto: in the cache folder, if there is enough space",
        metavar="auto|off|DIR",
    )


@dataclass(frozen=True, kw_only=True)
class TunedDataOptions(AnnotationOptions, SplitOptions, group=AnnotationOptions.group):
    """Which annotated images a model is tuned on."""

    val_dir: Path | None = option(
        None, "annotated images for validation", default_text="DATA_DIR/val, else `val_fraction` of the images"
    )
    val_fraction: float = redefault(SplitOptions, "val_fraction", 0.2)
    debug_with_one_example: bool = option(
        False, "train and evaluate on one image, to see that the model can learn it", aliases=("-d",)
    )


@dataclass(frozen=True, kw_only=True)
class PromptLossOptions(PromptKindOptions, group="prompts and loss"):
    """Which prompts the model gets, and the loss of its masks."""

    prompts: Mapping[str, float] | None = option(
        None,
        f"how often an object gets each kind of prompt: {', '.join(PROMPT_KINDS)}",
        low=0,
        choices=PROMPT_KINDS,
        metavar="KIND=WEIGHT",
        default_text=weights_text(DEFAULT_PROMPTS),
    )
    loss: Mapping[str, float] = option(
        {},
        f"weights of loss parts ({', '.join(LOSS_WEIGHTS)}); 0 leaves a part out; the other parts keep their defaults",
        low=0,
        choices=tuple(LOSS_WEIGHTS),
        default_text=weights_text(LOSS_WEIGHTS),
    )
    alpha: float = option(
        0.25, "focal loss: weight of pixels inside the object, 0 to 1; -1: no weighting", low=-1, high=1
    )
    gamma: float = option(2.0, "focal loss: exponent, by which pixels that are easy count less", low=0)


@dataclass(frozen=True, kw_only=True)
class EarlierOptions(Options, group="taken from scripts of other tools, without effect"):
    """Options that other tools' commands have and this one does not need."""

    dist: str | None = option(None, "torchrun starts several processes", bare="True", metavar="BOOL")
    port: int | None = option(None, "torchrun chooses it", low=0, high=65535)


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(
    EarlierOptions,
    TunedDataOptions,
    TunedPartsOptions,
    PromptLossOptions,
    FinetuneSettings,
    DeviceOptions,
    RunOutputOptions,
    group=RunOutputOptions.group,
):
    """What is tuned, on which images, and how."""

    sections = MappingProxyType({"dataset": "data_dir"})  # a mixture of training sets may stand in the option file

    output_dir: Path = redefault(RunOutputOptions, "output_dir", Path("runs"), help="folder of experiments")
    exp_name: str = option(
        "finetune", "name of this experiment's folder in the output folder", aliases=("checkpoint_name",)
    )
    export: Path | None = option(
        None,
        "also write the best model as a whole SAM checkpoint, which other commands take as `sam_checkpoint`",
        metavar="FILE",
    )
    epochs: int | None = redefault(
        FinetuneSettings, "epochs", None, default_text=f"{FinetuneSettings.epochs}, or as many as `max_steps` needs"
    )
    num_workers: int | None = redefault(FinetuneSettings, "num_workers", None, default_text=DEFAULT_WORKERS)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lora_alpha", "lora_dropout"):
            value = getattr(self, name)
            if self.lora_rank is None and value != getattr(FinetuneOptions, name):
                raise OptionError(name, value, "has no effect without adapters; give `lora_rank`, or leave it out")
        if self.debug_with_one_example and self.val_dir is not None:
            raise OptionError(
                "val_dir",
                self.val_dir,
                "is given beside `debug_with_one_example`, which evaluates on its own image; give one",
            )

    @property
    def run_dir(self) -> Path:
        return self.output_dir / self.exp_name
