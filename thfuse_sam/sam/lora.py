"""Low-rank adapters on an image encoder (Hu et al., "LoRA", ICLR 2022), by the optional `peft`."""

import re
from typing import Any

from segment_anything.modeling import Sam
from torch import Tensor, nn

from thfuse_sam.errors import UsageError
from thfuse_sam.options.finetune import LoraSettings

_ADAPTER = "default"


def adapted_layers(encoder: nn.Module) -> list[str]:
    """Names of the layers that get an adapter: the projections of every attention, else every plain convolution."""
    attention = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and re.search(r"(^|\.)attn\.", name)
    ]
    # The adapters that peft has for convolutions support neither groups nor dilation.
    return attention or [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.dilation == (1, 1)
    ]


def add_lora(sam: Sam, settings: LoraSettings) -> None:
    """Add adapters to the image encoder, in place, and freeze the rest of it. They start without any effect.

    Raises UsageError if `peft` is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UsageError("`lora_rank`: needs peft; pip install 'th-fuse-sam[lora]', or leave `lora_rank` out") from None
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a float is documented to work
        lora_dropout=settings.dropout,
        target_modules=adapted_layers(sam.image_encoder),
        bias="none",
    )
    inject_adapter_in_model(config, sam.image_encoder, adapter_name=_ADAPTER)


def lora_layers(module: nn.Module) -> dict[str, Any]:
    """The adapted layers in `module`, by name; none if it has no adapters."""
    # Recognised by their attributes, so that peft is not imported for a model without adapters.
    modules = module.named_modules()
    return {name: layer for name, layer in modules if hasattr(layer, "lora_A") and hasattr(layer, "base_layer")}


def merged_state_dict(sam: Sam) -> dict[str, Tensor]:
    """The weights of `sam` with its adapters merged into them, under the names of a model without adapters."""
    layers = lora_layers(sam)
    merged: dict[str, Tensor] = {}
    for key, value in sam.state_dict().items():
        owner = next((name for name in layers if key.startswith(f"{name}.")), None)
        if owner is None:
            merged[key] = value.detach()
            continue
        rest = key[len(owner) + 1 :]
        if not rest.startswith("base_layer."):
            continue
        value = value.detach()
        if rest == "base_layer.weight":
            delta = layers[owner].get_delta_weight(_ADAPTER).detach()
            value = value + delta.to(value.dtype)
        merged[f"{owner}.{rest.removeprefix('base_layer.')}"] = value
    return merged
