"""What each image was like when its mask was made: `images.json` in a mask tree, by which changed images are noticed.

An image whose size and time are those of its record has not changed. Otherwise its whole content is compared, by a
hash, so that a tree of images may be copied or moved. The file has no entry for masks that older versions made; the
next run adds them.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from thfuse_sam.errors import ImageReadError, ManifestError
from thfuse_sam.files import write_text
from thfuse_sam.images import Modality, reading

RECORDS_NAME = "images.json"
_VERSION = 1
_BLOCK_BYTES = 2**20  # read at once


class ImageRecord(NamedTuple):
    """The state of an image file."""

    size: int  # bytes
    time_ns: int  # of the last change of its content, name or permissions
    digest: str  # hash of the content, hexadecimal
    infrared: "ImageRecord | None" = None  # of the infrared image at whose warm places SAM was prompted; None: nowhere

    def has_content_of(self, other: "ImageRecord") -> bool:
        """Whether both are of equal content, and so are their infrared images, if any."""
        own, others = (record.infrared and record.infrared.digest for record in (self, other))
        return self.digest == other.digest and own == others


class ImageRecords:
    """The records of the images of a mask tree, by modality and name."""

    def __init__(self, values: dict[str, dict[str, list[Any]]] | None = None) -> None:
        self._values = values or {}  # lists, because making 200,000 tuples would take a second

    @classmethod
    def load(cls, root: Path) -> "ImageRecords":
        """The records in the tree at `root`, none if it has no such file. Raises ManifestError."""
        path = root / RECORDS_NAME
        try:
            content = json.loads(path.read_bytes())
            if content["version"] != _VERSION or not all(isinstance(part, dict) for part in content["images"].values()):
                raise ValueError("another version")
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ManifestError(f"{path}: not readable ({error}); delete it, it is made anew") from error
        return cls(content["images"])

    def save(self, root: Path) -> None:
        """Write the records into the tree at `root` atomically. Raises OutputError."""
        content = {"version": _VERSION, "images": self._values}
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
        write_text(root / RECORDS_NAME, text + "\n")

    def get(self, modality: Modality, name: str) -> ImageRecord | None:
        """The record of an image; None if there is none."""
        try:
            size, time_ns, digest, *infrared = self._values[modality][name]
            return ImageRecord(size, time_ns, digest, *(ImageRecord(*record) for record in infrared))
        except (KeyError, TypeError, ValueError):
            return None

    def set(self, modality: Modality, name: str, record: ImageRecord) -> None:
        self._values.setdefault(modality, {})[name] = [*record[:3], *([record.infrared[:3]] if record.infrared else [])]

    def update(self, other: "ImageRecords") -> None:
        """Take over the records of `other`."""
        for modality, values in other._values.items():
            self._values.setdefault(modality, {}).update(values)

    def __bool__(self) -> bool:
        return any(self._values.values())


def record_image(path: Path, known: ImageRecord | None = None, infrared: Path | None = None) -> ImageRecord:
    """The record of an image as it is now. It is read only where size or time differ from those of `known`.

    `infrared`: the infrared image of the scene, if the masks of `path` depend on it. Where it is not given, or cannot
    be read, its record is that of `known`.

    Raises ImageReadError.
    """
    own, warm = _record(path, known), known.infrared if known is not None else None
    if infrared is not None:
        with contextlib.suppress(ImageReadError):  # which is the failure of the infrared image itself
            warm = _record(infrared, warm)
    return own if own.infrared is warm else own._replace(infrared=warm)


def _record(path: Path, known: ImageRecord | None) -> ImageRecord:
    with reading(path):
        status = os.stat(path)  # noqa: PTH116, asked for every image of a data set
        # The system sets ctime itself, also for a file that is copied or moved with its old times.
        time_ns = max(status.st_mtime_ns, status.st_ctime_ns)
        if known is not None and (known.size, known.time_ns) == (status.st_size, time_ns):
            return known
        return ImageRecord(status.st_size, time_ns, _digest(path, status.st_size))


def _digest(path: Path, size: int) -> str:
    """A hash of a file's content, `size` bytes."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
