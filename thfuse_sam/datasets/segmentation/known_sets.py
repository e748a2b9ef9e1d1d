"""Data sets that are known by name: fetched once into the cache, checked, and unpacked with care."""

import errno
import logging
import shutil
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from thfuse_sam.downloads import cache_folder, download
from thfuse_sam.errors import DownloadError
from thfuse_sam.files import file_sha256, make_directory, partial_path, write_text

log = logging.getLogger(__name__)

# Errors of the file system that names and offsets in the archive cause, or none at all where a decompressor fails. For
# all others (a full disk, a quota, permissions) the archive is not to blame.
_ARCHIVE_ERRORS = (
    *(None, errno.EINVAL, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.EILSEQ),
)
MAX_UNPACKED = 8 << 30  # bytes; an archive that claims more is refused


@dataclass(frozen=True)
class KnownSet:
    """A published data set: one zip archive."""

    name: str
    url: str
    sha256: str | None  # the published one; None: none is published, that of the first download is kept and checked
    folder: str  # the folder in the archive that holds the data set
    terms: str  # licence, in a few words


KNOWN_SETS: dict[str, KnownSet] = {
    "pennfudan": KnownSet(
        name="pennfudan",
        url="https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip",
        sha256=None,
        folder="PennFudanPed",
        terms="no licence stated",
    )
}


def fetch(known: KnownSet) -> Path:
    """The folder of a known set in the cache; it is downloaded and unpacked first if it is not there.

    Raises DownloadError: no network, a cut connection, content of another hash, or an archive that is refused.
    Nothing half-done stays behind.
    """
    base = cache_folder() / "datasets"
    target = base / known.name
    if (target / known.folder).is_dir():
        return target / known.folder
    make_directory(base)
    archive = base / f"{known.name}.zip"
    hash_file = base / f"{known.name}.zip.sha256"
    kept = hash_file.read_text(encoding="utf-8").strip() if hash_file.is_file() else None
    expected = known.sha256 or kept
    if not archive.is_file() or (expected is not None and file_sha256(archive) != expected):
        _download(known, archive, expected, hash_file)
    _unpack(archive, target, known)
    if expected is None:
        # Only after the archive has proved readable: a login page must not become what is expected.
        digest = file_sha256(archive)
        write_text(hash_file, digest + "\n")
        log.info("%s: nobody publishes its hash; SHA-256 %s is kept in %s", known.name, digest, hash_file)
    return target / known.folder


def _download(known: KnownSet, archive: Path, expected: str | None, hash_file: Path) -> None:
    log.info("%s: downloading %s (%s)", known.name, known.url, known.terms)
    try:
        download(known.url, archive, expected)
    except DownloadError as error:
        reason = str(error)
        if expected is not None and "hash" in reason.lower():
            source = "the published one" if known.sha256 else f"the one kept in {hash_file}"
            reason = f"its SHA-256 is not {source}, {expected[:12]}..."
        remedy = f"download {known.url} yourself to {archive}"
        if hash_file.is_file():
            remedy += f", and if its publisher has changed it, delete {hash_file}"
        raise DownloadError(f"{known.name}: not in the cache and {reason}; {remedy}") from error


def _unpack(archive: Path, target: Path, known: KnownSet) -> None:
    """Unpack into a folder beside `target`, then rename it. A refused archive is removed."""
    partial = partial_path(target)
    try:
        with zipfile.ZipFile(archive) as zipped:
            for member in zipped.infolist():
                _refuse_unsafe(member)
            if sum(member.file_size for member in zipped.infolist()) > MAX_UNPACKED:
                raise ValueError(f"claims to unpack to more than {MAX_UNPACKED >> 30} GiB")
            zipped.extractall(partial)
        if not (partial / known.folder).is_dir():
            raise ValueError(f"holds no folder {known.folder}")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    # A damaged archive can raise any exception of zipfile, the decompressors and the file system.
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in _ARCHIVE_ERRORS):
            raise
        archive.unlink(missing_ok=True)
        raise DownloadError(
            f"{known.name}: the archive from {known.url} is refused: {error}; download it anew"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_unsafe(member: zipfile.ZipInfo) -> None:
    """Raise ValueError for a member that would be written outside of the folder, and for links and special files."""
    name = member.orig_filename.replace("\\", "/")
    outside = PurePosixPath(name).is_absolute() or ".." in name.split("/") or PureWindowsPath(name).drive
    if outside or "\0" in name:
        raise ValueError(f"member {name!r} would leave the folder")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ValueError(f"member {name!r} is a link or a special file")
