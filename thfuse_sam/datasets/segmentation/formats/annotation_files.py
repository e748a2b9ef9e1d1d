"""JSON files of other programs, and the paths of images in them, which must not lead out of the data set's folder."""

import json
import math
import os
import unicodedata
import urllib.parse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from thfuse_sam.arrays import Size
from thfuse_sam.errors import SampleError, UsageError

_MAX_PATH = 200  # characters of a path that an error shows
_MAX_VALUE = 80  # characters of any other value that an error shows


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, -16 or -32, with or without a byte-order mark. Raises SampleError."""
    try:
        return json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise SampleError(f"{path}: its text is not in UTF-8; save it in this encoding") from error
    except (OSError, ValueError, RecursionError) as error:
        raise SampleError(f"{path}: not readable as JSON ({error}); mend or remove it") from error


def is_taken(load: Callable[[Path], object], file: Path) -> bool:
    """Whether `load` takes a file for one of its format."""
    try:
        load(file)
    except (SampleError, UsageError):
        return False
    return True


def is_number(value: Any) -> bool:
    return type(value) in (int, float)


def as_id(value: Any) -> int | str | None:
    """A whole number, or a text that names something; None: neither. Spreadsheets make 1.0 or "1" of 1."""
    if isinstance(value, str):
        digits = value.strip().removesuffix(".0")
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def as_size(height: Any, width: Any) -> Size | None:
    """(height, width) as a file says; None: it does not. Raises ValueError: it says something else than sizes."""
    size = as_id(height), as_id(width)
    if all(length in (None, 0, -1) for length in size):
        return None
    if not all(isinstance(length, int) and length > 0 for length in size):
        raise ValueError(f"height {quote(height)} and width {quote(width)} are no numbers of pixels")
    return int(size[0] or 0), int(size[1] or 0)


def quote(value: Any) -> str:
    """A value from a file as text for an error message, cut to _MAX_VALUE characters."""
    return str(value)[:_MAX_VALUE]


def resolve_inside(root: Path, folder: Path, relative: str, source: Path) -> Path:
    """The path `relative` to `folder` that the file `source` names; it must stay inside `root`, also through links.

    Backslashes separate folders too: LabelMe on Windows writes them. Raises SampleError.
    """
    text = relative.replace("\\", "/")
    windows = PureWindowsPath(relative)
    target = Path(os.path.normpath(folder.absolute() / text))
    absolute = PurePosixPath(text).is_absolute() or windows.drive or windows.root
    subject = f"{source}: its image {relative[:_MAX_PATH]!r}"
    inside = target.is_relative_to(os.path.normpath(root.absolute()))
    if not text or absolute or not inside:
        raise SampleError(f"{subject} lies outside {root}; give a path inside it")
    try:
        target.stat()
    except (FileNotFoundError, NotADirectoryError):
        return target  # the caller reports a missing file
    except (OSError, ValueError) as error:
        raise SampleError(f"{subject} cannot be looked for ({type(error).__name__}); give another path") from error
    if not Path(os.path.realpath(target)).is_relative_to(os.path.realpath(root)):
        raise SampleError(f"{subject} is a link out of {root}; copy the image there")
    return target


class ImageFinder:
    """Finds the images that annotation files name, inside `root`.

    Each is looked for by its path and then by the last part of the path alone, because exported files often hold paths
    of another machine or of an earlier place. Differences in Unicode's composition and in upper and lower case do not
    matter.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._indices: dict[Path, dict[str, Path]] = {}
        self._claims: dict[Path, tuple[str, bool]] = {}  # image -> name that it was found by, and whether by path

    def find(self, name: str, folders: Sequence[Path], source: Path) -> Path | None:
        """The image that the file `source` calls `name`, in the first of `folders` that has it; None: it is missing.

        Raises SampleError: the path leaves the root and no image has its last part as name, or the image with this
        name belongs to another path.
        """
        refused = None
        _, is_address, below_host = name.partition("://")
        path = urllib.parse.urlsplit(below_host).path.partition("/")[2] if is_address else name
        for by_path, wanted in ((True, path), (False, base_name(path))):
            for folder in folders:
                try:
                    image = self._on_disk(folder, wanted, source)
                except SampleError as error:  # ".." may leave the root from one folder and not from the next
                    refused = refused or error
                    continue
                if image is not None:
                    return self._claim(image, name, by_path, source)
        if refused is not None:
            raise refused
        return None

    def _on_disk(self, folder: Path, name: str, source: Path) -> Path | None:
        path = resolve_inside(self._root, folder, name, source)
        if not path.exists():
            path = self._alike(path)
            # Once more, because what was found may be a link.
            path = resolve_inside(self._root, path.parent, path.name, source)
        return path if path.is_file() else None

    def _alike(self, path: Path) -> Path:
        """The path on disk that differs in composition or case at most; the same path if there is none."""
        if path.exists() or path.parent == path:
            return path
        folder = self._alike(path.parent)
        if folder not in self._indices:
            self._indices[folder] = _files_by_name(folder)
        return self._indices[folder].get(_folded(path.name), folder / path.name)

    def _claim(self, image: Path, name: str, by_path: bool, source: Path) -> Path:
        other, other_by_path = self._claims.setdefault(image, (name, by_path))
        if other != name and not (by_path and other_by_path):
            raise SampleError(f"{source}: {image} would be the image of {other!r} and of {name!r}; give their folders")
        return image


def base_name(name: str) -> str:
    """The last part of a path or of an address, such as "/data/local-files/?d=photos/a%201.png" ("a 1.png")."""
    last = name.replace("\\", "/").rpartition("?d=")[2].rpartition("/")[2]
    return urllib.parse.unquote(last).replace("/", "") if "%" in last else last


def _files_by_name(folder: Path) -> dict[str, Path]:
    """What a folder holds, by folded name; of names that fold alike, none."""
    try:
        paths = list(folder.iterdir())
    except OSError:
        return {}
    counts = Counter(_folded(path.name) for path in paths)
    return {name: path for path in paths if counts[name := _folded(path.name)] == 1}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
