"""Finding images, and pairs of infrared and visible images of the same scene.

Two images are a pair when their paths below their modality folders agree without the suffix::

    ir/night/0001.png   +   vi/night/0001.jpg   ->   night/0001

or when they fit two patterns, such as `IR{name}` and `VIS{name}`, which are given or in common use (see `naming`).
"""

import contextlib
import itertools
import logging
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from thfuse_sam.arrays import ImageArray, Size
from thfuse_sam.datasets.layouts import ModalityFolders, detect_folders, told_folders, visible_entries
from thfuse_sam.datasets.naming import Naming, differ_by_modality, likely_naming
from thfuse_sam.errors import ImageReadError, ImageSizeError, PairError, counted
from thfuse_sam.false_colour import recognise
from thfuse_sam.folder_patterns import NAME, name_of_scene, parse_folder
from thfuse_sam.images import (
    IMAGE_SUFFIXES,
    Modality,
    image_form,
    image_size,
    luma,
    read_infrared,
    read_visible,
    size_text,
)
from thfuse_sam.masks.source_images import find_image
from thfuse_sam.thermal import AS_STORED, InfraredReading

if TYPE_CHECKING:
    from typing_extensions import Unpack

_MOST_NAMES = 1000  # of a folder of no known layout, which tell whether it holds both modalities
_TRIED = 20  # names that are looked for in the other folder, to see whether names are equal
_UNREAD_SUFFIXES = (
    ".gif", ".pgm", ".ppm", ".pnm", ".jp2", ".jpe", ".jfif", ".jxl", ".heic", ".heif", ".avif", ".exr", ".hdr", ".tga",
    ".dng", ".raw", ".cr2", ".nef", ".arw", ".dcm", ".fits",
    ".seq", ".csq", ".fff",  # of FLIR's cameras
)  # fmt: skip
_COLOURFUL = 4.0  # mean difference of largest and smallest channel, in 0..255; in grey JPEG images it is smaller


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
    given: Mapping[str, Path | None] = field(default_factory=dict)  # the options that lead here, by name

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
            f"{_advice(ir, vi)}"
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


def list_images(folder: Path) -> dict[str, Path]:
    """Map the name of every image below `folder` to its file, in the order of the names.

    `folder` may be a pattern, see `folder_patterns`. Hidden files are left out; links are followed. Names are in
    Unicode's composed form (NFC), because some systems write a letter with its accent as one character and others as
    two. Raises PairError, naming both, if two files have the same name.
    """
    images: dict[str, Path] = {}
    unread: list[Path] = []
    for name, path in _named_files(folder, unread):
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
    return {name for name, _ in _named_files(folder)}


def read_pair(pair: ImagePair) -> tuple[ImageArray, ImageArray]:
    """The infrared (uint8 HxW) and the visible image (uint8 HxWx3, RGB) of a pair.

    Raises ImageReadError, and ImageSizeError if the two differ in size.
    """
    infrared, visible = pair.read()
    _require_one_size(pair, infrared.shape, visible.shape[:2])
    return infrared, visible


def check_headers(pair: ImagePair) -> None:
    """Raise the errors of `read_pair` that the headers of the two files already show."""
    _require_one_size(pair, *read_headers(pair))


def read_headers(pair: ImagePair) -> tuple[Size, Size]:
    """(height, width) of the infrared and of the visible image. Raises ImageReadError."""
    return image_size(pair.ir), image_size(pair.vi)


def unusable_pairs(pairs: Iterable[ImagePair], check: Callable[[ImagePair], object] = check_headers) -> dict[str, str]:
    """Pairs that cannot be used, by name, with the reason in one line.

    `check` reads the headers only; `read_pair` in its place reads every image whole, and finds truncated ones too.
    """
    reasons = {}
    for pair in pairs:
        try:
            check(pair)
        except (ImageReadError, ImageSizeError) as error:
            reasons[pair.name] = str(error)
    return reasons


def require_partners(pairs: PairSet) -> None:
    """Raise PairError naming the first image without a partner, how many more there are, and what would help."""
    unpaired = pairs.unpaired
    if not unpaired:
        return
    others = f" (and {len(unpaired) - 1} more)" if len(unpaired) > 1 else ""
    folder, names = (pairs.vi_dir, pairs.unpaired_ir) if pairs.unpaired_ir else (pairs.ir_dir, pairs.unpaired_vi)
    unread = unread_file(folder, next(iter(names)))
    hint = f"{unread} has a suffix that is not read; " if unread is not None else ""
    raise PairError(
        f"{unpaired[0]} has no partner in {folder}{others}; {hint}add it, take the image out or give `skip_bad`"
        f"{_advice(pairs.unpaired_ir, pairs.unpaired_vi)}"
    )


def _advice(ir: Mapping[str, Path], vi: Mapping[str, Path]) -> str:
    """What keeps these images from being pairs, to end a message; "" if nothing is found."""
    if of_any_case := len({*map(str.casefold, ir)} & {*map(str.casefold, vi)}):
        return f"; but for upper and lower case in their names {of_any_case} of them would be pairs"
    naming = likely_naming(ir.keys(), vi.keys())
    if naming is None:
        return ""
    number = naming.pairs(ir.keys(), vi.keys())
    return f"; by `pair_pattern` '{naming.ir}' '{naming.vi}' {number} of them would be pairs"


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


def _mention_unnamed(folders: ModalityFolders, used: set[Path]) -> None:
    """Warn of images in folders of patterns that fit none of them, such as the third one of each scene."""
    whole = dict.fromkeys(folder.parent for folder in folders if NAME in folder.name)
    rest = [path for folder in whole for _, path in _named_files(folder) if path not in used]
    if rest:
        log.warning(
            "left out: %s named neither %s nor %s, such as %s",
            counted(len(rest), "image"), folders.ir.name, folders.vi.name, rest[0],
        )  # fmt: skip


def _without(images: dict[str, Path], others: Mapping[str, Path]) -> dict[str, Path]:
    """`images` less the files of `others`."""
    files = set(others.values())
    return {name: path for name, path in images.items() if path not in files}


def suspicion(pair: ImagePair) -> str | None:
    """What looks wrong about the two images of a pair as such; None: nothing does, or they cannot be read."""
    try:
        ir, vi = read_visible(pair.ir), read_visible(pair.vi)
        (ir_is_deep, ir_frames), (vi_is_deep, vi_frames) = image_form(pair.ir), image_form(pair.vi)
    except ImageReadError:
        return None
    if pair.reading.channel is None and ir.shape == vi.shape and np.ptp(ir) and np.array_equal(luma(ir), luma(vi)):
        return f"{pair.ir} and {pair.vi} show the same picture: is one folder a copy of the other?"
    swapped = "are the infrared and the visible folder swapped?"
    if pair.reading == AS_STORED and is_colourful(ir) and not is_colourful(vi):
        return f"{pair.ir} has colours and {pair.vi} has none: {swapped}"
    if (colormap := recognise(vi)) is not None:
        return f"{pair.vi} looks drawn in false colours, like {colormap}, as infrared images are: {swapped}"
    parts = ((*path.parts[:-1], path.stem) for path in (pair.vi, pair.ir))
    if any(itertools.starmap(differ_by_modality, zip(*parts, strict=False))):
        return f"{pair.ir} is taken for infrared and {pair.vi} for visible, which their names deny: {swapped}"
    if vi_is_deep and not ir_is_deep and not is_colourful(vi):
        return f"{pair.vi} is grey of more than 8 bits, as infrared images are, and {pair.ir} has 8: {swapped}"
    if ir_frames > 1 or vi_frames > 1:
        path, frames = (pair.ir, ir_frames) if ir_frames > 1 else (pair.vi, vi_frames)
        return f"{path} holds {frames} frames, of which the first is read; write each into a file of its own"
    return None


def is_colourful(rgb: ImageArray) -> bool:
    """Whether uint8 HxWx3 shows more than greys."""
    return float(np.mean(rgb.max(2) - rgb.min(2))) > _COLOURFUL


def _require_one_size(pair: ImagePair, ir: Sequence[int], vi: Sequence[int]) -> None:
    """Raise ImageSizeError if the (height, width) `ir` and `vi` of a pair's images differ."""
    if tuple(ir) != tuple(vi):
        raise ImageSizeError(
            f"pair {pair.name!r}: {pair.ir} is {size_text(ir)} and {pair.vi} is {size_text(vi)} (width x height); "
            "fuse with `align` similarity, or bring both to one size with `align()`"
        )


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
        names = [name for name, _ in itertools.islice(_named_files(root), _MOST_NAMES)] if root.is_dir() else []
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
        first = itertools.islice(_named_files(folders.ir), _TRIED)
        if any(find_image(folders.vi, name) is not None for name, _ in first):
            return None
    ir = [name for name, _ in _named_files(folders.ir)]
    vi = ir if is_one else [name for name, _ in _named_files(folders.vi)]
    if not is_one and not {*ir}.isdisjoint(vi):
        return None
    naming = likely_naming(ir, vi, known=True)
    if naming is not None:
        log.info("pairs: files named %s and %s", *naming)
    return naming


def _images_or_error(folder: Path, modality: Modality) -> dict[str, Path]:
    root, _, file_name = parse_folder(folder)
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "no such folder"
        raise PairError(f"`{modality}_dir` {folder}: {kind}; give a folder of images")
    images = list_images(folder)
    if not images:
        fitting = "" if file_name == NAME else f" named {file_name}"
        raise PairError(
            f"no image{fitting} found in {folder} (`{modality}_dir`); accepted are {', '.join(IMAGE_SUFFIXES)}, "
            "nested too"
        )
    return images


def _named_files(folder: Path, unread: list[Path] | None = None) -> Iterator[tuple[str, Path]]:
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


def _examples(images: dict[str, Path]) -> str:
    return ", ".join(repr(name) for name in list(images)[:2])
