"""Which folder of a data set holds the infrared and which the visible images, recognised by the folders' names.

Accepted below one root (if no name fits exactly, upper and lower case count as equal)::

    root/ir/a/0001.png                      root/vi/a/0001.jpg               modality folder on top
    root/set00/V000/lwir/I00000.jpg         root/set00/V000/visible/...      modality folder further down

In the second form a pair is named by its path without the modality folder (`set00/V000/I00000`), and the folder of
one modality is written as a pattern, `root/**/lwir`: every folder of that name below the root.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from thfuse_sam.datasets.naming import modality_words
from thfuse_sam.datasets.words import (
    HELD_OUT_IR,
    NOT_OF_CAMERAS,
    NOT_OF_USERS,
    REPORT,
    REPORT_PAGE,
    REPORT_PICTURES,
)
from thfuse_sam.errors import PairError, first_of
from thfuse_sam.files import VIDEO_SUFFIXES
from thfuse_sam.folder_patterns import ANY_FOLDERS
from thfuse_sam.images import IMAGE_SUFFIXES

_IMAGES = "images"  # folder of files that hold both images, in MFNet
_MAX_LISTED = 8  # folders that a message names

# How many folders may lie between the root and the modality folders, so that a wrong root (a home folder, a whole
# disk) is not searched to its end.
_SEARCH_DEPTH = 4

log = logging.getLogger(__name__)


class Layout(NamedTuple):
    """Names of the two modality folders in one family of data sets."""

    ir: str
    vi: str


LAYOUTS = (
    Layout("ir", "vi"),  # this project, MSRS, TNO
    Layout("ir", "vis"),  # M3FD (Ir, Vis)
    Layout("ir", "rgb"),
    Layout("ir", "visible"),
    Layout("lwir", "visible"),  # KAIST
    Layout("infrared", "visible"),  # LLVIP
    Layout("cropinfrared", "crop_LR_visible"),  # RoadScene
    Layout("T", "RGB"),  # VT821, VT1000, VT5000
    Layout("i", "v"),  # GTOT
    Layout("FIR", "Visible"),  # CVC-14
    Layout("trainimgr", "trainimg"),  # DroneVehicle
    Layout("valimgr", "valimg"),
    Layout("testimgr", "testimg"),
    Layout("thermal", "rgb"),
    Layout("thermal", "visible"),
    Layout("thermal_8_bit", "RGB"),  # FLIR ADAS
)


class ModalityFolders(NamedTuple):
    """The infrared and the visible folder; each a plain folder or a pattern, see `folder_patterns`."""

    ir: Path
    vi: Path


def why_no_folder(path: Path) -> str:
    """Why there is no folder at `path`, in a clause."""
    if not path.exists():
        return "no such folder"
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return "is a video, which `video()` takes"
    return "is a file, not a folder"


def detect_folders(root: Path, in_one_file: bool = False) -> ModalityFolders:
    """Find the two modality folders of the data set at `root`: directly below it, else up to four folders deeper.

    `in_one_file`: where no layout fits, `images/` or else `root` itself is both folders.

    Raises PairError if no layout fits, or more than one.
    """
    if not root.is_dir():
        raise PairError(f"`dataset_path` {root}: {why_no_folder(root)}; give the folder that holds ir/ and vi/")
    matches = _without_held_out(root, _matches(root, _known))
    if not matches and in_one_file:
        folder = root / _IMAGES if (root / _IMAGES).is_dir() else root
        return ModalityFolders(folder, folder)
    if not matches:
        names = _subfolders(root)
        folders = f"the folders {first_of(names, _MAX_LISTED)}" if names else "no folders"
        raise PairError(
            f"`dataset_path` {root}: no infrared and visible folder; found {folders}; accepted are "
            f"{accepted_layouts()}; rename the folders or give `ir_dir` and `vi_dir` (one folder may be both, "
            "with `pair_pattern`, or with `ir_channel` if each file holds both images)"
        )
    return _only(root, matches)


def told_folders(root: Path) -> ModalityFolders | None:
    """Two folders of images, of no known layout, whose names differ by a word for the modality: `test_ir`, `test_vis`.

    Raises PairError if there are several such pairs of folders.
    """
    matches = [] if _matches(root, _known) else _matches(root, _told)
    return _only(root, matches) if matches else None


def accepted_layouts() -> str:
    """All layouts in one line, for messages: 'ir+vi, ir+vis, ...'."""
    return ", ".join(f"{layout.ir}+{layout.vi}" for layout in LAYOUTS)


def visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of `folder` in the order of their names, without hidden ones, those of the system, and the pictures
    of a report.
    """
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not (entry.name[0] == "." or entry.name.casefold() in NOT_OF_USERS)]
    if folder.name == REPORT and any(entry.name == REPORT_PAGE for entry in shown):
        shown = [entry for entry in shown if entry.name != REPORT_PICTURES]
    return sorted(shown, key=lambda entry: entry.name)


def _subfolders(folder: Path) -> list[str]:
    """Names of the folders in `folder`; none if it may not be listed, as it then holds no data set of this user."""
    try:
        return [entry.name for entry in visible_entries(folder) if entry.is_dir()]
    except OSError:
        return []


def _only(root: Path, matches: list[ModalityFolders]) -> ModalityFolders:
    """Raises PairError if there are several."""
    if len(matches) > 1:
        choices = [f"{match.ir.relative_to(root)}+{match.vi.relative_to(root)}" for match in matches]
        raise PairError(
            f"`dataset_path` {root}: more than one layout fits ({first_of(choices, _MAX_LISTED)}); "
            "give `ir_dir` and `vi_dir`"
        )
    return matches[0]


def _without_held_out(root: Path, matches: list[ModalityFolders]) -> list[ModalityFolders]:
    """`matches` less those for validation and tests, with a warning, unless there are no others."""
    held_out = [match for match in matches if match.ir.name.casefold() in HELD_OUT_IR]
    if not held_out or len(held_out) == len(matches):
        return matches
    names = ", ".join(match.ir.name for match in held_out)
    log.warning(
        "%s: %s are for validation or tests, and are left out; to use one give the folder above it", root, names
    )
    return [match for match in matches if match not in held_out]


_Find = Callable[[Path], list[ModalityFolders]]


def _matches(root: Path, find: _Find) -> list[ModalityFolders]:
    """What `find` finds directly below `root`, else further down."""
    return find(root) or _patterns(root, find)


def _known(folder: Path) -> list[ModalityFolders]:
    """The layouts whose two folders lie in `folder`."""
    names = _subfolders(folder)
    pairs = ((_folder_named(layout.ir, names), _folder_named(layout.vi, names)) for layout in LAYOUTS)
    return [ModalityFolders(folder / ir, folder / vi) for ir, vi in pairs if ir is not None and vi is not None]


def _told(folder: Path) -> list[ModalityFolders]:
    """The pairs of folders in `folder` that hold images and whose names differ by a word for the modality."""
    ir: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    vi: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for name in _subfolders(folder):
        for is_ir, others in modality_words(name):
            if NOT_OF_CAMERAS.isdisjoint(others):
                (ir if is_ir else vi)[others].append(folder / name)
    pairs = (ModalityFolders(one, other) for others in ir for one in ir[others] for other in vi.get(others, ()))
    return [pair for pair in pairs if all(map(_has_image, pair))]


def _has_image(folder: Path) -> bool:
    return any(name.lower().endswith(IMAGE_SUFFIXES) for _, _, names in os.walk(folder) for name in names)


def _patterns(root: Path, find: _Find) -> list[ModalityFolders]:
    """What `find` finds in one folder further down, as patterns `root/**/name`."""
    matches = (match for parent in _folders_below(root, _SEARCH_DEPTH) for match in find(parent))
    # Patterns match upper and lower case alike, so one of several that differ only by case is enough.
    unique = {
        (ir.casefold(), vi.casefold()): ModalityFolders(root / ANY_FOLDERS / ir, root / ANY_FOLDERS / vi)
        for ir, vi in sorted({(match.ir.name, match.vi.name) for match in matches})
    }
    return list(unique.values())


def _folder_named(wanted: str, names: list[str]) -> str | None:
    """The exact name if it is there, else the first one that differs only by case."""
    if wanted in names:
        return wanted
    return next((name for name in names if name.casefold() == wanted.casefold()), None)


def _folders_below(folder: Path, depth: int) -> Iterator[Path]:
    """Folders at most `depth` levels below `folder`."""
    if depth == 0:
        return
    for name in _subfolders(folder):
        yield folder / name
        yield from _folders_below(folder / name, depth - 1)
