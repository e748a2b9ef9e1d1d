"""Masks packed in tar files, for data sets whose files are too many for a file system.

::

    precomputed_masks/
      manifest.json
      shards/00000-1f3a9c20.tar    members ir/a/0001.npy, ir/a/0001.json, vi/a/0001.npy, ... (as in a tree)
      shards/00000-1f3a9c20.json   where each member lies in the tar file

A shard is written under another name and renamed when it is full, so a reader sees whole shards only. Its index only
saves time: if it is missing or does not fit, the tar file itself is read through. If two shards hold the same image,
the one whose name sorts last counts. WebDataset reads such tar files too: plain tar, a suffix for each kind of file.
"""

import contextlib
import io
import json
import logging
import os
import tarfile
import threading
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from thfuse_sam.arrays import Array, Size
from thfuse_sam.errors import MaskReadError, OutputError
from thfuse_sam.files import as_output_error, mark_being_written, open_partial, partial_path, write_text
from thfuse_sam.images import MODALITIES, Modality
from thfuse_sam.masks.format import NO_SUCH_MASK, LabelMap, as_read_error, decode_mask, encode_mask, encoded_shape
from thfuse_sam.masks.instances import decode_instances
from thfuse_sam.masks.tree import INSTANCES_SUFFIX, MASK_SUFFIX, require_inside

SHARDS_FOLDER = "shards"
SHARD_SIZE = 256  # images in a shard

_HEADER_BYTES = 256  # first bytes of a member, enough for the header of any label map
_INDEX_VERSION = 1

log = logging.getLogger(__name__)


class _Member(NamedTuple):
    shard: int  # number in the list of shards
    offset: int  # bytes before its content in the tar file
    size: int  # bytes of its content


class MaskShards:
    """The shards below `root` at the time of construction; those that are finished later are not seen.

    Its methods are those of a `MaskFiles`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._shards = self._present()
        self._write_times: dict[int, int] = {}  # nanoseconds, by number of the shard; filled on demand
        self._members: dict[str, _Member] = {}
        self.damaged: list[str] = []  # one line for each shard that cannot be read
        for number, path in enumerate(self._shards):
            try:
                members = _read_index(path) or _scan(path)
            except MaskReadError as error:
                self.damaged.append(str(error))
                log.warning("shard not used: %s", error)
                continue
            self._members.update((name, _Member(number, offset, size)) for name, (offset, size) in members.items())

    def is_up_to_date(self) -> bool:
        """Whether no shard was finished or removed since."""
        return self._shards == self._present()

    def location(self, modality: Modality, name: str, suffix: str = MASK_SUFFIX) -> str:
        return self._location(_member_name(self.root, modality, name, suffix))

    def has(self, modality: Modality, name: str, suffix: str = MASK_SUFFIX) -> bool:
        return _member_name(self.root, modality, name, suffix) in self._members

    def names(self, modality: Modality, suffix: str = MASK_SUFFIX) -> list[str]:
        start = f"{modality}/"
        members = (member for member in self._members if member.startswith(start) and member.endswith(suffix))
        return sorted(member[len(start) : -len(suffix)] for member in members)

    def read(self, modality: Modality, name: str, shape: Size | None) -> Array:
        member_name = _member_name(self.root, modality, name, MASK_SUFFIX)
        return decode_mask(self._content(member_name), self._location(member_name), shape)

    def read_instances(self, modality: Modality, name: str, shape: Size) -> list[dict[str, Any]]:
        member_name = _member_name(self.root, modality, name, INSTANCES_SUFFIX)
        return decode_instances(self._content(member_name), self._location(member_name), shape)

    def shape_and_time(self, modality: Modality, name: str) -> tuple[Size, int]:
        member_name = _member_name(self.root, modality, name, MASK_SUFFIX)
        content = self._content(member_name, _HEADER_BYTES)
        member = self._members[member_name]
        if member.shard not in self._write_times:
            self._write_times[member.shard] = self._shards[member.shard].stat().st_mtime_ns
        return encoded_shape(content, member.size, self._location(member_name)), self._write_times[member.shard]

    def remove_all(self) -> None:
        """Delete every shard. Raises OutputError."""
        for shard in self._shards:
            with as_output_error(shard):
                _index_path(shard).unlink(missing_ok=True)
                shard.unlink(missing_ok=True)
        self._shards, self._members = [], {}

    def _present(self) -> list[Path]:
        return sorted((self.root / SHARDS_FOLDER).glob("*.tar"))

    def _location(self, member_name: str) -> str:
        member = self._members.get(member_name)
        shard = self.root / SHARDS_FOLDER if member is None else self._shards[member.shard]
        return f"{shard}: {member_name}"

    def _content(self, member_name: str, limit: int | None = None) -> bytes:
        """The first `limit` bytes of a member (None: all)."""
        member = self._members.get(member_name)
        if member is None:
            raise MaskReadError(f"{self._location(member_name)}: {NO_SUCH_MASK}")
        length = member.size if limit is None else min(member.size, limit)
        shard = self._shards[member.shard]
        with as_read_error(shard), shard.open("rb", buffering=0) as file:
            file.seek(member.offset)
            content = file.read(length)
        if len(content) != length:
            location = self._location(member_name)
            raise MaskReadError(f"{location}: is truncated; delete the shard and run `precompute()` again")
        return content


class ShardWriter:
    """Packs masks into new shards below `root`, from any thread of one process. Several processes may each have one.

    What is in the shard that is being filled is lost if the process is killed. `images`: number of images in a full
    shard.
    """

    def __init__(self, root: Path, images: int = SHARD_SIZE) -> None:
        self._folder = root / SHARDS_FOLDER
        self._root = root
        self._images = images
        existing = [path.name.split("-")[0] for path in self._folder.glob("*.tar")]
        # If two shards hold the same image, the later one counts, so a new shard gets a number above all others.
        self._number = max((int(number) for number in existing if number.isdecimal()), default=-1) + 1
        self._lock = threading.Lock()
        self._open: _OpenShard | None = None
        self.lost = 0  # images that were added to a shard which could not be finished

    def write(self, modality: Modality, name: str, mask: LabelMap, instances: str | None = None) -> None:
        """Append the mask of an image, and its instances (content of their file). Raises OutputError."""
        files = [] if instances is None else [(INSTANCES_SUFFIX, instances.encode("utf-8"))]
        files.append((MASK_SUFFIX, b"".join(encode_mask(mask))))
        members = {_member_name(self._root, modality, name, suffix): content for suffix, content in files}
        with self._lock, as_output_error(self._folder):
            if self._open is None:
                self._open = _OpenShard(self._folder, f"{self._number:05d}-{uuid.uuid4().hex[:8]}")
                self._number += 1
            self._open.add(members)
            if self._open.images >= self._images:
                self._seal()

    def close(self) -> None:
        """Finish the shard that is being filled. Raises OutputError; the images in it are lost then."""
        with self._lock, as_output_error(self._folder):
            self._seal()

    def _seal(self) -> None:
        if self._open is None:
            return
        shard, self._open = self._open, None
        try:
            shard.seal()
        except BaseException:
            self.lost += shard.images
            shard.discard()
            raise


class _OpenShard:
    """A tar file that is being written, under a name that no reader takes for a shard."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.images = 0
        self._path = folder / f"{name}.tar"
        self._members: dict[str, tuple[int, int]] = {}
        self._file = open_partial(partial_path(self._path))
        self._partial = Path(self._file.name)
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, members: dict[str, bytes]) -> None:
        """Append the files of one image: all of them, or, after an OSError, none."""
        start = self._tar.offset
        offsets: dict[str, tuple[int, int]] = {}
        try:
            for name, content in members.items():
                header = tarfile.TarInfo(name)
                header.size = len(content)
                self._tar.addfile(header, io.BytesIO(content))
                padded = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                offsets[name] = self._tar.offset - padded, len(content)
            self._file.flush()
        except OSError:
            self._cut(start)
            raise
        self._members.update(offsets)
        self.images += 1

    def seal(self) -> None:
        """End the tar file and give it its name; then write its index."""
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if not self.images:
            self._partial.unlink(missing_ok=True)
            return
        self._partial.replace(self._path)
        index = {"version": _INDEX_VERSION, "size": self._path.stat().st_size, "members": self._members}
        # The shard is whole without its index: if the disk is full now, opening the shard takes longer, no more.
        with contextlib.suppress(OutputError):
            write_text(_index_path(self._path), json.dumps(index, separators=(",", ":"), ensure_ascii=False) + "\n")

    def discard(self) -> None:
        """Remove the file; its images are lost."""
        with contextlib.suppress(OSError):  # a full disk: buffered bytes cannot be written
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def _cut(self, length: int) -> None:
        """Make the file end where it was before an image that did not fit."""
        # Closed first, because bytes in its buffer would be written after the cut.
        with contextlib.suppress(OSError):
            self._file.close()
        os.truncate(self._partial, length)
        self._file = self._partial.open("r+b")
        mark_being_written(self._file.fileno())
        self._file.seek(length)
        self._tar.fileobj = self._file
        self._tar.offset = length


def _member_name(root: Path, modality: Modality, name: str, suffix: str) -> str:
    require_inside(root, name)  # unpacking a tar file must not write outside of its folder
    return f"{modality}/{name}{suffix}"


def _index_path(shard: Path) -> Path:
    return shard.with_suffix(".json")


def _read_index(shard: Path) -> dict[str, tuple[int, int]] | None:
    """Offset and size of each member, from the index; None if there is no index or it does not fit the shard."""
    try:
        index = json.loads(_index_path(shard).read_bytes())
        length = shard.stat().st_size
        if index["version"] != _INDEX_VERSION or index["size"] != length:
            return None
        members = {str(name): (int(offset), int(size)) for name, (offset, size) in index["members"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    # Otherwise an offset outside the file would be noticed only when the member is read.
    fits = all(offset >= 0 and size >= 0 and offset + size <= length for offset, size in members.values())
    return members if fits else None


def _scan(shard: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of each member, from the tar file itself. Raises MaskReadError."""
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for header in tar:
                if header.isreg() and header.name.partition("/")[0] in MODALITIES:
                    members[header.name] = header.offset_data, header.size
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise MaskReadError(
            f"{shard}: is not a readable tar file ({error}); delete it and run `precompute()` again"
        ) from error
    return members
