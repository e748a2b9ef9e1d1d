"""Files of Segment Anything weights: reading them safely and telling which model type they belong to."""

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from thfuse_sam.devices import is_out_of_memory
from thfuse_sam.errors import CheckpointError, first_of
from thfuse_sam.files import told_by_head
from thfuse_sam.interrupts import delay_interrupts
from thfuse_sam.sam.geometry import PATCH_SIZE
from thfuse_sam.sam.state_dict_forms import named_weights, plain_types

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".pkl", ".tar", ".safetensors")
GENERATOR_KEY = "thfuse_sam_generator"  # in the metadata of exported weights: settings of the mask generator, JSON
TRAINED_KEY = "thfuse_sam_trained"  # in the metadata of a .safetensors file of trained weights alone, see `export`

_VIT_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
_NANO_SIZE_KEY = "image_encoder.image_size"
_MAX_INPUT_SIZE = 4096  # pixels
_MAX_HEADER = 10**8  # bytes of JSON in a safetensors file


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a checkpoint, on the CPU and as stored, under the published names; no code in the file is run.

    PyTorch's zip files are memory-mapped: a tensor is read from disk when it is used.
    Raises CheckpointError if the file is missing, damaged, unsafe or no checkpoint.
    """
    if path.suffix.lower() not in CHECKPOINT_SUFFIXES:
        raise CheckpointError(
            f"{path}: a checkpoint's name ends in {', '.join(CHECKPOINT_SUFFIXES)}, not in {path.suffix!r}"
        )
    head = _first_bytes(path)
    content = _read_safetensors(path) if _is_safetensors(head) else _read_torch(path, head)
    weights = named_weights(content)
    if weights is None:
        held = f" (its entries: {first_of([str(name) for name in content], 6)})" if isinstance(content, dict) else ""
        raise CheckpointError(f"{path}: holds no named weights{held}; use a checkpoint of a Segment Anything model")
    if any(value.is_meta for value in weights.values()):
        raise CheckpointError(f"{path}: holds names and shapes without numbers (`meta`); save the weights themselves")
    return weights


def trained_metadata(path: Path) -> str | None:
    """The description in a file of trained weights alone, as JSON; None if `path` is no such file or unreadable."""
    return _metadata(path).get(TRAINED_KEY) if path.suffix.lower() == ".safetensors" else None


def exported_settings(path: Path) -> dict[str, Any]:
    """Settings of the mask generator, by name, that finetune.py stored with exported weights; empty if there are none.

    Raises CheckpointError for a damaged entry.
    """
    text = _metadata(path).get(GENERATOR_KEY, "{}")
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError, RecursionError):
        raise CheckpointError(f"{path}: damaged entry {GENERATOR_KEY}; export the weights again") from None


def _metadata(path: Path) -> Mapping[str, str]:
    """The metadata of a file of weights; empty if it has none or cannot be read."""
    try:
        if path.suffix.lower() != ".safetensors":
            # PyTorch keeps the attributes of a state dict; modules that load it ignore entries they do not know.
            found = getattr(_read_torch(path, _first_bytes(path)), "_metadata", None)
            return found if isinstance(found, Mapping) else {}
        with delay_interrupts(), safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (CheckpointError, safetensors.SafetensorError, OSError, ValueError):
        return {}  # `read_weights` says what is wrong with it


def recognise_model_type(weights: Mapping[str, Tensor]) -> str | None:
    """The name of the model type whose image encoder these weights look like; None if they look like none."""
    if "image_encoder.patch_embed.seq.0.c.weight" in weights:
        return "vit_t"
    if _NANO_SIZE_KEY in weights:
        return "vit_nano"
    positions = weights.get("image_encoder.pos_embed")
    if positions is None or positions.ndim != 4:
        return None
    return _VIT_WIDTHS.get(positions.shape[-1])


def nano_image_size(weights: Mapping[str, Tensor]) -> int | None:
    """The input size in pixels that `vit_nano` weights were trained at; None if the value cannot be one."""
    size = weights[_NANO_SIZE_KEY]
    pixels = int(size) if size.numel() == 1 and not size.is_floating_point() else 0
    return pixels if 0 < pixels <= _MAX_INPUT_SIZE and pixels % PATCH_SIZE == 0 else None


def _first_bytes(path: Path) -> bytes:
    """The start of a file. Raises CheckpointError if it cannot be read, or is of a kind that is no checkpoint."""
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; name the checkpoint file in it")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint; check `sam_checkpoint` or download the file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
    if not head:
        raise CheckpointError(f"{path}: the file is empty; download it again")
    if (kind := told_by_head(head)) is not None:
        raise CheckpointError(f"{path}: is no checkpoint but {kind}")
    return head


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins like safetensors, whatever its name: the length of a JSON text, and that text."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_HEADER


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with delay_interrupts():
            return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path, head: bytes) -> Any:
    try:
        is_zip = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # the file ends like a zip file without being one
        is_zip = False
    if not is_zip and head.startswith(b"PK"):
        raise CheckpointError(f"{path}: the file is truncated; download or copy it again")
    if is_zip and _is_torchscript(path):
        raise CheckpointError(f"{path}: is TorchScript, which holds code; save the model's state_dict() alone")
    try:
        # Only zip files can be mapped; older PyTorch wrote plain pickles.
        with torch.serialization.safe_globals(plain_types()):
            return torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except pickle.UnpicklingError as error:
        if unsafe := re.search(r"(?:GLOBAL |but got <class ')([\w.]+)", str(error)):
            if unsafe[1].startswith("ultralytics."):
                raise CheckpointError(
                    f"{path}: is a YOLO of Ultralytics, such as FastSAM; use one of Segment Anything or MobileSAM"
                ) from error
            raise CheckpointError(
                f"{path}: refused, it holds code ({unsafe[1]}) and not only tensors; "
                "save the model's state_dict() alone, or convert it to .safetensors"
            ) from error
        raise _damaged(path, error) from error
    except Exception as error:  # a damaged pickle can raise any exception
        raise _damaged(path, error) from error


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as file:
        return any(name.endswith("/constants.pkl") for name in file.namelist())


def _damaged(path: Path, error: Exception) -> CheckpointError:
    if is_out_of_memory(error):
        return CheckpointError(f"{path}: memory does not suffice to read it; close other programs or use a smaller SAM")
    # PyTorch gives its reason after advice to load the file without its checks.
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    reason = f" ({text.splitlines()[0][:120]})" if " " in text else ""  # a single word or number tells a user nothing
    return CheckpointError(f"{path}: is truncated, damaged or no checkpoint{reason}; download or copy it again")
