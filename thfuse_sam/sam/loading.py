"""Loading a Segment Anything model of any type: `load_sam` of the checkpoint that was chosen.

`checkpoints.resolve_sam` chooses among whole checkpoints; `resolve_tuned` also takes a file of some weights alone.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from thfuse_sam.downloads import cache_folder
from thfuse_sam.errors import CheckpointError
from thfuse_sam.options.fields import AUTO
from thfuse_sam.options.generator import HUGGING_FACE
from thfuse_sam.sam.adapt import Adaptation, load_trained_state, prepare
from thfuse_sam.sam.checkpoints import ResolvedSam, checkpoint_sha256, resolve_sam, shipped_checkpoint
from thfuse_sam.sam.export import TrainedHeader, read_trained_header
from thfuse_sam.sam.hugging_face import load_hugging_face
from thfuse_sam.sam.mask_model import AnySam
from thfuse_sam.sam.registry import MODEL_TYPES, build_sam, find_model_type, fitting_model
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


def resolve_tuned(model_type: str = AUTO, checkpoint: Path | None = None, *, base: Path | None = None) -> ResolvedSam:
    """As `resolve_sam`, where `checkpoint` may also hold some weights alone, which `base` completes.

    Those are trained weights of finetune.py or a part of a SAM, such as a decoder alone.

    Args:
        base: a whole checkpoint; None: what trained weights were tuned from is looked for beside them, in the cache
            and among what ships.

    Raises CheckpointError, also if `base` is not what trained weights were tuned from, or is not found.
    """
    header = None if checkpoint is None else read_trained_header(checkpoint)
    if checkpoint is None or (header is None and base is None):
        return resolve_sam(model_type, checkpoint)
    if header is not None:
        if model_type not in (AUTO, header.model_type):
            raise CheckpointError(f"{checkpoint}: holds {header.model_type}, not {model_type}; leave out `model_type`")
        model_type, base = header.model_type, _find_base(checkpoint, header, base)
    else:
        whole = resolve_sam(model_type, base)
        model_type, base = whole.model_type, whole.checkpoint
        weights = read_weights(base) | read_weights(checkpoint)
        fitting_model(find_model_type(model_type), weights, checkpoint)
    return ResolvedSam(model_type, checkpoint, checkpoint_sha256(checkpoint), base)


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


def _find_base(path: Path, header: TrainedHeader, base: Path | None) -> Path:
    """The checkpoint that the weights in `path` were tuned from: `base` or, if that is None, one that is found."""
    if base is not None:
        sha256 = checkpoint_sha256(base)
        if sha256 != header.base_sha256:
            raise CheckpointError(
                f"{path}: was tuned from {header.base_name} (SHA-256 {header.base_sha256[:12]}...), "
                f"but `base_checkpoint` {base} has {sha256[:12]}...; give the file that was tuned"
            )
        return base
    kind = MODEL_TYPES.get(header.model_type)
    if kind is not None and kind.sha256 == header.base_sha256:
        return resolve_sam(header.model_type).checkpoint
    for candidate in (path.parent / header.base_name, cache_folder() / header.base_name, shipped_checkpoint()):
        if candidate.is_file() and checkpoint_sha256(candidate) == header.base_sha256:
            return candidate
    raise CheckpointError(
        f"{path}: was tuned from {header.base_name} (SHA-256 {header.base_sha256[:12]}...), which is neither beside it "
        "nor in the cache; give it by `base_checkpoint`, or use the exported file"
    )
