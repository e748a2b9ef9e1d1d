"""Loading a trained fusion network for use: from a training checkpoint, or from a `.safetensors` file, as it ships.

A shipped file holds the weights, and in its metadata, under "network", the `NetworkSpec` as JSON, with "ir_range" where
infrared images of more than 8 bits had one range in training.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from thfuse_sam.errors import CheckpointError, UsageError
from thfuse_sam.files import write_atomically
from thfuse_sam.interrupts import delay_interrupts
from thfuse_sam.models import NETWORKS, FusionNetwork, build_network, is_original_thfuse, thfuse_from_original
from thfuse_sam.training.checkpoint import (
    NetworkSpec,
    as_checkpoint,
    current_names,
    load_weights,
    read_torch_file,
    reading_errors,
    require_fitting,
)

SAFETENSORS_SUFFIX = ".safetensors"
METADATA_KEY = "network"
_LARGEST_OPTION = 4096  # largest value of an option of a network; no fusion network is that deep or wide


def load_network(path: Path) -> tuple[FusionNetwork, dict[str, Any]]:
    """The network in a training checkpoint or a shipped `.safetensors` file, on the CPU, in eval mode; and the options
    of its training by name, none where the file does not say.

    A state dict saved by the authors' TH-Fuse code is taken too, see docs/reproduction.md. Raises CheckpointError.
    """
    if path.suffix == SAFETENSORS_SUFFIX:
        spec, weights, training = _read_safetensors(path)
        return restore_network(spec, weights, path).eval(), training
    content = read_torch_file(path)
    if is_original_thfuse(content):
        try:
            return thfuse_from_original(content).eval(), {}
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
    checkpoint = as_checkpoint(content, path)
    return restore_network(checkpoint.network, checkpoint.weights, path).eval(), checkpoint.training


def restore_network(spec: NetworkSpec, weights: Mapping[str, Tensor], path: Path) -> FusionNetwork:
    """The network that `spec` describes with `weights`; `path` is named in a CheckpointError."""
    if spec.name not in NETWORKS:
        known = ", ".join(sorted(NETWORKS))
        raise CheckpointError(
            f"{path}: holds a network '{spec.name}', the known networks are {known}; update thfuse_sam"
        )
    try:
        for option, value in spec.options.items():
            largest = len(weights) if "depth" in option else _LARGEST_OPTION
            if isinstance(value, int | float) and not abs(value) <= largest:
                raise ValueError(f"{option} is {value:.6g}")
        # First without memory: options may claim a network far larger than the weights in the file.
        with torch.device("meta"):
            require_fitting(build_network(spec.name, **spec.options), weights, path)
        network = build_network(spec.name, **spec.options)
    except (TypeError, ValueError, RuntimeError, UsageError) as error:
        raise CheckpointError(f"{path}: {spec.name} does not take its options ({error}); update thfuse_sam") from None
    load_weights(network, weights, path)
    return network


def save_network(
    path: Path, network: nn.Module, spec: NetworkSpec, ir_range: tuple[float, float] | None = None
) -> None:
    """Write a network as a `.safetensors` file, as it ships, atomically. Raises OutputError.

    Args:
        ir_range: numbers of infrared images that were black and white in training; None: none are known.
    """
    entry = asdict(spec) if ir_range is None else {**asdict(spec), "ir_range": ir_range}
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    content = safetensors.torch.save(weights, {METADATA_KEY: json.dumps(entry)})
    write_atomically(path, lambda file: file.write(content))


def _read_safetensors(path: Path) -> tuple[NetworkSpec, dict[str, Tensor], dict[str, Any]]:
    """What the network is, its weights, and what is known of its training."""
    with reading_errors(path), delay_interrupts(), safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    try:
        entry = json.loads(metadata[METADATA_KEY])
        training = {"ir_range": entry["ir_range"]} if "ir_range" in entry else {}
        return NetworkSpec(name=str(entry["name"]), options=current_names(entry["options"])), weights, training
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{path}: has no description of a fusion network; give a file that `train()` wrote or that ships with "
            "thfuse_sam (SAM weights go to `sam_checkpoint`)"
        ) from None
