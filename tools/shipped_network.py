"""Turn a checkpoint into a fusion network to ship: `python -m tools.shipped_network best.pth FILE.safetensors`.

Of several checkpoints of one network, the mean of their weights is taken; the options are those of the last.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from thfuse_sam.files import write_atomically
from thfuse_sam.fusion.loading import METADATA_KEY, load_network
from thfuse_sam.training.checkpoint import NetworkSpec


def export_network(path: Path, network: nn.Module, spec: NetworkSpec, dtype: torch.dtype = torch.float32) -> None:
    """Write `network` as a `.safetensors` file for `load_network`, floating-point weights as `dtype`, atomically."""
    weights = {
        key: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for key, value in network.state_dict().items()
    }
    metadata = {METADATA_KEY: json.dumps(dataclasses.asdict(spec))}
    write_atomically(path, lambda file: file.write(safetensors.torch.save(weights, metadata)))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="shipped_network", description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="checkpoints of train.py, for example best.pth")
    parser.add_argument("--neutral_guidance", action="store_true", help="set the gates of the guidance branch to zero")
    parser.add_argument("output", type=Path, help="file to write, *.safetensors")
    options = parser.parse_args(argv)
    loaded = [load_network(path) for path in options.checkpoints]
    network, _ = loaded[-1]
    weights = [other.state_dict() for other, _ in loaded]
    network.load_state_dict({key: torch.stack([each[key] for each in weights]).mean(0) for key in weights[0]})
    if options.neutral_guidance:
        network.load_state_dict(
            {k: 0 * v if k.startswith("guidance.gates") else v for k, v in network.state_dict().items()}
        )
    export_network(options.output, network, NetworkSpec(network.name, network.options))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
