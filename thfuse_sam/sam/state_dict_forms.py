"""The forms in which other tools save Segment Anything's weights, brought into that of the published files."""

import argparse
import datetime
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

# The parts of the model, in the names of Meta's `segment_anything` and of Hugging Face's `transformers`.
_PART = re.compile(r"(?:^|\.)(?=(?:image_encoder|prompt_encoder|mask_decoder|vision_encoder|sam_mask_decoder)\.)")
# What torch.compile, DataParallel, sharding and activation checkpointing put into names.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PARTS = ("image_encoder", "prompt_encoder", "mask_decoder")
_USUAL_ENTRIES = ("model", "state_dict", "weights", "model_state", "model_state_dict")
_DEPTH = 2  # levels of entries below the file's own that are searched

# Hugging Face's names and SAM's, after `convert_sam_to_hf.py` of transformers; applied in this order.
_FROM_HUGGING_FACE = (
    (r"^vision_encoder\.", "image_encoder."),
    (r"^shared_image_embedding\.", "prompt_encoder.shared_embedding."),
    (r"shared_embedding\.positional_embedding$", "pe_layer.positional_encoding_gaussian_matrix"),
    (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
    (r"\.neck\.conv1\.", ".neck.0."),
    (r"\.neck\.layer_norm1\.", ".neck.1."),
    (r"\.neck\.conv2\.", ".neck.2."),
    (r"\.neck\.layer_norm2\.", ".neck.3."),
    (r"^image_encoder\.layers\.", "image_encoder.blocks."),
    (r"\.layer_norm(?=\d|_final_attn\.)", ".norm"),
    (r"\.point_embed\.", ".point_embeddings."),
    (r"\.mask_embed\.conv1\.", ".mask_downscaling.0."),
    (r"\.mask_embed\.norm1\.", ".mask_downscaling.1."),
    (r"\.mask_embed\.conv2\.", ".mask_downscaling.3."),
    (r"\.mask_embed\.norm2\.", ".mask_downscaling.4."),
    (r"\.mask_embed\.conv3\.", ".mask_downscaling.6."),
    (r"\.upscale_conv1\.", ".output_upscaling.0."),
    (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
    (r"\.upscale_conv2\.", ".output_upscaling.3."),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d+)\.layers\.0\.", r"\1.layers.1."),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d+)\.proj_in\.", r"\1.layers.0."),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d+)\.proj_out\.", r"\1.layers.2."),
)

_HUGGING_FACE = "use its form for Hugging Face, with `sam_model_type` hf and `sam_checkpoint`"
# Families that are not Segment Anything's of 2023: what their weights' names contain, and what to tell.
_FAMILIES = (
    ("mask_decoder.hf_token", f"SAM-HQ in its own form; {_HUGGING_FACE} syscv-community/sam-hq-vit-base"),
    ("mask_decoder.hf_mlp", f"SAM-HQ in its own form; {_HUGGING_FACE} syscv-community/sam-hq-vit-base"),
    ("lora_", "a SAM with adapters (LoRA) beside it; merge them into it and save that, by peft's merge_and_unload()"),
    (".proto.cv1.", "FastSAM, a YOLO; use a checkpoint of Segment Anything or MobileSAM"),
    ("hypernetworks_mlps.0.layers.0.0.", "EfficientSAM; use a checkpoint of Segment Anything or MobileSAM"),
    ("detector.backbone.", f"SAM 3 in Meta's own form; {_HUGGING_FACE} facebook/sam3"),
    ("spatial_perceiver.", f"EdgeTAM in its own form; {_HUGGING_FACE} yonigozlan/EdgeTAM-hf"),
    ("maskmem_tpos_enc", f"SAM 2 in Meta's own form; {_HUGGING_FACE} facebook/sam2.1-hiera-tiny"),
    ("sam_mask_decoder.", f"SAM 2 in Meta's own form; {_HUGGING_FACE} facebook/sam2.1-hiera-tiny"),
    ("image_encoder.trunk.", f"SAM 2 in Meta's own form; {_HUGGING_FACE} facebook/sam2.1-hiera-tiny"),
    ("image_encoder.backbone.stages.", "EfficientViT-SAM; use a checkpoint of Segment Anything or MobileSAM"),
    ("image_encoder.patch_embed.seq.1.", "a MobileSAM variant; use mobile_sam.pt of the first MobileSAM"),
)


def named_weights(content: Any) -> dict[str, Tensor] | None:
    """The weights in what a checkpoint file holds, under the names of the published SAM files; None without weights.

    Weights may lie one or two levels deep beside other entries, with the prefixes that DataParallel, torch.compile and
    training frameworks put before names, or under Hugging Face's names. Where several entries hold a SAM, the one with
    a usual name is taken, else the first, and a line of the log says so. Tensors are not copied.
    """
    entries = list(_weight_entries(content, _DEPTH))
    models = [(name, weights) for name, weights in entries if any(map(_PART.search, weights))]
    if models:
        usual = [(name, weights) for name, weights in models if name in _USUAL_ENTRIES]
        name, weights = (usual or models)[0]
        if len(models) > 1:
            log.info("the checkpoint holds several models: %s; used: %s", ", ".join(name for name, _ in models), name)
        return _published_names(weights)
    # No SAM: what is there lets the caller say what is missing.
    return next((weights for _, weights in entries), None)


def described_family(weights: Mapping[str, Tensor]) -> str | None:
    """Which other model the weights belong to and what to use instead, in a clause; None: not known."""
    return next((text for part, text in _FAMILIES if any(part in name for name in weights)), None)


def is_part_of_sam(weights: Mapping[str, Tensor]) -> bool:
    """Whether the weights are some parts of a SAM, without the others, such as a decoder alone."""
    parts = {name.partition(".")[0] for name in weights}
    return bool(parts) and parts < {*_PARTS}


def plain_types() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What checkpoints hold beside tensors and may be built while reading: NumPy's numbers and arrays, dates, paths,
    and options.

    None of them runs code of the file. For `torch.serialization.safe_globals`.
    """
    rebuild: list[Any] = [np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]]
    kinds = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdUS"]
    types: list[Any] = [*rebuild, np.ndarray, np.dtype, *dict.fromkeys(kinds), argparse.Namespace]
    types += [datetime.datetime, datetime.date, datetime.timedelta, SimpleNamespace]
    for function in rebuild:  # NumPy 1 and NumPy 2 write the same functions under different names
        types += [(function, f"numpy.{core}.multiarray.{function.__name__}") for core in ("core", "_core")]
    for system, kind in (("Posix", PurePosixPath), ("Windows", PureWindowsPath)):  # of whatever system wrote them
        names = (f"{module}.{pure}{system}Path" for module in ("pathlib", "pathlib._local") for pure in ("", "Pure"))
        types += [(kind, name) for name in names]
    return types


def _weight_entries(content: Any, depth: int, name: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The tensors of `content` and of its entries down to `depth`, with the entry's name; the outer ones first."""
    if not isinstance(content, dict):
        return
    parts = {part: content[part] for part in _PARTS if isinstance(content.get(part), dict)}
    if len(parts) > 1:  # a dictionary for each part
        content = {f"{part}.{key}": value for part, own in parts.items() for key, value in own.items()}
    tensors = ((key, _as_tensor(key, value)) for key, value in content.items() if isinstance(key, str))
    weights = {key: value for key, value in tensors if value is not None}
    if weights and (len(weights) == len(content) or any(map(_PART.search, weights))):
        yield name, weights
    if depth:
        for key, value in content.items():
            yield from _weight_entries(value, depth - 1, str(key))


def _as_tensor(name: str, value: Any) -> Tensor | None:
    """An entry as a tensor, also a NumPy array that is a part of a SAM; None: it is something else."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and _PART.search(name):
        return torch.as_tensor(value)
    return value if isinstance(value, Tensor) else None


def _published_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's own weights without wrappers' prefixes; what lies beside the model, such as a loss, is dropped."""
    unwrapped = {_WRAPPERS.sub("", name): value for name, value in weights.items()}
    prefixes = [name[: match.end()] for name in unwrapped if (match := _PART.search(name))]
    prefix = max(dict.fromkeys(prefixes), key=prefixes.count)
    if rivals := [other for other in dict.fromkeys(prefixes) if prefixes.count(other) == prefixes.count(prefix)][1:]:
        log.info("the checkpoint holds several models: %s; used: %s", ", ".join((prefix, *rivals)), prefix)
    own = {name.removeprefix(prefix): value for name, value in unwrapped.items() if name.startswith(prefix)}
    # A single number is no weight of a part, but a count or a loss, such as the `n_averaged` of averaged weights.
    own = {name: value for name, value in own.items() if value.ndim or _PART.search(name)}
    if any(name.startswith("vision_encoder.") for name in own):
        log.info("the checkpoint has the names of Hugging Face's form; they are read as segment_anything's")
        own = {_from_hugging_face(name): value for name, value in own.items()}
    return own


def _from_hugging_face(name: str) -> str:
    for pattern, replacement in _FROM_HUGGING_FACE:
        name = re.sub(pattern, replacement, name)
    return name
