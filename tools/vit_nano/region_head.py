"""The auxiliary head: it learns regions from the image embedding alone, without the mask decoder.

For each pixel of the logit grid (4x4 pixels of the image) it predicts whether its neighbours belong to the same region,
and for some of these pixels which of all others do. That teaches the image encoder much more about an image than a few
prompts and costs next to nothing. The head is not shipped.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thfuse_sam.sam.geometry import LOGIT_STRIDE, LOGITS_PER_TOKEN
from thfuse_sam.sam.nano import EMBED_DIM
from tools.vit_nano.images import PADDING
from tools.vit_nano.losses import balanced_cross_entropy, mask_loss

# (rows, columns) from a pixel of the logit grid to the neighbours that it is compared with.
AFFINITY_OFFSETS = tuple((dy * d, dx * d) for d in (1, 2, 4, 8, 16) for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)))


class RegionHead(nn.Module):
    """Affinities to a pixel's neighbours, and queries and keys for any two pixels.

    Two pixels p and q of the logit grid lie in one region if query(p) . key(q) + bias(p) > 0, which is what a mask
    decoder does once it has read the embedding under a point prompt. Positional encodings are added to queries and
    keys, as in the decoder, so that two things that look alike can be told apart by where they are.
    """

    def __init__(self, channels: int = EMBED_DIM, width: int = 32) -> None:
        super().__init__()
        self.affinities = nn.Conv2d(channels, len(AFFINITY_OFFSETS) * LOGITS_PER_TOKEN**2, 1)
        self.identities = nn.Conv2d(channels, (2 * width + 1) * LOGITS_PER_TOKEN**2, 1)
        self.positions = nn.Conv2d(channels, 2 * width, 1)

    def forward(self, embedding: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the affinities BxKx4Hx4W, and queries, keys and biases BxDx4Hx4W.

        Args:
            embedding: BxCxHxW.
            image_pe: positional encodings of the logit grid, BxCx4Hx4W.
        """
        identities = F.pixel_shuffle(self.identities(embedding), LOGITS_PER_TOKEN)
        with_pe = identities[:, :-1] + self.positions(image_pe)
        affinities = F.pixel_shuffle(self.affinities(embedding), LOGITS_PER_TOKEN)
        return affinities, torch.cat([with_pe, identities[:, -1:]], 1)


def identity_loss(identities: Tensor, labels: Tensor, count: int) -> Tensor:
    """Mask loss of the regions of `count` random pixels per image, from small regions as often as from large ones.

    Args:
        identities: BxDxH/4xW/4 from `RegionHead`: queries, keys and a bias.
        labels: BxHxW; 0 and `PADDING` are no region.
    """
    grid_labels = _on_logit_grid(labels).flatten(1)
    query, key, bias = identities.flatten(2).split([(identities.shape[1] - 1) // 2] * 2 + [1], 1)
    losses = []
    for index, regions in enumerate(grid_labels):
        _, numbers, areas = regions.unique(return_inverse=True, return_counts=True)
        weights = (regions > 0) / areas[numbers]
        if not weights.any():
            continue
        chosen = torch.multinomial(weights, count, replacement=True)
        logits = query[index, :, chosen].T @ key[index] + bias[index, :, chosen].T
        logits = logits.masked_fill(regions == PADDING, -20.0)  # certainly outside, so it adds nothing to the loss
        same = (regions[chosen, None] == regions[None]).float()
        losses.append(mask_loss(logits[:, None], same[:, None]).mean())
    return torch.stack(losses).mean() if losses else identities.sum() * 0


def affinity_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of same-region logits BxKxH/4xW/4 against labels BxHxW.

    Pairs of pixels in the same region weigh as much in total as pairs in different regions.
    """
    height, width = logits.shape[-2:]
    regions = _on_logit_grid(labels)
    losses = []
    for channel, (dy, dx) in enumerate(AFFINITY_OFFSETS):
        rows, columns = max(0, height - dy), max(0, width - abs(dx))  # none in a crop smaller than the offset
        left = max(0, -dx)
        pixels = np.s_[:, :rows, left : left + columns]
        neighbours = np.s_[:, dy : dy + rows, left + dx : left + dx + columns]
        same = (regions[pixels] == regions[neighbours]).float()
        valid = ((regions[pixels] != PADDING) & (regions[neighbours] != PADDING)).float()
        losses.append(balanced_cross_entropy(logits[:, channel][pixels], same, valid, dim=(0, 1, 2)))
    return torch.stack(losses).mean()


def _on_logit_grid(labels: Tensor) -> Tensor:
    """Labels BxHxW at the centres of the logit grid's pixels: BxH/4xW/4."""
    return labels[:, LOGIT_STRIDE // 2 :: LOGIT_STRIDE, LOGIT_STRIDE // 2 :: LOGIT_STRIDE]
