"""Exponential moving average of a network's weights: less noisy than the weights of the last step."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class EmaWeights:
    """Averaged weights of a network, in single precision.

    Until they have seen enough steps, the average is over fewer: after step n the decay is at most (1 + n) / (10 + n).

    Args:
        network: whose weights they start from.
        decay: share of the former average that each step keeps, in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}
        self.restart(network.state_dict())

    def restart(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from `weights`: a network's, or an average that was saved."""
        for key, value in weights.items():
            device = self.weights[key].device if key in self.weights else value.device
            self.weights[key] = value.detach().to(device, copy=True)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps (1, 2, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                self.weights[key].lerp_(value.to(self.weights[key].dtype), 1 - decay)
            else:  # counters
                self.weights[key].copy_(value)

    @contextlib.contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """Inside, `network` has the averaged weights; afterwards its own ones again, bit for bit."""
        own = {key: value.detach().clone() for key, value in network.state_dict().items()}
        network.load_state_dict(self.weights)
        try:
            yield
        finally:
            network.load_state_dict(own)
