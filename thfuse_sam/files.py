"""Writing files so that a reader sees the old content or the new content, never a part of it; checksums of files."""

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from thfuse_sam.errors import OutputError, UsageError

if sys.platform != "win32":
    import fcntl

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".mjpeg",
)  # fmt: skip

# Names of files that are being written. Readers and `verify` never take them for finished ones.
PARTIAL_SUFFIX = ".partial"

# Part of those names, because whether a file's writer is still alive can be found out on its own machine only.
_HOST = re.sub(r"[^A-Za-z0-9]", "", platform.node())[:16]


@contextlib.contextmanager
def as_output_error(path: Path) -> Iterator[None]:
    """Turn an error of the system while `path` is written into an OutputError that names the path."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f"{path}: a file is where a folder is needed; choose another path") from error
    except (OSError, RuntimeError) as error:
        # `torch.save` raises a RuntimeError of its own where the system refuses, for example because the disk is full.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OutputError(
            f"{path}: cannot be written ({cause.strerror or cause}); check space and permissions"
        ) from error


def partial_path(path: Path) -> Path:
    """A fresh hidden name beside `path`, short enough for any file system that takes `path` itself."""
    return path.parent / f".{path.name[:20]}.{uuid.uuid4().hex}.{_HOST}{PARTIAL_SUFFIX}"


def open_partial(partial: Path) -> IO[bytes]:
    """Create the file `partial` (a path from `partial_path`), open for writing and marked as being written."""
    while True:
        file = partial.open("xb")
        try:
            mark_being_written(file.fileno())
        except BaseException:
            file.close()
            raise
        if partial.exists():  # else a run that has just begun removed it before it was marked
            return file
        file.close()


def mark_being_written(descriptor: int) -> None:
    """Lock an open partial file or folder, so that no run removes it, until it is closed or the process dies."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # on a file system without locks `remove_abandoned` removes nothing
            fcntl.flock(descriptor, fcntl.LOCK_SH)


def remove_abandoned(folder: Path) -> int:
    """Remove partial files and folders below `folder` whose writer was killed on this machine; return their number."""
    abandoned = [path for path in _own_partials(folder) if _is_abandoned(path)]
    for path in map(Path, abandoned):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(abandoned)


def _own_partials(folder: str | Path) -> Iterator[str]:
    """Paths of the partial files and folders below `folder` that this machine wrote or is writing."""
    # Not `rglob`, which takes many times as long: a mask tree may hold millions of files.
    try:
        entries = list(os.scandir(folder))
    except OSError:  # removed in the meantime, or not readable by this user
        return
    for entry in entries:
        if entry.name.startswith(".") and entry.name.endswith(f".{_HOST}{PARTIAL_SUFFIX}"):
            yield entry.path
        elif entry.is_dir(follow_symlinks=False):
            yield from _own_partials(entry.path)


def _is_abandoned(path: str) -> bool:
    """Whether no process has marked the file or folder as being written."""
    if sys.platform == "win32":
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> Path:
    """Make `path` and its parents and check that files can be made in it. Raises OutputError."""
    with as_output_error(path):
        path.mkdir(parents=True, exist_ok=True)
        probe = partial_path(path / "probe")
        try:
            probe.touch(exist_ok=False)
        finally:
            probe.unlink(missing_ok=True)
    return path


def require_writable(option: str, folder: Path) -> None:
    """Refuse a folder that cannot be made or written, without making it. Raises OutputError that names `option`."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise OutputError(f"`{option}` {folder}: {existing} is a file, not a folder; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"`{option}` {folder}: {existing} is not writable; choose another folder")


def require_apart(option: str, folder: Path, written: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise UsageError, which names `option` and its value `folder`, where a file to write is one of the `inputs`, or
    beside it and named as it is but for the suffix: then no pair would be found there any more.
    """
    taken = {path.resolve().with_suffix(""): path for path in inputs}
    for path in written:
        resolved = path.resolve()
        image = taken.get(resolved.with_suffix(""))
        if image is not None:
            same = resolved == image.resolve()
            problem = "is an input image" if same else f"would be named as the input image {image}"
            raise UsageError(f"`{option}` {folder}: {path} {problem}; give another folder")


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with a binary file beside `path`, then rename it onto `path`.

    Parent folders are made. On any error nothing is left behind and an older file at `path` stays.
    Raises OutputError where the system refuses. Safe in threads and processes that share a folder.
    """
    with as_output_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not mkstemp: its files are private to the user, while results should be as readable as any other file.
        partial = partial_path(path)
        try:  # begins before the file exists, because an interrupt may come between any two steps
            with open_partial(partial) as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def told_by_head(head: bytes) -> str | None:
    """What a file is that begins so and stands in another one's place, and what helps, in a clause; None: not known."""
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page; download the file itself"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; run 'git lfs pull'"
    return None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal. Raises OSError where it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically. Raises OutputError."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows as UTF-8 CSV, atomically. Raises OutputError.

    Floats have six significant digits; nan is an empty cell.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    write_text(path, text.getvalue())


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically. Raises OutputError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
