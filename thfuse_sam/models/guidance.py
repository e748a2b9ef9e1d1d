"""The SAM guidance branch: segment masks become gates on a network's features.

A gate multiplies features by 1 + g. Without information from masks, g is exactly 0 and the features stay bit for bit
what they were: the smallest value of each guidance channel is subtracted first, and every step after that maps 0 to 0
(convolutions without bias, leaky ReLU, pooling, tanh). A placeholder of any constant therefore is no guidance at all,
and each image of a batch is treated by itself.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thfuse_sam.models.blocks import draw_normal, pointwise

GUIDANCE_CHANNELS = 4  # union and edges of the infrared segments, union and edges of the visible segments


def relative_guidance(ir_guidance: Tensor | None, vi_guidance: Tensor | None) -> Tensor | None:
    """Join both modalities' guidance and measure each channel from its own minimum.

    `ir_guidance`, `vi_guidance`: float B2HW in [0, 1]; None without masks. Returns float B4HW in [0, 1] (infrared
    first), zero in every channel that is constant; None where both are None.
    """
    present = ir_guidance if ir_guidance is not None else vi_guidance
    if present is None:
        return None
    parts = [torch.zeros_like(present) if part is None else part for part in (ir_guidance, vi_guidance)]
    joined = torch.cat(parts, dim=1)
    return joined - joined.amin(dim=(2, 3), keepdim=True)


class GuidanceBranch(nn.Module):
    """Gates for features at several scales from one batch of guidance.

    Args:
        channels: channels of the features at each scale; scale k is 2**k times smaller than the image.
        hidden: channels inside the branch.
    """

    def __init__(self, channels: Sequence[int], hidden: int = 8):
        super().__init__()
        self.features = nn.Conv2d(GUIDANCE_CHANNELS, hidden, kernel_size=3, padding=1, bias=False)
        self.mix = nn.ModuleList(nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, bias=False) for _ in channels[1:])
        self.gates = nn.ModuleList(nn.Conv2d(hidden, width, kernel_size=1, bias=False) for width in channels)
        for weight in self.gates.parameters():
            # Near 0, so that training begins nearly with the unguided network, but not exactly 0, so that every layer
            # of the branch learns from the first step on.
            draw_normal(weight, std=0.02)

    def forward(self, guidance: Tensor) -> list[Tensor]:
        """One gate per scale for `gated`, float BCH'W' in (-1, 1), from float B4HW of `relative_guidance`.

        Its sides are divisible by 2**(scales - 1).
        """
        hidden = F.leaky_relu_(self.features(guidance.contiguous(memory_format=torch.channels_last)))
        gates = [torch.tanh(pointwise(self.gates[0], hidden))]
        for mix, gate in zip(self.mix, self.gates[1:], strict=True):
            hidden = F.leaky_relu_(mix(F.avg_pool2d(hidden, 2)))
            gates.append(torch.tanh(pointwise(gate, hidden)))
        return gates


def gated(features: Tensor, gate: Tensor | None) -> Tensor:
    """features * (1 + gate); the features themselves where there is no gate."""
    if gate is None:
        return features
    return features * (1 + gate.to(features.dtype))
