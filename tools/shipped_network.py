"""Turn a checkpoint into a fusion network to ship: `python -m tools.shipped_network best.pth FILE.safetensors`.

Of several checkpoints of one network, the mean of their weights is taken; the options are those of the last.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from thfuse_sam.fusion.loading import load_network, save_network
from thfuse_sam.thermal import as_range
from thfuse_sam.training.checkpoint import NetworkSpec


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="shipped_network", description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="checkpoints of train.py, for example best.pth")
    parser.add_argument("--neutral_guidance", action="store_true", help="set the gates of the guidance branch to zero")
    parser.add_argument("output", type=Path, help="file to write, *.safetensors")
    options = parser.parse_args(argv)
    loaded = [load_network(path) for path in options.checkpoints]
    network, training = loaded[-1]
    weights = [other.state_dict() for other, _ in loaded]
    network.load_state_dict({key: torch.stack([each[key] for each in weights]).mean(0) for key in weights[0]})
    if options.neutral_guidance:
        network.load_state_dict(
            {k: 0 * v if k.startswith("guidance.gates") else v for k, v in network.state_dict().items()}
        )
    ir_range = as_range(training.get("ir_range"))
    save_network(options.output, network, NetworkSpec(network.name, network.options), ir_range)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
