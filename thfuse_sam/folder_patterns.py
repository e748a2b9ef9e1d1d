"""Folders of images as mask trees and messages write them: plain, or as a pattern.

::

    root                every image below it
    root/**/lwir        those in the folders `lwir` below the root; the name of an image leaves that folder out
    root/{name}_ir      those whose file name ends so; only what stands for {name} is the name of an image

The last two may be joined: `root/**/lwir/{name}_ir`.
"""

import re
from pathlib import Path
from typing import NamedTuple

NAME = "{name}"
ANY_FOLDERS = "**"


class FolderPattern(NamedTuple):
    """The parts of a pattern."""

    root: Path
    modality_folder: str | None  # None: the images lie below `root` itself
    file_name: str  # without suffix; NAME: every file


def parse_folder(folder: Path) -> FolderPattern:
    """The parts of a folder or pattern."""
    file_name = NAME
    if NAME in folder.name:
        folder, file_name = folder.parent, folder.name
    if ANY_FOLDERS in folder.parts:
        return FolderPattern(folder.parent.parent, folder.name, file_name)
    return FolderPattern(folder, None, file_name)


def by_number(text: str) -> list[tuple[int, str]]:
    """A key by which names are sorted as people count: 2 before 10."""
    return [(int(word or 0), other) for word, other in re.findall(r"(\d*)(\D*)", text)]


def name_of_scene(path: str, pattern: str) -> str | None:
    """As `name_in`, of a relative path without suffix; the folders stay."""
    above, slash, stem = path.rpartition("/")
    own = name_in(stem, pattern)
    return None if own is None else above + slash + own


def name_in(stem: str, pattern: str) -> str | None:
    """What stands for {name} if the file name `stem`, without its suffix, fits `pattern`; else None."""
    before, _, after = pattern.partition(NAME)
    fits = stem.startswith(before) and stem.endswith(after) and len(stem) > len(before) + len(after)
    return stem[len(before) : len(stem) - len(after)] if fits else None
