"""Perceptual loss: differences of VGG features instead of pixels.

Features of a VGG-16 (Simonyan and Zisserman, ICLR 2015), as a loss by Johnson et al., "Perceptual losses for real-time
style transfer and super-resolution", ECCV 2016. The VGG is fixed: it is in evaluation mode, its weights take no
gradient and are in no optimiser, while the gradient passes through it to the fused image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg

from thfuse_sam.errors import CheckpointError, UsageError

# Modules of torchvision's `vgg16().features` behind which features are compared: relu1_2, relu2_2, relu3_3, relu4_3.
LAYERS = (3, 8, 15, 22)
SMALLEST_SIDE = 8  # pixels; three poolings lie before the last of them
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB values, which VGG was trained on


class PerceptualLoss(nn.Module):
    """How far the fused image's features are from the stronger source's, at each place and channel.

    Features behind a ReLU say how much of something is there; the target is the larger of both sources' values, as the
    brighter source is for pixels. Each layer's mean absolute difference is divided by its target's mean, because
    layers differ in scale by far.

    Args:
        weights: state dict of torchvision's `vgg16`, or of its `features` alone; None leaves random weights.
        layers: indices into `vgg16().features`, in rising order.

    Raises:
        UsageError: the weights are not VGG-16's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Mapping[str, Tensor] | None = None, layers: Sequence[int] = LAYERS):
        super().__init__()
        # Without the classifier, which holds nine tenths of VGG's parameters.
        features = vgg.make_layers(vgg.cfgs["D"], batch_norm=False)
        if weights is not None:
            _load(features, weights)
        self.layers = tuple(layers)
        self.vgg = features[: self.layers[-1] + 1]
        for module in self.vgg:
            if isinstance(module, nn.ReLU):
                module.inplace = False  # the features before it are compared too
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(_MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).reshape(1, 3, 1, 1))
        self.eval()

    def train(self, mode: bool = True) -> "PerceptualLoss":
        """Stay in evaluation mode."""
        return super().train(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Features of grey images, float B1HW in [0, 1], behind each of `layers`."""
        x = (images.expand(-1, 3, -1, -1) - self.mean) / self.std
        found = []
        for index, module in enumerate(self.vgg):
            x = module(x)
            if index in self.layers:
                found.append(x)
        return found

    def forward(self, fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
        """Compare fused with ir and vi, float B1HW in [0, 1], sides of 8 pixels or more: a scalar of 0 or more."""
        with torch.no_grad():
            # One pass over both, as one over twice the batch is faster than two.
            of_sources = [layer.chunk(2) for layer in self.features(torch.cat([ir, vi]))]
            targets = [torch.maximum(of_ir, of_vi) for of_ir, of_vi in of_sources]
        parts = [
            F.l1_loss(found, target) / target.mean().clamp(min=1e-6)
            for found, target in zip(self.features(fused), targets, strict=True)
        ]
        return torch.stack(parts).mean()


def load_perceptual_loss(path: Path) -> PerceptualLoss:
    """The loss with VGG-16 weights from `path`, a state dict of torchvision's `vgg16`. Raises CheckpointError."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(
            f"`vgg_weights` {path}: {error.strerror or error}; give torchvision's vgg16 file"
        ) from None
    # A damaged pickle can fail in any of the unpickler's ways.
    except Exception:
        raise CheckpointError(
            f"`vgg_weights` {path}: truncated or not weights; give torchvision's vgg16 file"
        ) from None
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"`vgg_weights` {path}: not a state dict; give torchvision's vgg16 file")
    try:
        return PerceptualLoss(weights)
    except UsageError as error:
        raise CheckpointError(f"`vgg_weights` {path}: {error}") from None


def _load(features: nn.Sequential, weights: Mapping[str, Tensor]) -> None:
    prefix = "features."
    own = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)} or dict(weights)
    try:
        features.load_state_dict(own)
    except (RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"these are not the weights of VGG-16 ({reason}); give torchvision's vgg16") from None
