"""Image embeddings on disk: their files, and those kept beside masks, so that other thresholds need no image encoder.

::

    precomputed_masks/embeddings/
      manifest.json               model type, checkpoint and precision that made them
      ir/a/0001.safetensors       the embedding of ir/a/0001.png

A file holds `features` (float16 CxHxW), `input_size` (height and width that the encoder saw) and `image_size`; of a
model whose encoder has several outputs also `finer_0`, `finer_1` and so on (float16, of three dimensions each); and
`crc32`, a checksum of these outputs, which older files lack. `finetune.embedding_cache` keeps such files, too.
"""

import dataclasses
import functools
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from thfuse_sam.arrays import Size
from thfuse_sam.errors import MaskReadError
from thfuse_sam.files import write_atomically
from thfuse_sam.images import Modality
from thfuse_sam.masks.format import as_read_error
from thfuse_sam.masks.image_records import ImageRecord, ImageRecords
from thfuse_sam.masks.tree import FileTree

EMBEDDINGS_FOLDER = "embeddings"
EMBEDDING_SUFFIX = ".safetensors"

_REMEDY = "delete it and run `precompute()` with `save_embeddings` again"


@dataclass(frozen=True, eq=False)
class ImageEmbedding:
    """What the image encoder made of one image."""

    features: npt.NDArray[np.floating]  # CxHxW; float32 from the encoder, float16 from a file
    input_size: Size  # height, width that the encoder saw, without its padding
    image_size: Size  # height, width of the image
    finer: tuple[npt.NDArray[np.floating], ...] = ()  # further outputs of the encoder, of three dimensions each

    def rounded(self) -> "ImageEmbedding":
        """The embedding as a file keeps it: in half precision."""
        features, *finer = (np.ascontiguousarray(part, dtype=np.float16) for part in (self.features, *self.finer))
        return dataclasses.replace(self, features=features, finer=tuple(finer))

    def to_bytes(self) -> bytes:
        """The content of the embedding's file, in half precision."""
        rounded = self.rounded()
        return safetensors.numpy.save(
            {
                "features": rounded.features,
                **{f"finer_{index}": part for index, part in enumerate(rounded.finer)},
                "input_size": np.array(self.input_size, dtype=np.int64),
                "image_size": np.array(self.image_size, dtype=np.int64),
                "crc32": _checksum(rounded.features, *rounded.finer),
            }
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> "ImageEmbedding":
        """The embedding in a file's content, in half precision. Raises ValueError, which says what is wrong."""
        try:
            arrays = safetensors.numpy.load(content)
            checksum = arrays.pop("crc32", None)
            features, sizes = arrays["features"], [arrays[key] for key in ("input_size", "image_size")]
            finer = tuple(arrays[f"finer_{index}"] for index in range(len(arrays) - 3))
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"not an embedding ({error})") from error
        for part in (features, *finer):
            if part.dtype != np.float16 or part.ndim != 3 or 0 in part.shape:
                raise ValueError(f"features are {part.dtype} {part.shape}")
            if not np.isfinite(part).all():
                raise ValueError("features are not all finite numbers")
        if checksum is not None and not np.array_equal(checksum, _checksum(features, *finer)):
            raise ValueError("wrong checksum")
        if any(size.shape != (2,) or size.dtype != np.int64 or size.min() < 1 for size in sizes):
            raise ValueError("sizes are not two positive whole numbers")
        (input_height, input_width), (height, width) = (size.tolist() for size in sizes)
        return cls(features, (input_height, input_width), (height, width), finer)


def _checksum(*parts: npt.NDArray[np.float16]) -> npt.NDArray[np.uint32]:
    return np.array([zlib.crc32(part.data) for part in parts], dtype=np.uint32)


class EmbeddingFiles(FileTree):
    """Embeddings on disk, under the names of their images."""

    suffix = EMBEDDING_SUFFIX

    @functools.cached_property
    def _records(self) -> ImageRecords:
        return ImageRecords.load(self.root)

    def is_of(self, modality: Modality, name: str, record: ImageRecord) -> bool:
        """Whether an embedding was made of an image as it is now; True where nobody has noted what it was made of."""
        known = self._records.get(modality, name)
        return known is None or known.digest == record.digest

    def write(self, modality: Modality, name: str, content: bytes) -> None:
        """Write the content of an embedding's file atomically. Raises OutputError."""
        write_atomically(self.path(modality, name), lambda file: file.write(content))

    def read(self, modality: Modality, name: str) -> ImageEmbedding:
        """Read an embedding. Raises MaskReadError: no such file, damaged, or other arrays than expected."""
        path = self.path(modality, name)
        with as_read_error(path, f"no such embedding; {_REMEDY}"):
            content = path.read_bytes()
        try:
            return ImageEmbedding.from_bytes(content)
        except ValueError as error:
            raise MaskReadError(f"{path}: {error}; {_REMEDY}") from error
