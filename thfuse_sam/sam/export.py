"""Files of fine-tuned models: the trained weights alone, or a whole checkpoint in the original SAM format.

A file of trained weights is `.safetensors` with one JSON entry in its metadata: the model type, the SHA-256 of the
checkpoint that was tuned, which parts were frozen, and the adapters' size. It is of no use without that checkpoint.
`loading` makes models of them.
"""

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from thfuse_sam.errors import CheckpointError, UsageError
from thfuse_sam.files import write_atomically
from thfuse_sam.options.finetune import LoraSettings
from thfuse_sam.sam.adapt import Adaptation
from thfuse_sam.sam.lora import merged_state_dict
from thfuse_sam.sam.weights import CHECKPOINT_SUFFIXES, GENERATOR_KEY, TRAINED_KEY, trained_metadata

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class TrainedHeader:
    """The description in a file of trained weights."""

    model_type: str
    base_sha256: str  # SHA-256 of the checkpoint that was tuned, in hexadecimal
    base_name: str  # file name of that checkpoint
    adaptation: Adaptation


def save_trained(path: Path, trained: Mapping[str, Tensor], header: TrainedHeader) -> None:
    """Write the weights of a tuned model, a `trained_state`, and their description, atomically. Raises OutputError."""
    lora = header.adaptation.lora
    entry = {
        "format_version": FORMAT_VERSION,
        "model_type": header.model_type,
        "base_sha256": header.base_sha256,
        "base_name": header.base_name,
        "frozen": list(header.adaptation.frozen),
        "lora": None if lora is None else dataclasses.asdict(lora),
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
