"""Which parts of a Segment Anything model are trained, and which weights a file of a trained model keeps."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from thfuse_sam.errors import CheckpointError, UsageError
from thfuse_sam.options.finetune import LoraSettings
from thfuse_sam.sam.lora import add_lora, lora_layers
from thfuse_sam.state_dicts import describe_differences

PARTS = ("image_encoder", "prompt_encoder", "mask_decoder")


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """Which weights are trained. Raises UsageError if none are."""

    frozen: tuple[str, ...] = ()  # names in PARTS; with adapters, the image encoder's own weights are always frozen
    lora: LoraSettings | None = None  # adapters on the image encoder; None: no adapters

    def __post_init__(self) -> None:
        unknown = sorted(set(self.frozen) - set(PARTS))
        if unknown:
            raise ValueError(f"no part of the model: {unknown[0]}")
        if set(self.frozen) == set(PARTS) and self.lora is None:
            raise UsageError("every part of the model is frozen; leave out one of `freeze_...`, or give `lora_rank`")

    @property
    def encoder_is_fixed(self) -> bool:
        """Whether the embedding of an image stays the same during training."""
        return "image_encoder" in self.frozen and self.lora is None

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """The parts whose own weights are trained."""
        frozen = {*self.frozen, *(("image_encoder",) if self.lora is not None else ())}
        return tuple(part for part in PARTS if part not in frozen)


def prepare(sam: Sam, adaptation: Adaptation) -> None:
    """Add the adapters, if any, and let gradients reach only the weights that are trained, in place."""
    sam.requires_grad_(False)
    if adaptation.lora is not None:
        add_lora(sam, adaptation.lora)
    for part in adaptation.trained_parts:
        getattr(sam, part).requires_grad_(True)


def set_mode(sam: Sam, adaptation: Adaptation, *, training: bool) -> None:
    """Training mode for the trained parts alone.

    A frozen part stays in eval mode: in training mode its batch norms would change, even without gradients.
    """
    sam.eval()
    if not training:
        return
    for part in adaptation.trained_parts:
        getattr(sam, part).train()
    for layer in lora_layers(sam).values():
        layer.lora_dropout.train()


def trained_state(sam: Sam, adaptation: Adaptation) -> dict[str, Tensor]:
    """The trained parameters, and the buffers of the trained parts (the statistics of batch norms), by name."""
    state = {name: value for name, value in sam.named_parameters() if value.requires_grad}
    for part in adaptation.trained_parts:
        module: nn.Module = getattr(sam, part)
        persistent = module.state_dict().keys()
        state |= {f"{part}.{name}": value for name, value in module.named_buffers() if name in persistent}
    return {name: value.detach() for name, value in state.items()}


@torch.no_grad()
def load_trained_state(sam: Sam, adaptation: Adaptation, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy a `trained_state` into a prepared model. Raises CheckpointError, naming `path`, if it does not fit."""
    current = trained_state(sam, adaptation)
    differences = describe_differences(current, state)
    if differences:
        raise CheckpointError(f"{path}: does not fit the model ({differences}); give the file of this model type")
    for name, value in current.items():
        value.copy_(state[name])
