"""The images of a folder by name."""

import contextlib
import logging
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from thfuse_sam.datasets.layouts import visible_entries
from thfuse_sam.errors import PairError
from thfuse_sam.folder_patterns import NAME, name_of_scene, parse_folder
from thfuse_sam.images import IMAGE_SUFFIXES

_UNREAD_SUFFIXES = (
    ".gif", ".pgm", ".ppm", ".pnm", ".jp2", ".jpe", ".jfif", ".jxl", ".heic", ".heif", ".avif", ".exr", ".hdr", ".tga",
    ".dng", ".raw", ".cr2", ".nef", ".arw", ".dcm", ".fits",
    ".seq", ".csq", ".fff",  # of FLIR's cameras
)  # fmt: skip

log = logging.getLogger(__name__)


def list_images(folder: Path) -> dict[str, Path]:
    """Map the name of every image below `folder` to its file, in the order of the names.

    `folder` may be a pattern, see `folder_patterns`. Hidden files are left out; links are followed. Names are in
    Unicode's composed form (NFC), because some systems write a letter with its accent as one character and others as
    two. Raises PairError, naming both, if two files have the same name.
    """
    images: dict[str, Path] = {}
    unread: list[Path] = []
    for name, path in named_files(folder, unread):
        other = images.setdefault(name, path)
        if other != path:
            raise PairError(f"two images are named {name!r}: {other} and {path}; rename or remove one of them")
    for is_there, trouble in (
        (True, "%s: %d images of formats that are not read, such as %s; convert them to PNG or TIFF"),
        (False, "%s: %d links that lead nowhere, such as %s; mend or remove them"),
    ):
        if paths := [path for path in unread if path.exists() == is_there]:
            log.warning(trouble, folder, len(paths), paths[0])
    return dict(sorted(images.items()))


def image_names(folder: Path) -> set[str]:
    """The names of the images in `folder` and below it."""
    return {name for name, _ in named_files(folder)}


def named_files(folder: Path, unread: list[Path] | None = None) -> Iterator[tuple[str, Path]]:
    """(name, file) of the images below a folder or pattern, in the order of the paths; names may repeat.

    Images of formats that are not read are added to `unread`, and links that lead nowhere and are not named as images.
    Those that are count as images, so that one that is lost is refused or counted when it is read.
    """
    root, modality_folder, file_name = parse_folder(folder)
    for relative in _image_files(root, "", ()):
        name = relative
        if modality_folder is not None:
            parts = relative.split("/")
            wanted = modality_folder.casefold()
            position = next((i for i, part in enumerate(parts[:-1]) if part.casefold() == wanted), None)
            if position is None:
                continue
            name = "/".join([*parts[:position], *parts[position + 1 :]])
        if not name.lower().endswith(IMAGE_SUFFIXES):
            if unread is not None:
                unread.append(root / relative)
            continue
        scene = name_of_scene(_name(name), file_name)
        if scene is not None:
            yield scene, root / relative


def unread_file(folder: Path, name: str) -> Path | None:
    """A file in `folder` with the name of an image, but a suffix that is not read."""
    root, _, file_name = parse_folder(folder)
    above, _, last = name.rpartition("/")
    stem = file_name.replace(NAME, last)
    with contextlib.suppress(OSError):
        for entry in visible_entries(root / above):
            if Path(entry.name).stem == stem and not entry.name.lower().endswith(IMAGE_SUFFIXES):
                return root / above / entry.name
    return None


def _image_files(root: Path, above: str, real_above: tuple[str, ...]) -> Iterator[str]:
    """Paths relative to `root`, with forward slashes, of the image files below its folder `above` ("" or "a/b/").

    Those of formats that are not read are among them, and links that lead nowhere. Strings, because making path objects
    would take most of the time in a large data set. `real_above`: the paths of the folders from `root` down to `above`.
    """
    folder = root / above
    real = os.path.realpath(folder)
    if real in real_above:  # following a link to a folder above would never end
        return
    try:
        entries = visible_entries(folder)
    except OSError as error:
        raise PairError(f"cannot list the folder {folder}: {error.strerror}; check its permissions") from error
    for entry in entries:
        if entry.is_dir():
            yield from _image_files(root, f"{above}{entry.name}/", (*real_above, real))
        elif _is_image(entry) or (entry.is_symlink() and not os.path.exists(entry)):  # noqa: PTH110
            yield above + entry.name


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and entry.name.lower().endswith(IMAGE_SUFFIXES + _UNREAD_SUFFIXES)


def _name(relative: str) -> str:
    """The name of an image: its relative path without suffix, in NFC. Raises PairError if it is not UTF-8."""
    name = relative[: relative.rindex(".")]
    if name.isascii():
        return name
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PairError(f"the file name {name!a} is not UTF-8; rename the file") from error
    return unicodedata.normalize("NFC", name)
