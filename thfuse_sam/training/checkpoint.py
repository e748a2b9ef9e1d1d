"""Checkpoints: one file from which a network is rebuilt and a training run goes on.

A training checkpoint is a `torch.save` file of plain values and tensors, read with `weights_only=True`:

    format_version  1
    network         {"name": key of models.NETWORKS, "options": what rebuilds it}
    weights         state dict: what the network is used with (averaged over steps where training does so)
    raw_weights     state dict that training goes on from, where it is not `weights`; empty otherwise
    training        the resolved training options, for the record
    epoch, step     finished epochs; optimiser steps so far
    optimizer, scheduler, scaler, random_states, progress    what an uninterrupted run would have in memory

`raw_weights` and `scaler` may be missing. `load_network` also takes a state dict of the authors' TH-Fuse.

A shipped network is a `.safetensors` file: the weights, and the `network` entry as JSON in its metadata.
"""

import contextlib
import dataclasses
import json
import pickle
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from thfuse_sam.devices import is_out_of_memory
from thfuse_sam.errors import CheckpointError, UsageError
from thfuse_sam.files import write_atomically
from thfuse_sam.interrupts import delay_interrupts
from thfuse_sam.models import NETWORKS, build_network, is_original_thfuse, thfuse_from_original

FORMAT_VERSION = 1
SAFETENSORS_SUFFIX = ".safetensors"
_METADATA_KEY = "network"
_LARGEST_OPTION = 4096  # of a network; deeper or wider ones are no fusion networks
_NO_MEMORY = "{path}: memory does not suffice to read it; close other programs"
_TRUNCATED = "{path}: truncated or not a checkpoint; copy it again or give another file"


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """What rebuilds a network without its weights."""

    name: str  # key of models.NETWORKS
    options: dict[str, Any]  # keyword arguments of its constructor, JSON-able


@dataclasses.dataclass
class Checkpoint:
    """The content of a training checkpoint; see the module's text."""

    network: NetworkSpec
    weights: dict[str, Tensor]
    training: dict[str, Any]
    epoch: int  # finished epochs
    step: int  # optimiser steps since the start of training
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    random_states: dict[str, Any]
    progress: dict[str, Any]  # the epoch under way and the best loss so far, see loop.Progress
    raw_weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)  # empty: `weights` are those
    scaler: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the loss in fp16; empty: none


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` atomically. Raises OutputError; an older file at `path` then stays."""
    content = {"format_version": FORMAT_VERSION, **_shallow_dict(checkpoint)}
    content["network"] = dataclasses.asdict(checkpoint.network)
    write_atomically(path, lambda file: _torch_save(content, file))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a training checkpoint onto the CPU. Raises CheckpointError."""
    return _as_checkpoint(_torch_load(path), path)


def _torch_load(path: Path) -> Any:
    with _as_checkpoint_error(path):
        return torch.load(path, map_location="cpu", weights_only=True)


def _as_checkpoint(content: Any, path: Path) -> Checkpoint:
    if not isinstance(content, Mapping) or "format_version" not in content:
        raise CheckpointError(
            f"{path}: not a checkpoint of train.py; give one that it wrote (SAM weights go to `sam_checkpoint`)"
        )
    if content["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: has format version {content['format_version']}, this program reads {FORMAT_VERSION}; "
            "use the thfuse_sam version that wrote it"
        )
    try:
        values = {
            field.name: content[field.name]
            for field in dataclasses.fields(Checkpoint)
            if field.name in content or field.default_factory is dataclasses.MISSING
        }
        network = NetworkSpec(name=values["network"]["name"], options=dict(values["network"]["options"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: incomplete checkpoint ({error}); train again or give another file") from None
    return Checkpoint(**{**values, "network": network})


def load_network(path: Path) -> tuple[nn.Module, NetworkSpec]:
    """Rebuild the network in a training checkpoint or a shipped `.safetensors` file, on the CPU, in eval mode.

    A state dict saved by the authors' TH-Fuse code is taken too, see docs/reproduction.md. Raises CheckpointError.
    """
    if path.suffix == SAFETENSORS_SUFFIX:
        spec, weights = _read_safetensors(path)
    else:
        content = _torch_load(path)
        if is_original_thfuse(content):
            try:
                original = thfuse_from_original(content)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from None
            return original.eval(), NetworkSpec(original.name, dict(original.options))
        checkpoint = _as_checkpoint(content, path)
        spec, weights = checkpoint.network, checkpoint.weights
    return restore_network(spec, weights, path).eval(), spec


def restore_network(spec: NetworkSpec, weights: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The network that `spec` describes with `weights`; `path` is named in a CheckpointError."""
    if spec.name not in NETWORKS:
        known = ", ".join(sorted(NETWORKS))
        raise CheckpointError(f"{path}: holds a network '{spec.name}', known are {known}; update thfuse_sam")
    try:
        for option, value in spec.options.items():
            largest = len(weights) if "depth" in option else _LARGEST_OPTION
            if isinstance(value, int | float) and not abs(value) <= largest:
                raise ValueError(f"{option} is {value:.6g}")
        # First without memory: options may claim a network far larger than the weights in the file.
        with torch.device("meta"):
            _require_fitting(build_network(spec.name, **spec.options), weights, path)
        network = build_network(spec.name, **spec.options)
    except (TypeError, ValueError, RuntimeError, UsageError) as error:
        raise CheckpointError(f"{path}: {spec.name} does not take its options ({error}); update thfuse_sam") from None
    load_weights(network, weights, path)
    return network


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy `weights` into `network`; every key and shape must match. Raises CheckpointError naming what differs."""
    _require_fitting(network, weights, path)
    network.load_state_dict(dict(weights))


def _require_fitting(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path}: its weights are no named tensors; copy it again or give another file")
    own = network.state_dict()
    different = {
        "missing": sorted(own.keys() - weights.keys()),
        "unknown": sorted(weights.keys() - own.keys()),
        "of another shape": sorted(key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape),
    }
    found = [f"{len(keys)} {kind} (as {keys[0]})" for kind, keys in different.items() if keys]
    if found:
        raise CheckpointError(
            f"{path}: weights do not fit the network: {', '.join(found)}; give a checkpoint of this network"
        )


def export_network(path: Path, network: nn.Module, spec: NetworkSpec, dtype: torch.dtype = torch.float32) -> None:
    """Write `network` as a `.safetensors` file for `load_network`, floating-point weights as `dtype`, atomically."""
    weights = {
        key: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for key, value in network.state_dict().items()
    }
    metadata = {_METADATA_KEY: json.dumps(dataclasses.asdict(spec))}
    write_atomically(path, lambda file: file.write(safetensors.torch.save(weights, metadata)))


def capture_random_states() -> dict[str, Any]:
    """The state of every random generator of the process, as values that a `weights_only` reader accepts."""
    kind, keys, position, has_gauss, cached = cast(tuple[str, Any, int, int, float], np.random.get_state(legacy=True))
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Undo everything that has been drawn since `capture_random_states`."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    # A run may go on where there are fewer GPUs, or none.
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def _read_safetensors(path: Path) -> tuple[NetworkSpec, dict[str, Tensor]]:
    with _as_checkpoint_error(path), delay_interrupts(), safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    try:
        entry = json.loads(metadata[_METADATA_KEY])
        return NetworkSpec(name=str(entry["name"]), options=dict(entry["options"])), weights
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{path}: has no description of a fusion network; give a file that train.py wrote or that ships with "
            "thfuse_sam (SAM weights go to `sam_checkpoint`)"
        ) from None


@contextlib.contextmanager
def _as_checkpoint_error(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; make it with train.py or give another `model_path`") from None
    except MemoryError:
        raise CheckpointError(_NO_MEMORY.format(path=path)) from None
    except OSError as error:
        if error.filename is None:  # found while reading, not while opening: an offset beyond the end
            raise CheckpointError(_TRUNCATED.format(path=path)) from None
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); give a readable file") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: not a checkpoint, or one that holds code; give a file that train.py wrote"
        ) from None
    # A damaged pickle can fail in any of the unpickler's ways.
    except Exception as error:
        text = _NO_MEMORY if is_out_of_memory(error) else _TRUNCATED
        raise CheckpointError(text.format(path=path)) from None


def _torch_save(content: Mapping[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:
        # torch hides the system's refusal (disk full) behind an error of its own.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _shallow_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    return {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
