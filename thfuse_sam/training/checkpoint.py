"""Checkpoints: one file from which a training run goes on, and from which `fusion.loading` rebuilds its network.

A checkpoint is a `torch.save` file of plain values and tensors, read with `weights_only=True`:

    format_version  1
    network         {"name": what is trained, "options": what else has to be equal for the weights to fit}
    weights         state dict: what the network is used with (averaged over steps where training does so)
    raw_weights     state dict that training goes on from, where it is not `weights`; empty otherwise
    training        the resolved training options, for the record
    epoch, step     finished epochs; optimiser steps so far
    optimizer, scheduler, scaler, random_states, progress, task    what an uninterrupted run would have in memory

`raw_weights`, `scaler` and `task` may be missing.
"""

import contextlib
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thfuse_sam.devices import is_out_of_memory
from thfuse_sam.errors import CheckpointError
from thfuse_sam.files import write_atomically
from thfuse_sam.state_dicts import describe_differences

FORMAT_VERSION = 1
_NO_MEMORY = "{path}: memory does not suffice to read it; close other programs"
_TRUNCATED = "{path}: truncated or not a checkpoint; copy it again or give another file"

# What options were called in files of earlier versions.
_FORMER_OPTIONS = {
    "virtual_batch_size": "accumulate",
    "patience": "plateau_patience",
    "test_interval": "val_interval",
    "calming": "sky",
}


@dataclass(frozen=True)
class NetworkSpec:
    """What rebuilds a network without its weights."""

    name: str  # of a fusion network: key of models.NETWORKS; of a Segment Anything model: its type
    options: dict[str, Any]  # of a fusion network: keyword arguments of its constructor; JSON-able


@dataclass
class Checkpoint:
    """The content of a checkpoint; see the module's text."""

    network: NetworkSpec
    weights: dict[str, Tensor]
    training: dict[str, Any]
    epoch: int  # finished epochs
    step: int  # optimiser steps since the start of training
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    random_states: dict[str, Any]
    progress: dict[str, Any]  # the epoch under way and the best score so far, see loop.Progress
    raw_weights: dict[str, Tensor] = field(default_factory=dict)  # empty: `weights` are those
    scaler: dict[str, Any] = field(default_factory=dict)  # of the loss in fp16; empty: none
    task: dict[str, Any] = field(default_factory=dict)  # what the task keeps besides, see task.TrainingTask.state


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` atomically. Raises OutputError; an older file at `path` then stays."""
    values = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    content = {"format_version": FORMAT_VERSION, **values, "network": asdict(checkpoint.network)}
    write_atomically(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU. Raises CheckpointError."""
    return as_checkpoint(read_torch_file(path), path)


def read_torch_file(path: Path) -> Any:
    """The content of a `torch.save` file, on the CPU; no code in it is run. Raises CheckpointError."""
    with reading_errors(path):
        return torch.load(path, map_location="cpu", weights_only=True)


def as_checkpoint(content: Any, path: Path) -> Checkpoint:
    """What was read from `path`, as a checkpoint. Raises CheckpointError where it is none."""
    if not isinstance(content, Mapping) or "format_version" not in content:
        raise CheckpointError(
            f"{path}: not a checkpoint of a fusion network; give a file that `train()` wrote "
            "(SAM weights go to `sam_checkpoint`)"
        )
    if content["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: has format version {content['format_version']}, this program reads {FORMAT_VERSION}; "
            "use the thfuse_sam version that wrote it"
        )
    try:
        values = {
            field.name: content[field.name]
            for field in fields(Checkpoint)
            if field.name in content or field.default_factory is MISSING
        }
        network = NetworkSpec(name=values["network"]["name"], options=current_names(values["network"]["options"]))
        scheduler = dict(values["scheduler"])
        if "zero_shot" in scheduler:  # earlier versions kept it there
            values["task"] = {"zero_shot": scheduler.pop("zero_shot")}
        training = current_names(values["training"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: incomplete checkpoint ({error}); train again or give another file") from None
    return Checkpoint(**{**values, "network": network, "scheduler": scheduler, "training": training})


def current_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that were read from a file, under the names that they have now."""
    return {_FORMER_OPTIONS.get(name, name): value for name, value in dict(options).items()}


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy `weights` into `network`; every key and shape must match. Raises CheckpointError naming what differs."""
    require_fitting(network, weights, path)
    network.load_state_dict(dict(weights))


def require_fitting(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError, which names `path`, where keys or shapes of `weights` are not those of `network`."""
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path}: its weights are no named tensors; copy it again or give another file")
    differences = describe_differences(network.state_dict(), weights)
    if differences:
        raise CheckpointError(
            f"{path}: weights do not fit the network ({differences}); give a checkpoint of this network"
        )


@contextlib.contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Raise whatever goes wrong in reading `path` as a CheckpointError that says what to do."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; make it with `train()` or give another file") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path}: is a folder; give a file in it, such as best.pth") from None
    except MemoryError:
        raise CheckpointError(_NO_MEMORY.format(path=path)) from None
    except OSError as error:
        if error.filename is None:  # raised while reading, not while opening: an offset beyond the end
            raise CheckpointError(_TRUNCATED.format(path=path)) from None
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); give a readable file") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: not a checkpoint, or one that holds code; give a file that `train()` wrote"
        ) from None
    # A damaged pickle can fail in any of the unpickler's ways.
    except Exception as error:
        text = _NO_MEMORY if is_out_of_memory(error) else _TRUNCATED
        raise CheckpointError(text.format(path=path)) from None
