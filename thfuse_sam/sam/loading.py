"""Loading a Segment Anything model of any type, from the checkpoint that `checkpoints` has chosen."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from thfuse_sam.errors import CheckpointError
from thfuse_sam.options.generator import HUGGING_FACE
from thfuse_sam.sam.adapt import Adaptation, load_trained_state, prepare
from thfuse_sam.sam.checkpoints import ResolvedSam
from thfuse_sam.sam.export import read_trained_header
from thfuse_sam.sam.hugging_face import load_hugging_face
from thfuse_sam.sam.mask_model import AnySam
from thfuse_sam.sam.registry import build_sam
from thfuse_sam.sam.weights import read_weights


def load_sam(resolved: ResolvedSam, device: torch.device | str = "cpu") -> AnySam:
    """The model of a checkpoint in float32 and in eval mode, on `device`.

    Raises:
        CheckpointError: the checkpoint is damaged, or not of its type.
        UsageError: a model of Hugging Face needs `transformers`, which is not installed.
        DeviceError: the model does not fit into the memory of the GPU that is free.
    """
    if resolved.model_type == HUGGING_FACE:
        return load_hugging_face(resolved.checkpoint, device)
    header = None if resolved.base is None else read_trained_header(resolved.checkpoint)
    if header is None or resolved.base is None:
        return build_sam(resolved.model_type, resolved.checkpoint, device, base=resolved.base)
    weights = read_weights(resolved.checkpoint)
    _require_adapters(resolved.checkpoint, header.adaptation, weights)
    sam = build_sam(header.model_type, resolved.base, device)
    prepare(sam, header.adaptation)
    load_trained_state(sam, header.adaptation, weights, resolved.checkpoint)
    return sam.eval()


def _require_adapters(path: Path, adaptation: Adaptation, weights: Mapping[str, Tensor]) -> None:
    """Refuse a file whose tensors have another rank than it claims, before adapters of that rank take memory."""
    if adaptation.lora is None:
        return
    ranks = {value.shape[0] for name, value in weights.items() if ".lora_A." in name and value.ndim}
    if ranks != {adaptation.lora.rank}:
        held = ", ".join(map(str, sorted(ranks))) or "none"
        raise CheckpointError(
            f"{path}: claims adapters of rank {adaptation.lora.rank} and holds {held}; write it again"
        )
