"""Fusion networks in folders of the form that the Hugging Face Hub has, safetensors only."""

import dataclasses
import os
from pathlib import Path

import thfuse_sam
from thfuse_sam.api.inputs import as_path
from thfuse_sam.errors import CheckpointError, DownloadError, UsageError
from thfuse_sam.files import make_directory, write_json, write_text
from thfuse_sam.fusion.loading import save_network
from thfuse_sam.models import FusionNetwork
from thfuse_sam.training.checkpoint import NetworkSpec

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"

_CARD_TEXT = """\
---
library_name: th-fuse-sam
pipeline_tag: image-to-image
tags:
- image-fusion
- infrared
- thermal
---

# {name}

A network of [TH-Fuse-SAM](https://pypi.org/project/th-fuse-sam/) that fuses an infrared and a visible image of one
scene, of equal size, into one.

    import thfuse_sam as th

    fuser = th.Fuser.from_pretrained("FOLDER or OWNER/NAME")
    fused = fuser("ir.png", "vi.png")

Data and licence of these weights: to be filled in by who trained them.
"""


def save(folder: Path, network: FusionNetwork, ir_range: tuple[float, float] | None) -> None:
    """Write the network's description, its weights and, where there is none, a card; `ir_range` see `save_network`.

    Raises OutputError.
    """
    make_directory(folder)
    spec = NetworkSpec(network.name, network.options)
    save_network(folder / WEIGHTS, network, spec, ir_range)
    write_json(folder / CONFIG, {"network": dataclasses.asdict(spec), "thfuse_sam": thfuse_sam.__version__})
    if not (folder / CARD).exists():
        write_text(folder / CARD, _CARD_TEXT.format(name=network.name))


def find_weights(folder: str | os.PathLike[str], revision: str | None, local_files_only: bool) -> Path:
    """The weights' file in a folder, or of the repository "owner/name", downloaded where need be.

    Raises CheckpointError, DownloadError, and UsageError where the Hub is needed and its client is not installed.
    """
    path = as_path(folder, "folder")
    if not path.is_dir():
        path = _download(path.as_posix(), revision, local_files_only)
    if not (path / WEIGHTS).is_file():
        raise CheckpointError(f"{path}: holds no {WEIGHTS}; give a folder that `save_pretrained` wrote")
    return path / WEIGHTS


def _download(name: str, revision: str | None, local_files_only: bool) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(f"{name}: no such folder; give a folder that `save_pretrained` wrote, or owner/name")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UsageError(
            f"{name}: no such folder, and the Hub's client is not installed; run: pip install 'th-fuse-sam[hub]'"
        ) from None
    try:
        files = [CONFIG, WEIGHTS]
        return Path(snapshot_download(name, revision=revision, allow_patterns=files, local_files_only=local_files_only))
    except Exception as error:  # whatever a network raises
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise DownloadError(
            f"{name}: no such folder, and not to be had from the Hub ({reason}); check the name and the network"
        ) from None
