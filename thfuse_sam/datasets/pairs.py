"""Finding images, and pairs of infrared and visible images of the same scene.

Two images are a pair when their paths below their modality folders agree without the suffix::

    ir/night/0001.png   +   vi/night/0001.jpg   ->   night/0001

or when they fit two patterns, such as `IR{name}` and `VIS{name}`, which are given or in common use (see `naming`).
"""

import itertools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from thfuse_sam.arrays import ImageArray
from thfuse_sam.datasets.layouts import ModalityFolders, detect_folders, told_folders, why_no_folder
from thfuse_sam.datasets.named_images import list_images, named_files
from thfuse_sam.datasets.naming import Naming, likely_naming, naming_advice
from thfuse_sam.errors import PairError, counted
from thfuse_sam.folder_patterns import NAME, parse_folder
from thfuse_sam.images import (
    IMAGE_SUFFIXES,
    Modality,
    read_infrared,
    read_visible,
)
from thfuse_sam.masks.source_images import find_image
from thfuse_sam.thermal import AS_STORED, InfraredReading

if TYPE_CHECKING:
    from typing_extensions import Unpack

_MOST_NAMES = 1000  # of a folder of no known layout, which tell whether it holds both modalities
_TRIED = 20  # names that are looked for in the other folder, to see whether names are equal


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImagePair:
    """Infrared and visible image of one scene."""

    name: str  # relative path without suffix, with forward slashes: "a/0001"
    ir: Path
    vi: Path
    reading: InfraredReading = AS_STORED  # how the infrared image is read

    @property
    def images(self) -> dict[Modality, Path]:
        """The file of each modality."""
        return {"ir": self.ir, "vi": self.vi}

    def read(self) -> tuple[ImageArray, ImageArray]:
        """The infrared image, uint8 HxW, and the visible one, HxWx3, each of its own size. Raises ImageReadError."""
        return read_infrared(self.ir, self.reading), read_visible(self.vi)


@dataclass(frozen=True)
class PairSet:
    """All pairs of a data set, in the order of their names, and the images that have no partner."""

    pairs: list[ImagePair]
    ir_dir: Path  # a folder, or a pattern (see folder_patterns)
    vi_dir: Path
    unpaired_ir: dict[str, Path]  # name -> file
    unpaired_vi: dict[str, Path]
    reading: InfraredReading = AS_STORED  # of all infrared images
    given: Mapping[str, Path | None] = field(default_factory=dict)  # the options that lead here, by name; {}: none do

    @property
    def unpaired(self) -> list[Path]:
        """The files that have no partner."""
        return [*self.unpaired_ir.values(), *self.unpaired_vi.values()]

    @property
    def files(self) -> list[Path]:
        """Both images of each pair."""
        return [path for pair in self.pairs for path in pair.images.values()]

    def read_as(self, reading: InfraredReading) -> "PairSet":
        """The same pairs, whose infrared images are read as `reading` says."""
        return replace(self, reading=reading, pairs=[replace(pair, reading=reading) for pair in self.pairs])

    def only(self, keep: Callable[[str], bool]) -> "PairSet":
        """The pairs and images whose names `keep` accepts."""
        return replace(
            self,
            pairs=[pair for pair in self.pairs if keep(pair.name)],
            unpaired_ir={name: path for name, path in self.unpaired_ir.items() if keep(name)},
            unpaired_vi={name: path for name, path in self.unpaired_vi.items() if keep(name)},
        )


@dataclass(frozen=True)
class ImageSet:
    """All images of one modality, with or without a partner."""

    folder: Path  # a folder, or a pattern (see folder_patterns)
    images: dict[str, Path]  # name -> file, in the order of the names


class Search(TypedDict, total=False):
    """Where images are looked for besides a data set's folder, and how they become pairs."""

    ir_dir: Path | None  # both folders take precedence over that of the data set
    vi_dir: Path | None
    naming: Naming | None  # patterns of the file names; None: equal names, or else patterns that are in common use
    in_one_file: bool  # one file may be both images of a pair, so one folder may be both, too


def find_pairs(dataset_path: Path | None = None, **search: "Unpack[Search]") -> PairSet:
    """Find the pairs below `dataset_path`, or below the folders of `search`.

    Raises PairError: folder missing, layout unknown, no image, no pair, or two files with one name.
    """
    both = find_both(dataset_path, **search)
    folders = ModalityFolders(both["ir"].folder, both["vi"].folder)
    ir, vi = both["ir"].images, both["vi"].images
    pairs = [ImagePair(name, ir[name], vi[name]) for name in ir if name in vi]
    if not pairs:
        raise PairError(
            f"no pair: no file in {folders.ir} has a partner in {folders.vi}; names there are such as "
            f"{_examples(ir)} and {_examples(vi)}; give both images of a scene the same relative path without suffix"
            f"{naming_advice(ir, vi)}"
        )
    unpaired_ir = {name: path for name, path in ir.items() if name not in vi}
    unpaired_vi = {name: path for name, path in vi.items() if name not in ir}
    ir_dir, vi_dir = search.get("ir_dir"), search.get("vi_dir")
    given = {"dataset_path": dataset_path} if ir_dir is None else {"ir_dir": ir_dir, "vi_dir": vi_dir}
    return PairSet(pairs, *folders, unpaired_ir, unpaired_vi, given=given)


def find_both(dataset_path: Path | None = None, **search: "Unpack[Search]") -> dict[Modality, ImageSet]:
    """Find all images of both modalities, with or without a partner; see `find_pairs`."""
    folders = _folders(dataset_path, **search)
    ir = _images_or_error(folders.ir, "ir")
    vi = _images_or_error(folders.vi, "vi")
    if not search.get("in_one_file"):  # the pattern {name} fits the files of {name}_ir as well
        vi = _without(vi, ir) or vi
    _mention_unnamed(folders, {*ir.values(), *vi.values()})
    return {"ir": ImageSet(folders.ir, ir), "vi": ImageSet(folders.vi, vi)}


def find_images(dataset_path: Path | None = None, *, modality: Modality, **search: "Unpack[Search]") -> ImageSet:
    """Find all images of one modality, with or without a partner; see `find_pairs`.

    The folder of that modality is enough; only a `dataset_path` needs both folders, as its layout is told by them.
    Raises PairError: folder missing, layout unknown, no image, or two files with one name.
    """
    ir_dir, vi_dir, naming = search.get("ir_dir"), search.get("vi_dir"), search.get("naming")
    own = ir_dir if modality == "ir" else vi_dir
    if own is not None and (ir_dir is None or vi_dir is None):
        folder = own if naming is None else own / getattr(naming, modality)
        return ImageSet(folder, _images_or_error(folder, modality))
    folders = _folders(dataset_path, **search)
    images = _images_or_error(getattr(folders, modality), modality)
    is_mixed = parse_folder(folders.ir).root == parse_folder(folders.vi).root and not search.get("in_one_file")
    if modality == "vi" and is_mixed:
        images = _without(images, _images_or_error(folders.ir, "ir")) or images
    return ImageSet(getattr(folders, modality), images)


def _mention_unnamed(folders: ModalityFolders, used: set[Path]) -> None:
    """Warn of images in folders of patterns that fit none of them, such as the third one of each scene."""
    whole = dict.fromkeys(folder.parent for folder in folders if NAME in folder.name)
    rest = [path for folder in whole for _, path in named_files(folder) if path not in used]
    if rest:
        log.warning(
            "left out: %s named neither %s nor %s, such as %s",
            counted(len(rest), "image"), folders.ir.name, folders.vi.name, rest[0],
        )  # fmt: skip


def _without(images: dict[str, Path], others: Mapping[str, Path]) -> dict[str, Path]:
    """`images` less the files of `others`."""
    files = set(others.values())
    return {name: path for name, path in images.items() if path not in files}


def _folders(
    dataset_path: Path | None,
    ir_dir: Path | None = None,
    vi_dir: Path | None = None,
    naming: Naming | None = None,
    in_one_file: bool = False,
) -> ModalityFolders:
    """The folders or patterns of both modalities. Raises PairError."""
    if ir_dir is not None and vi_dir is not None:
        folders = ModalityFolders(ir_dir, vi_dir)
    elif ir_dir is not None or vi_dir is not None:
        given, missing = ("`ir_dir`", "`vi_dir`") if ir_dir is not None else ("`vi_dir`", "`ir_dir`")
        raise PairError(f"{given} {ir_dir or vi_dir} is given without {missing}; give both or neither")
    elif dataset_path is not None:
        folders = _folders_of_set(dataset_path, naming, in_one_file)
    else:
        raise PairError("no images are named; give `dataset_path`, or `ir_dir` and `vi_dir`")
    is_one = os.path.realpath(folders.ir) == os.path.realpath(folders.vi)
    if is_one and in_one_file:
        return folders
    naming = naming or _usual_naming(folders, is_one)
    if naming is not None:
        return ModalityFolders(folders.ir / naming.ir, folders.vi / naming.vi)
    if is_one:
        raise PairError(
            f"`ir_dir` and `vi_dir` are the same folder {folders.ir}; give the two of the data set, `pair_pattern` if "
            "file names tell both apart, or `ir_channel` if each file holds both images"
        )
    return folders


def _folders_of_set(root: Path, naming: Naming | None, in_one_file: bool) -> ModalityFolders:
    """The folders of a known layout, else `root` twice if the names of its files tell the modalities apart.

    If they do not, the two folders whose names do.
    """
    try:
        return detect_folders(root, in_one_file)
    except PairError:
        names = [name for name, _ in itertools.islice(named_files(root), _MOST_NAMES)] if root.is_dir() else []
        naming = naming or likely_naming(names, names, known=True)
        if (naming is None or not naming.pairs(names, names)) and (told := told_folders(root)) is not None:
            return told
        if not names or naming is None:
            raise
        return ModalityFolders(root, root)


def _usual_naming(folders: ModalityFolders, is_one: bool) -> Naming | None:
    """The patterns by which file names differ, if they are in common use; None: the names are equal, or unknown."""
    if NAME in folders.ir.name or not all(parse_folder(folder).root.is_dir() for folder in folders):
        return None
    if not is_one:
        first = itertools.islice(named_files(folders.ir), _TRIED)
        if any(find_image(folders.vi, name) is not None for name, _ in first):
            return None
    ir = [name for name, _ in named_files(folders.ir)]
    vi = ir if is_one else [name for name, _ in named_files(folders.vi)]
    if not is_one and not {*ir}.isdisjoint(vi):
        return None
    naming = likely_naming(ir, vi, known=True)
    if naming is not None:
        log.info("pairs: files named %s and %s", *naming)
    return naming


def _images_or_error(folder: Path, modality: Modality) -> dict[str, Path]:
    root, _, file_name = parse_folder(folder)
    if not root.is_dir():
        raise PairError(f"`{modality}_dir` {folder}: {why_no_folder(root)}; give a folder of images")
    images = list_images(folder)
    if not images:
        fitting = "" if file_name == NAME else f" named {file_name}"
        raise PairError(
            f"no image{fitting} found in {folder} (`{modality}_dir`); accepted are {', '.join(IMAGE_SUFFIXES)}, "
            "nested too"
        )
    return images


def _examples(images: dict[str, Path]) -> str:
    return ", ".join(repr(name) for name in list(images)[:2])
