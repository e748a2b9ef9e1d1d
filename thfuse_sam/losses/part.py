"""One part of a weighted loss, as the dicts of losses hold it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

TOTAL = "total"  # key of the weighted sum beside the parts


@dataclass(frozen=True)
class LossPart:
    """A loss with its default weight and the names of what it is computed from.

    `needs` names the inputs that `compute` takes, in its order. The comment above each dict of parts says which names
    there are.
    """

    compute: Callable[..., Tensor]
    weight: float  # default; 0 is a part that is computed only where it is asked for
    needs: tuple[str, ...]

    def __call__(self, inputs: Mapping[str, Any]) -> Tensor:
        """The loss of these inputs; `inputs` may hold more than this part needs."""
        return self.compute(*(inputs[name] for name in self.needs))


def default_weights(parts: Mapping[str, LossPart]) -> dict[str, float]:
    """The weight of every part that is computed without being asked for."""
    return {name: part.weight for name, part in parts.items() if part.weight > 0}
