"""Settings of the automatic mask generator, their defaults for each model type, and the options that change them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from thfuse_sam.errors import OptionError
from thfuse_sam.options.fields import AUTO, Options, option, redefault


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings(Options, group="mask generator"):
    """Settings of the automatic mask generator, under segment_anything's names. Raises OptionError for a bad value."""

    points_per_side: int = option(32, "points along each side of the grid that SAM is prompted with", low=1, high=512)
    points_per_batch: int | Literal["auto"] = option(
        64,
        "points that are decoded together; auto: as many as device and memory suggest; the masks stay the same",
        low=1,
        high=65536,
    )
    pred_iou_thresh: float = option(0.88, "drop masks whose IoU SAM itself estimates below this", low=0, high=1)
    stability_score_thresh: float = option(
        0.95,
        "drop masks whose stability is below this: the IoU of the masks at a lower and at a higher cut-off",
        low=0,
        high=1,
    )
    stability_score_offset: float = option(
        1.0, "how far the cut-offs of the stability score lie from the mask's own, in logits", low=0, high=100
    )
    box_nms_thresh: float = option(
        0.7, "of masks whose boxes overlap by more than this IoU, only the best stays", low=0, high=1
    )
    crop_n_layers: int = option(
        0, "also run on 4**i crops of the image in layer i; 0: the whole image only", low=0, high=4
    )
    crop_nms_thresh: float = option(0.7, "the same IoU for masks from different crops", low=0, high=1)
    crop_overlap_ratio: float = option(
        512 / 1500, "overlap of crops as a share of the image's shorter side", low=0, high=1
    )
    crop_n_points_downscale_factor: int = option(
        1, "in crop layer i, points_per_side is divided by this to the power of i", low=1, high=512
    )
    min_mask_region_area: int = option(
        0,
        "fill holes and remove islands of a mask that are smaller than this, pixels; 0: keep them",
        low=0,
        high=2**31 - 1,
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "fp32", "number format in which SAM computes; auto: 16 bits if the device is fast at it"
    )
    adaptive_points: bool = option(
        False, "skip points that a good mask of an earlier point covers already: faster, loses a few masks"
    )
    thermal_points: int | Literal["auto"] = option(
        0,
        "warm places in the infrared image that SAM is prompted with besides the grid, in both images of a pair of one "
        "size; auto: up to a quarter of the grid's points",
        low=0,
        high=65536,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        factor = self.crop_n_points_downscale_factor
        if self.points_per_side < factor**self.crop_n_layers:
            raise OptionError(
                "crop_n_points_downscale_factor",
                factor,
                f"leaves no point in crop layer {self.crop_n_layers} of `points_per_side` {self.points_per_side}; "
                "use a smaller factor",
            )

    @property
    def max_warm_places(self) -> int:
        """The largest number of warm places to prompt with; 0: none."""
        return self.points_per_side**2 // 4 if isinstance(self.thermal_points, str) else self.thermal_points

    def signature(self) -> dict[str, float | int | str]:
        """The settings that masks depend on, for a mask tree's manifest. The precision, which may depend on the device,
        is left to the caller.

        A setting that was added after the first trees is left out at its default, so that older trees stay valid.
        """
        settings = {**dataclasses.asdict(self), "thermal_points": self.max_warm_places}
        del settings["points_per_batch"], settings["precision"]
        return {name: value for name, value in as_signed(settings).items() if value is not None}


# Settings that were added after the first mask trees, and the values that those trees were made with.
_ADDED_LATER = {"adaptive_points": False, "thermal_points": 0}


def as_signed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a mask tree's signature holds them; None: the signature leaves the setting out at this value."""
    return {name: None if value == _ADDED_LATER.get(name) else value for name, value in settings.items()}


_PUBLISHED = GeneratorSettings(points_per_batch="auto")

HUGGING_FACE = "hf"  # the model type of those that Hugging Face's `transformers` runs

# The model types and their defaults; `sam.registry` says how each is built.
GENERATOR_DEFAULTS: Mapping[str, GeneratorSettings] = {
    "vit_h": _PUBLISHED,
    "vit_l": _PUBLISHED,
    "vit_b": _PUBLISHED,
    "vit_t": _PUBLISHED,
    "vit_nano": GeneratorSettings(
        points_per_side=16,
        points_per_batch="auto",
        pred_iou_thresh=0.35,
        stability_score_thresh=0.65,
        box_nms_thresh=0.5,
        thermal_points="auto",
    ),
    HUGGING_FACE: _PUBLISHED,
}
MODEL_TYPE_NAMES = (AUTO, *GENERATOR_DEFAULTS)  # the values that `sam_model_type` takes


def changed_settings(signed: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """The settings in a signature that are not the model type's own, as options by name."""
    usual = GENERATOR_DEFAULTS.get(model_type, _PUBLISHED).signature()
    changed = [name for name in usual | _ADDED_LATER if signed.get(name) != usual.get(name)]
    return {name: signed.get(name, _ADDED_LATER.get(name)) for name in changed}


def _as_changes(owner: type["GeneratorOptions"]) -> type["GeneratorOptions"]:
    """Add each setting to `owner` as an option that defaults to None, the model type's value, which help lists."""
    for field in dataclasses.fields(GeneratorSettings):
        usual = getattr(_PUBLISHED, field.name)
        own = {model: getattr(settings, field.name) for model, settings in GENERATOR_DEFAULTS.items()}
        shown = f"{usual:.4g}" if isinstance(usual, float) else str(usual)
        text = "; ".join([shown, *(f"{model} {value}" for model, value in own.items() if value != usual)])
        owner.__annotations__[field.name] = field.type | None  # type: ignore[operator]
        default_text = None if usual is False else text
        setattr(owner, field.name, redefault(GeneratorSettings, field.name, None, default_text=default_text))
    return dataclass(frozen=True, kw_only=True)(owner)


@_as_changes
class GeneratorOptions(Options, group="mask generator"):
    """Changes to the generator's settings: an option for each field of GeneratorSettings, None where it stays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        GeneratorSettings(**self.changed_settings())  # refuses settings that do not go together, for any model type

    def changed_settings(self) -> dict[str, Any]:
        """The settings that are given, by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(GeneratorSettings)}
        return {name: value for name, value in values.items() if value is not None}

    def generator_settings(self, defaults: GeneratorSettings) -> GeneratorSettings:
        """A model's `defaults` with the given changes."""
        return dataclasses.replace(defaults, **self.changed_settings())
