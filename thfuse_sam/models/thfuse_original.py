"""Weights of the authors' own TH-Fuse, for `thfuse`."""

from collections.abc import Mapping

from torch import Tensor

from thfuse_sam.errors import CheckpointError, UsageError
from thfuse_sam.models.base import FusionNetwork
from thfuse_sam.models.registry import build_network
from thfuse_sam.models.thfuse import THFuse

ORIGINAL_PIXEL_RANGE = 255.0  # the authors train and test on 0-255 values

# Beginning of a name in the authors' state dict -> its beginning in the state dict of `thfuse`. The rest is equal.
ORIGINAL_NAMES = {
    "conv_in1.": "mix.",
    "conv_in.": "stem.",
    "Conv_d.": "dense_branch.reduce.",
    "layers.DenseConv1.": "dense_branch.layers.0.",
    "layers.DenseConv2.": "dense_branch.layers.1.",
    "layers.DenseConv3.": "dense_branch.layers.2.",
    "Conv1.": "strided_branch.0.",
    "Conv2.": "strided_branch.1.",
    "Conv3.": "strided_branch.2.",
    "en0.": "encoders.0.",
    "en1.": "encoders.1.",
    "en2.": "encoders.2.",
    "en3.": "encoders.3.",
    "ctrans3.embedding.1.": "channel_transformer.embed.",
    "ctrans3.en.": "channel_transformer.encoder.",
    "ctrans3.depatch.projection.0.": "channel_transformer.unembed.",
    "strans3.embedding.1.": "spatial_transformer.embed.",
    "strans3.en.": "spatial_transformer.encoder.",
    "strans3.depatch.projection.0.": "spatial_transformer.unembed.",
    "conv_out.": "reconstruction.",
}


def thfuse_from_original(state_dict: Mapping[str, Tensor]) -> FusionNetwork:
    """Build `thfuse` from a state dict of the authors' `Fusenet`.

    Names and sizes come from the authors' source code; it was never tried on a file of their trained weights. The sizes
    of the transformers are read from the weights; the number of heads is the published four. The guidance branch, which
    the original lacks, starts untrained. Raises CheckpointError: names are missing or unknown, or sizes do not fit.
    """
    weights = {_own_name(key): value for key, value in state_dict.items()}
    try:
        network = build_network(
            THFuse.name,
            spatial_dim=weights["spatial_transformer.embed.weight"].shape[0],
            spatial_depth=_depth(weights, "spatial_transformer"),
            channel_dim=weights["channel_transformer.embed.weight"].shape[0],
            channel_depth=_depth(weights, "channel_transformer"),
            pixel_range=ORIGINAL_PIXEL_RANGE,
        )
        untrained = {key: value for key, value in network.state_dict().items() if key.startswith("guidance.")}
        network.load_state_dict({**weights, **untrained})
    except (KeyError, RuntimeError, UsageError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"not a state dict of the original TH-Fuse: {reason[:300]}; give its Fusenet weights"
        ) from None
    return network


def is_original_thfuse(content: object) -> bool:
    """Whether a file's content looks like a state dict of the authors' code, possibly incomplete or with more keys."""
    return isinstance(content, Mapping) and any(
        isinstance(key, str) and key.startswith(("ctrans3.", "strans3.", "conv_in1.")) for key in content
    )


def _own_name(original: str) -> str:
    """The name in `thfuse` of an entry in the authors' state dict."""
    for prefix, own in ORIGINAL_NAMES.items():
        if original.startswith(prefix):
            return own + original[len(prefix) :]
    return original


def _depth(weights: Mapping[str, Tensor], transformer: str) -> int:
    """The number of blocks of a transformer."""
    prefix = f"{transformer}.encoder.blocks."
    return len({key[len(prefix) :].split(".")[0] for key in weights if key.startswith(prefix)})
