"""What all fusion networks have in common: checks of the inputs, padding, guidance, the last stages, the output range.

A network is a subclass that declares its `name`, which sizes it can take (`size_multiple`), the `guidance` branch that
its gates come from, and how it fuses one padded batch (`fuse`). The base class ensures what every caller relies on: any
image size, placeholders that change nothing, results in [0, 1].
"""

from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from thfuse_sam.errors import ImageSizeError, UsageError
from thfuse_sam.models.blocks import clamp_keeping_gradients, pad_to_multiple
from thfuse_sam.models.contrast import keep_contrast
from thfuse_sam.models.guidance import GuidanceBranch, relative_guidance
from thfuse_sam.models.selection import select_source
from thfuse_sam.models.sky import keep_sky

MINIMUM_SIZE = 16  # pixels, the shortest side that a network takes
INPUTS = ("ir", "vi", "ir_guidance", "vi_guidance", "ir_labels")  # the arguments of `FusionNetwork.forward`, in order


class FusionNetwork(nn.Module):
    """Base of the fusion networks. Subclasses set `name`, `size_multiple` and `guidance` and define `fuse`.

    Args:
        contrast_gain: factor on the infrared contrast that warm segments get in the last stage; 0: there is none.
        sky: how far bright skies look as in the visible image, in the stage before it, 0 to 1; 0: there is none.
        selection: how far each place follows one source, in the stage before that, 0 to 1; 0: there is none.
    """

    name: ClassVar[str]  # the network's name in the registry
    size_multiple: int  # pixels; both sides of what `fuse` gets are multiples of it
    guidance: GuidanceBranch  # turns the guidance that `fuse` gets into gates on the network's features
    options: dict[str, Any]  # every keyword that rebuilds this network, JSON-able; set by `build_network`

    def __init__(self, contrast_gain: float = 0.0, sky: float = 0.0, selection: float = 0.0) -> None:
        super().__init__()
        require_at_least(0, contrast_gain=contrast_gain, sky=sky, selection=selection)
        self.contrast_gain, self.sky, self.selection = contrast_gain, sky, selection

    def fuse(self, ir: Tensor, vi: Tensor, guidance: Tensor | None) -> Tensor:
        """Fuse one padded batch.

        Args:
            ir, vi: float B1HW in [0, 1], sides are multiples of `size_multiple`.
            guidance: float B4HW in [0, 1] from `relative_guidance` (a channel without information is zero), or None.

        Returns:
            float B1HW, not yet limited to [0, 1].
        """
        raise NotImplementedError

    def forward(
        self,
        ir: Tensor,
        vi: Tensor,
        ir_guidance: Tensor | None = None,
        vi_guidance: Tensor | None = None,
        ir_labels: Tensor | None = None,
    ) -> Tensor:
        """Fuse infrared and visible images.

        Args:
            ir: infrared, float B1HW in [0, 1], both sides at least 16 pixels.
            vi: luma of the visible image, same shape and range.
            ir_guidance, vi_guidance: float B2HW in [0, 1], the union and the edges of each image's segments. None, or
                constant channels of an image, change nothing: the result is equal bit for bit.
            ir_labels: int64 BHW, the infrared image's segments for the last stage, `keep_contrast`; 0 where there is
                none. It is left out in training, where the network itself has to keep contrasts.

        Returns:
            The fused image, float B1HW in [0, 1]. Values are limited to the range in training too; pixels beyond it
            still get the gradients that lead back.

        Raises:
            ImageSizeError: a side is too short.
            ValueError: shapes do not belong together.
        """
        batch = padded_batch(ir, vi, ir_guidance, vi_guidance, self.size_multiple)
        fused = self.fuse(batch.ir, batch.vi, batch.guidance)[(..., *batch.window)]
        fused = clamp_keeping_gradients(fused.to(ir.dtype))  # layers may have run in half precision
        return fused if self.training else self.keep_contrast(self.local_stages(fused, ir, vi), ir, vi, ir_labels)

    def local_stages(self, fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
        """The stages before the last one, for images of any size: `select_source` and `keep_sky`.

        They see nothing beyond `sky.REACH` pixels and are left out in training. Returns float B1HW in [0, 1].
        """
        if self.selection:
            fused = select_source(fused, ir, vi, self.selection)
        return keep_sky(fused, ir, vi, self.sky) if self.sky else fused

    def keep_contrast(self, fused: Tensor, ir: Tensor, vi: Tensor, ir_labels: Tensor | None) -> Tensor:
        """The last stage, on images of any size; see `forward`. Returns float B1HW in [0, 1]."""
        if ir_labels is None or not self.contrast_gain:
            return fused
        return keep_contrast(fused, ir, vi, ir_labels, self.contrast_gain)


@runtime_checkable
class TiledNetwork(Protocol):
    """A fusion network that can fuse a large image tile by tile, with the same result as in one piece.

    Only attention looks at the whole image, and it works on coarse features, which fit into memory; all other layers
    see at most `tile_margin` pixels far. So the coarse features are collected tile by tile, the attention maps are
    computed once from all of them, and each tile is fused with its part of the maps.
    """

    size_multiple: int  # pixels; also the factor between the image and its coarse features
    tile_margin: int  # pixels, a multiple of `size_multiple`: what lies farther away has no influence on a tile

    def coarse_features(self, ir: Tensor, vi: Tensor) -> Tensor:
        """Images float B1HW, sides multiples of `size_multiple` -> features float B x H/multiple x W/multiple x C."""

    def attention_maps(self, coarse: Tensor) -> Tensor:
        """Coarse features of a whole image BxHxWxC -> maps BxHxWxC', with as many channels as the network needs."""

    def fuse_with_maps(self, ir: Tensor, vi: Tensor, guidance: Tensor | None, maps: Tensor) -> Tensor:
        """`FusionNetwork.fuse` of a part of the image, with that part of the attention maps."""

    def local_stages(self, fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
        """See `FusionNetwork.local_stages`."""

    def keep_contrast(self, fused: Tensor, ir: Tensor, vi: Tensor, ir_labels: Tensor | None) -> Tensor:
        """See `FusionNetwork.keep_contrast`."""


class PaddedBatch(NamedTuple):
    """The inputs of `FusionNetwork.forward`, checked and padded to sides that the network takes."""

    ir: Tensor  # float B1HW in [0, 1]
    vi: Tensor  # float B1HW in [0, 1]
    guidance: Tensor | None  # float B4HW in [0, 1], see `relative_guidance`
    window: tuple[slice, slice]  # rows and columns that hold the images; the rest is padding


def padded_batch(
    ir: Tensor, vi: Tensor, ir_guidance: Tensor | None, vi_guidance: Tensor | None, multiple: int
) -> PaddedBatch:
    """Check the arguments of `FusionNetwork.forward`, join the guidance, and pad all sides to a multiple of `multiple`.

    Raises ImageSizeError, ValueError: see `FusionNetwork.forward`.
    """
    if ir.dim() != 4 or ir.shape[1] != 1 or ir.shape != vi.shape:
        raise ValueError(f"ir {tuple(ir.shape)} and vi {tuple(vi.shape)} must be equal and B x 1 x H x W")
    batch, _, height, width = ir.shape
    if min(height, width) < MINIMUM_SIZE:
        raise ImageSizeError(
            f"image of {width}x{height} pixels; a fusion network needs at least {MINIMUM_SIZE}x{MINIMUM_SIZE}, "
            "leave it out or enlarge it"
        )
    expected = (batch, 2, height, width)
    for argument, channels in (("ir_guidance", ir_guidance), ("vi_guidance", vi_guidance)):
        if channels is not None and tuple(channels.shape) != expected:
            raise ValueError(f"{argument} {tuple(channels.shape)} must be {expected}, two channels for each image")
    guidance = relative_guidance(ir_guidance, vi_guidance)
    padded_ir, (top, left) = pad_to_multiple(ir, multiple)
    padded_vi, _ = pad_to_multiple(vi, multiple)
    if guidance is not None:
        guidance, _ = pad_to_multiple(guidance.to(ir.dtype), multiple)
    return PaddedBatch(padded_ir, padded_vi, guidance, (slice(top, top + height), slice(left, left + width)))


def count_parameters(network: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def require_at_least(minimum: float, **values: float) -> None:
    """Check a network's numeric options. Raises UsageError that names the option, its value and the bound."""
    for option, value in values.items():
        if not value >= minimum:
            raise UsageError(f"network option {option}={value}; use at least {minimum:g}")


def require_multiple(divisor: int, divisor_name: str, **values: int) -> None:
    """Check that widths can be divided, for example among heads. Raises UsageError that names both options."""
    for option, value in values.items():
        if value < divisor or value % divisor:
            raise UsageError(f"network option {option}={value}; use a multiple of {divisor_name}={divisor}")
