"""Exponential moving average of a network's weights: less noisy than the weights of the last step."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor


class EmaWeights:
    """Averaged weights of a network, in single precision.

    It starts from `weights`, and each step keeps the part `decay`, in [0, 1), of it. The first averages are over few
    steps: after step n the decay is at most (1 + n) / (10 + n).
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}
        self.restart(weights)

    def restart(self, weights: Mapping[str, Tensor]) -> None:
        """Start the average anew from `weights`: those of a network, or a saved average."""
        for key, value in weights.items():
            device = self.weights[key].device if key in self.weights else value.device
            self.weights[key] = value.detach().to(device, copy=True)

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Take in the network's weights after `step` steps (1, 2, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in weights.items():
            if value.is_floating_point():
                self.weights[key].lerp_(value.to(self.weights[key].dtype), 1 - decay)
            else:  # counters
                self.weights[key].copy_(value)

    @contextlib.contextmanager
    def in_place_of(
        self, weights: Mapping[str, Tensor], load: Callable[[Mapping[str, Tensor]], object]
    ) -> Iterator[None]:
        """A context in which the network with `weights` has the averaged ones; afterwards its own again, bit for bit.

        `load` copies weights into the network.
        """
        own = {key: value.detach().clone() for key, value in weights.items()}
        load(self.weights)
        try:
            yield
        finally:
            load(own)
