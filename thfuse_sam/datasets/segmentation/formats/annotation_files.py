"""JSON files of other programs, and the paths of images in them, which must not lead out of the data set's folder."""

import json
import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from thfuse_sam.errors import SampleError

_MAX_PATH = 200  # characters of a path that an error shows
_MAX_VALUE = 80  # characters of any other value that an error shows


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises SampleError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SampleError(f"{path}: not readable as JSON ({error}); mend or remove it") from error


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
