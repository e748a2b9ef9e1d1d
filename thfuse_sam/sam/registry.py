"""The Segment Anything model types: how each is built, where its weights are, and how they are loaded."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from segment_anything.modeling import Sam
from torch import Tensor

from thfuse_sam.devices import free_memory, unless_out_of_memory
from thfuse_sam.errors import CheckpointError, DeviceError, OptionError, UsageError
from thfuse_sam.options.generator import GENERATOR_DEFAULTS, MODEL_TYPE_NAMES, GeneratorSettings
from thfuse_sam.sam import nano, tiny_vit
from thfuse_sam.sam.state_dict_forms import described_family, is_part_of_sam
from thfuse_sam.sam.weights import exported_settings, nano_image_size, read_weights, recognise_model_type
from thfuse_sam.state_dicts import describe_differences

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelType:
    """One kind of Segment Anything model."""

    name: str
    build: Callable[[], Sam]  # an untrained model
    file_name: str  # name of the weights' file, in the cache or among what ships
    url: str | None  # None: the weights ship with this project
    sha256: str | None  # SHA-256 of the published weights; None: not fixed


def _published(name: str, build: Callable[[], Sam], digits: str, sha256: str) -> ModelType:
    """One of the models of segment_anything's authors; `digits` are those in the file's name."""
    file_name = f"sam_{name}_{digits}.pth"
    return ModelType(name, build, file_name, f"https://dl.fbaipublicfiles.com/segment_anything/{file_name}", sha256)


# The SHA-256 sums are those that micro-sam's `util.py` (computational-cell-analytics/micro-sam on GitHub) checks its
# downloads against. The digits in SAM's own file names are the first ones of an MD5 sum.
_MODEL_TYPES = (
    _published("vit_h", build_sam_vit_h, "4b8939", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
    _published("vit_l", build_sam_vit_l, "0b3195", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    _published("vit_b", build_sam_vit_b, "01ec64", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    ModelType(
        "vit_t",
        tiny_vit.build_vit_t,
        "mobile_sam.pt",
        url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    ),
    ModelType("vit_nano", nano.build_vit_nano, "vit_nano.safetensors", url=None, sha256=None),
)
MODEL_TYPES = {kind.name: kind for kind in _MODEL_TYPES}


def find_model_type(name: str) -> ModelType:
    """The model type of that name. Raises UsageError for an unknown one."""
    if name not in MODEL_TYPES:
        raise UsageError(f"`sam_model_type` {name}: unknown model type; use {', '.join(MODEL_TYPE_NAMES)}")
    return MODEL_TYPES[name]


def build_sam(
    model_type: str, checkpoint: Path, device: torch.device | str = "cpu", *, base: Path | None = None
) -> Sam:
    """The model with the checkpoint's weights in float32, in eval mode, on `device`.

    Args:
        base: a whole checkpoint that has the parts which `checkpoint` lacks; None: it lacks none.

    Raises:
        CheckpointError: a file cannot be read, or the weights are not exactly those of the model type.
        DeviceError: the model does not fit into the memory of the GPU that is free.
    """
    kind = find_model_type(model_type)
    weights = read_weights(checkpoint) if base is None else read_weights(base) | read_weights(checkpoint)
    sam = fitting_model(kind, weights, checkpoint)
    settings = generator_defaults(kind.name, checkpoint)
    if own := exported_settings(checkpoint):
        log.info("%s has its own defaults for masks: %s", checkpoint, ", ".join(f"`{k}` {v}" for k, v in own.items()))

    def load() -> Sam:
        for name, value in weights.items():
            dtype = torch.float32 if value.is_floating_point() else value.dtype
            # A copy, so that the checkpoint file is not held open by a memory map.
            weights[name] = value.to(device=device, dtype=dtype, copy=True)
            if not weights[name].sum().isfinite():
                raise CheckpointError(
                    f"{checkpoint}: {name} holds numbers that are not finite, as after a training that failed; use an "
                    "earlier checkpoint"
                )
        sam.load_state_dict(weights, assign=True)
        sam.generator_settings = settings  # for `own_settings`
        return sam.to(device).float().eval()

    device = torch.device(device)
    if device.type == "cpu":
        return load()
    loaded = unless_out_of_memory(load)
    if loaded is None:
        raise DeviceError(_too_large(kind, device))
    return loaded


def _too_large(kind: ModelType, device: torch.device) -> str:
    """Why a model does not fit onto a GPU, and what would."""
    free, total = free_memory(device)
    fitting = [other.name for other in MODEL_TYPES.values() if _needed_bytes(other) <= free]
    remedy = f"`sam_model_type` {' or '.join(fitting)}" if fitting else "`device` cpu"
    return (
        f"`device` {device}: {kind.name} needs about {_needed_bytes(kind) >> 20} MiB, of {total >> 20} MiB "
        f"{free >> 20} are free; end the programs that use the rest, or use {remedy}"
    )


def _needed_bytes(kind: ModelType) -> int:
    """Memory in which a model makes masks: its weights twice, in two number formats, and room to work."""
    with torch.device("meta"):
        return 8 * sum(parameter.numel() for parameter in kind.build().parameters()) + 2**29


def own_settings(sam: Sam) -> GeneratorSettings:
    """The defaults of the mask generator that `build_sam` gave a model; segment_anything's for any other."""
    settings: GeneratorSettings = getattr(sam, "generator_settings", GeneratorSettings())
    return settings


def generator_defaults(model_type: str, checkpoint: Path) -> GeneratorSettings:
    """The defaults of the mask generator: those of the model type, or those in the checkpoint where it has some.

    Raises CheckpointError for settings that cannot be.
    """
    try:
        return dataclasses.replace(GENERATOR_DEFAULTS[model_type], **exported_settings(checkpoint))
    except (TypeError, OptionError) as error:
        raise CheckpointError(f"{checkpoint}: its settings of the mask generator are refused ({error})") from None


def fitting_model(kind: ModelType, weights: Mapping[str, Tensor], checkpoint: Path) -> Sam:
    """The model of `kind` on the meta device, without values: the checkpoint would replace them.

    Raises CheckpointError, naming `checkpoint` and what differs, where `weights` are not exactly those of the model.
    """
    refuse_other_models(weights, checkpoint)
    recognised = recognise_model_type(weights)
    with torch.device("meta"):
        if kind.name == recognised == "vit_nano":
            sam = nano.build_vit_nano(nano_image_size(weights) or nano.IMAGE_SIZE)
        else:
            sam = kind.build()
    differences = describe_differences(sam.state_dict(), weights)
    if not differences:
        return sam
    if recognised is None:
        raise CheckpointError(
            f"{checkpoint}: is no Segment Anything checkpoint of a known type ({differences}); "
            f"use one of {kind.name}, such as {kind.file_name}"
        )
    if recognised != kind.name:
        raise CheckpointError(
            f"{checkpoint}: is a {recognised}, not a {kind.name}; "
            f"use `sam_model_type` {recognised} or a checkpoint of {kind.name} ({differences})"
        )
    raise CheckpointError(f"{checkpoint}: is not a plain {kind.name} checkpoint ({differences}); use an unmodified one")


def refuse_other_models(weights: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Raises CheckpointError, naming `checkpoint`, for weights of a later model and for a part of a SAM alone."""
    if family := described_family(weights):
        raise CheckpointError(f"{checkpoint}: is of {family}")
    if is_part_of_sam(weights):
        parts = ", ".join(sorted({name.partition(".")[0] for name in weights}))
        raise CheckpointError(
            f"{checkpoint}: holds a part of a SAM alone ({parts}); give the rest by "
            f"`base_checkpoint`, or write a whole model: `finetune()` `sam_checkpoint` {checkpoint} "
            "`base_checkpoint` FILE `export` WHOLE.pth"
        )
