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

from thfuse_sam.errors import CheckpointError, UsageError
from thfuse_sam.losses.filters import zero_loss

# Modules of torchvision's `vgg16().features` behind which features are compared: relu1_2, relu2_2, relu3_3, relu4_3.
LAYERS = (3, 8, 15, 22)
SMALLEST_SIDE = 8  # pixels, because three poolings lie before the last of LAYERS
# Mean and standard deviation of RGB in ImageNet, on which VGG was trained.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """How far the fused image's features are from those of the stronger source, at each position and channel.

    A feature after a ReLU measures how much of something is present. The target is the larger of the two sources'
    features, just as it is the brighter source for pixels. The mean absolute difference of each layer is divided by the
    mean of its target, because layers differ in scale by far.

    Args:
        weights: state dict of torchvision's `vgg16`, or of its `features` alone; None leaves random weights.
        layers: indices into `vgg16().features`, in rising order.

    Raises:
        UsageError: the weights are not VGG-16's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Mapping[str, Tensor] | None = None, layers: Sequence[int] = LAYERS):
        from torchvision.models import vgg  # not before it is used: fusing imports this module, and need not wait

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
        features = []
        for index, module in enumerate(self.vgg):
            x = module(x)
            if index in self.layers:
                features.append(x)
        return features

    def forward(self, fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
        """Compare fused with ir and vi, float B1HW in [0, 1], sides of 8 pixels or more: a scalar of 0 or more."""
        with torch.no_grad():
            # One pass over twice the batch is faster than two passes.
            targets = [torch.maximum(*layer.chunk(2)) for layer in self.features(torch.cat([ir, vi]))]
        differences = [
            F.l1_loss(features, target) / target.mean().clamp(min=1e-6)
            for features, target in zip(self.features(fused), targets, strict=True)
        ]
        return torch.stack(differences).mean()


def perceptual_loss(fused: Tensor, ir: Tensor, vi: Tensor, perceptual: nn.Module | None) -> Tensor:
    """The value of `perceptual`, a `PerceptualLoss`, for float B1HW in [0, 1]: a scalar, 0 if it is None."""
    return zero_loss(fused) if perceptual is None else perceptual(fused, ir, vi)


def load_perceptual_loss(path: Path) -> PerceptualLoss:
    """The loss with VGG-16 weights from `path`, a state dict of torchvision's `vgg16`. Raises CheckpointError."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(weights, Mapping):
            raise UsageError("not a state dict; give torchvision's vgg16 file")
        return PerceptualLoss(weights)
    except UsageError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.strerror or error}; give torchvision's vgg16 file"
    except Exception:  # a damaged pickle can fail in any of the unpickler's ways
        reason = "truncated or not weights; give torchvision's vgg16 file"
    raise CheckpointError(f"`vgg_weights` {path}: {reason}")


def _load(features: nn.Sequential, weights: Mapping[str, Tensor]) -> None:
    """Load the entries `features.*` of a state dict, or all entries if there are none. Raises UsageError."""
    prefix = "features."
    own = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)} or dict(weights)
    try:
        features.load_state_dict(own)
    except (RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"these are not the weights of VGG-16 ({reason}); give torchvision's vgg16") from None
