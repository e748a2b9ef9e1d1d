"""Image embeddings on disk, so that a frozen image encoder runs once per image and not once per image and epoch.

The files are those of `masks.embeddings` (2 MiB for SAM's 256x64x64), but a file is named after the image's pixels,
and the folder after the encoder's weights, preprocessing and precision: a changed image, another checkpoint or another
input size has another entry, so that no entry can be stale. A damaged entry is made again.
"""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from thfuse_sam.arrays import ImageArray
from thfuse_sam.errors import OutputError
from thfuse_sam.files import write_atomically
from thfuse_sam.masks.embeddings import EMBEDDING_SUFFIX, ImageEmbedding
from thfuse_sam.sam.geometry import Frame

FORMAT_VERSION = 2

log = logging.getLogger(__name__)


def encoder_signature(sam: Sam, precision: str = "fp32") -> str:
    """A digest (32 hexadecimal digits) of the encoder's weights, the preprocessing and the precision.

    An embedding depends on nothing else but the image.
    """
    digest = hashlib.sha256()
    preprocessing = {
        "format_version": FORMAT_VERSION,
        "precision": precision,
        "image_size": int(sam.image_encoder.img_size),
        "resampling": "pillow bilinear, longest side, padded bottom right",
        "pixel_mean": sam.pixel_mean.flatten().tolist(),
        "pixel_std": sam.pixel_std.flatten().tolist(),
    }
    digest.update(json.dumps(preprocessing, sort_keys=True).encode())
    for name, value in sorted(sam.image_encoder.state_dict().items()):
        array = np.ascontiguousarray(value.detach().cpu().numpy())
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:32]


class EmbeddingCache:
    """Embeddings of one image encoder, below `root`/`signature`. Several processes may share the folder."""

    def __init__(self, root: Path, signature: str) -> None:
        self.folder = root / signature
        self._full = False  # whether the disk is full, so that nothing more is written

    @staticmethod
    def key(image: ImageArray) -> str:
        """The key of an image (uint8 HxWx3): a digest of its size and pixels, as 40 hexadecimal digits."""
        digest = hashlib.sha256(str(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
        return digest.hexdigest()[:40]

    def load(self, key: str) -> Tensor | None:
        """The embedding (float16 CxExE) of `key`; None if there is none or it is damaged."""
        path = self._path(key)
        try:
            return torch.from_numpy(ImageEmbedding.from_bytes(path.read_bytes()).features)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s: damaged (%s); it is made again", path, " ".join(str(error).split()))
            return None

    def store(self, key: str, embedding: Tensor, frame: Frame) -> Tensor:
        """Keep an embedding CxExE; returns it as `load` will, in float16 on the CPU.

        A full disk is reported once, and training goes on without the entry.
        """
        rounded = embedding.detach().to(device="cpu", dtype=torch.float16).contiguous()
        if self._full:
            return rounded
        content = ImageEmbedding(rounded.numpy(), frame.input_size, frame.image_size).to_bytes()
        try:
            write_atomically(self._path(key), lambda file: file.write(content))
        except OutputError as error:
            self._full = True
            log.warning("embeddings are no longer kept: %s", error)
        return rounded

    def _path(self, key: str) -> Path:
        # Two levels, so that no folder holds hundreds of thousands of files.
        return self.folder / key[:2] / (key + EMBEDDING_SUFFIX)
