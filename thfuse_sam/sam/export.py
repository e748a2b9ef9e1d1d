"""Files of fine-tuned models: the trained weights alone, or a whole checkpoint in the original SAM format.

A file of trained weights is `.safetensors` with one JSON entry in its metadata: the model type, the SHA-256 of the
checkpoint that was tuned, which parts were frozen, and the adapters' size. It is of no use without that checkpoint.
"""

import dataclasses
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from thfuse_sam.downloads import cache_folder
from thfuse_sam.errors import CheckpointError, UsageError
from thfuse_sam.files import write_atomically
from thfuse_sam.options.finetune import LoraSettings
from thfuse_sam.sam.adapt import Adaptation, load_trained_state, prepare
from thfuse_sam.sam.checkpoints import AUTO, ResolvedSam, checkpoint_sha256, load_sam, resolve_sam, shipped_checkpoint
from thfuse_sam.sam.lora import merged_state_dict
from thfuse_sam.sam.mask_model import AnySam
from thfuse_sam.sam.registry import MODEL_TYPES, build_sam
from thfuse_sam.sam.weights import CHECKPOINT_SUFFIXES, GENERATOR_KEY, TRAINED_KEY, read_weights, trained_metadata

FORMAT_VERSION = 1

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainedHeader:
    """The description in a file of trained weights."""

    model_type: str
    base_sha256: str  # SHA-256 of the checkpoint that was tuned, in hexadecimal
    base_name: str  # file name of that checkpoint
    adaptation: Adaptation


def save_trained(path: Path, trained: Mapping[str, Tensor], adaptation: Adaptation, base: ResolvedSam) -> None:
    """Write the weights of a model that was tuned from `base`, a `trained_state`, atomically. Raises OutputError."""
    entry = {
        "format_version": FORMAT_VERSION,
        "model_type": base.model_type,
        "base_sha256": base.sha256,
        "base_name": base.checkpoint.name,
        "frozen": list(adaptation.frozen),
        "lora": None if adaptation.lora is None else dataclasses.asdict(adaptation.lora),
    }
    weights = {name: value.cpu().contiguous() for name, value in trained.items()}
    write_atomically(path, lambda file: file.write(safetensors.torch.save(weights, {TRAINED_KEY: json.dumps(entry)})))


def read_trained_header(path: Path) -> TrainedHeader | None:
    """The description in `path`; None if it is no file of trained weights. Raises CheckpointError if damaged."""
    text = trained_metadata(path)
    if text is None:
        return None
    try:
        entry: dict[str, Any] = json.loads(text)
        if entry["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: has format version {entry['format_version']}, this program reads {FORMAT_VERSION}; "
                "use the thfuse_sam version that wrote it"
            )
        lora = None if entry["lora"] is None else LoraSettings(**entry["lora"])
        adaptation = Adaptation(tuple(entry["frozen"]), lora)
        # The name alone, without folders: the file may come from anybody.
        base_name = Path(str(entry["base_name"]).replace("\\", "/")).name
        return TrainedHeader(str(entry["model_type"]), str(entry["base_sha256"]), base_name, adaptation)
    except (KeyError, TypeError, ValueError, RecursionError):
        raise CheckpointError(f"{path}: damaged description of trained weights; write it again") from None


def load_trained(path: Path, base: Path | None = None, device: torch.device | str = "cpu") -> Sam:
    """The model in a file of trained weights, in eval mode.

    Args:
        base: the checkpoint that was tuned; None looks for it in the cache and among what ships.

    Raises:
        CheckpointError: `path` is no file of trained weights, `base` is not the checkpoint that was tuned, or the
            checkpoint is not found.
    """
    header = read_trained_header(path)
    if header is None:
        raise CheckpointError(f"{path}: holds no trained weights of finetune.py; give a file that it wrote")
    base = _find_base(path, header, base)
    weights = read_weights(path)
    _require_adapters(path, header.adaptation, weights)
    sam = build_sam(header.model_type, base, device)
    prepare(sam, header.adaptation)
    load_trained_state(sam, header.adaptation, weights, path)
    return sam.eval()


def load_any(
    model_type: str = AUTO,
    checkpoint: Path | None = None,
    *,
    base: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[AnySam, str]:
    """A model and its type's name, in eval mode, from a whole checkpoint, or from `base` and a file of some weights.

    Those are trained weights of finetune.py or a part of a SAM, such as a decoder alone. Raises CheckpointError.
    """
    header = read_trained_header(checkpoint) if checkpoint is not None else None
    if header is None and checkpoint is not None and base is not None:
        whole = resolve_sam(model_type, base)
        return build_sam(whole.model_type, checkpoint, device, base=base), whole.model_type
    if header is None or checkpoint is None:
        resolved = resolve_sam(model_type, checkpoint)
        return load_sam(resolved.model_type, resolved.checkpoint, device), resolved.model_type
    if model_type not in (AUTO, header.model_type):
        raise CheckpointError(f"{checkpoint}: holds {header.model_type}, not {model_type}; leave out `model_type`")
    return load_trained(checkpoint, base, device), header.model_type


def export_sam(path: Path, sam: Sam, generator: Mapping[str, float] | None = None) -> None:
    """Write the whole model, adapters merged, atomically, in the format of the published checkpoints.

    `generator` are settings of the mask generator that suit the weights; whoever opens the file gets them as defaults.
    Raises UsageError: the suffix is none of CHECKPOINT_SUFFIXES; OutputError: the system refuses.
    """
    require_export_name(path)
    weights = {name: value.cpu().contiguous() for name, value in merged_state_dict(sam).items()}
    metadata = {GENERATOR_KEY: json.dumps(dict(generator))} if generator else {}
    if path.suffix.lower() == ".safetensors":
        write_atomically(path, lambda file: file.write(safetensors.torch.save(weights, metadata)))
    else:
        content = OrderedDict(weights)
        content._metadata = metadata  # type: ignore[attr-defined]  # where PyTorch's own state dicts keep theirs
        write_atomically(path, lambda file: torch.save(content, file))


def require_export_name(path: Path) -> None:
    """Refuse a name that readers of checkpoints would not take. Raises UsageError."""
    if path.suffix.lower() not in CHECKPOINT_SUFFIXES:
        raise UsageError(f"`export` {path}: the name must end in {', '.join(CHECKPOINT_SUFFIXES)}")


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
