"""Writing files so that a reader sees the old content or the new content, never a part of it."""

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from thfuse_sam.errors import OutputError

# Names of files that are being written. Readers and `--verify` never take them for finished ones.
PARTIAL_SUFFIX = ".partial"


@contextlib.contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f"cannot write {path}: a file is where a folder is needed; choose another path") from error
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; check space and permissions") from error


def _partial_path(path: Path) -> Path:
    """A fresh hidden name beside `path`, short enough for any file system that takes `path` itself."""
    return path.parent / f".{path.name[:20]}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}"


def make_directory(path: Path) -> Path:
    """Make `path` and its parents and check that files can be made in it. Raises OutputError."""
    with _as_output_error(path):
        path.mkdir(parents=True, exist_ok=True)
        probe = _partial_path(path / "probe")
        probe.touch(exist_ok=False)
        probe.unlink()
    return path


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with a binary file beside `path`, then rename it onto `path`.

    Parent folders are made. On any error nothing is left behind and an older file at `path` stays.
    Raises OutputError where the system refuses. Safe in threads and processes that share a folder.
    """
    with _as_output_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial_path(path)
        try:
            # Not mkstemp: its files are private to the user, and results are to be as readable as any other file.
            with partial.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically. Raises OutputError."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically. Raises OutputError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
