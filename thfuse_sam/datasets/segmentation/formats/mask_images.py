"""Masks as image files beside the images.

A mask has the name of its image, or this name and an ending such as `_mask`, or there is one file for each object::

    imgs/001.jpg             masks/001.png                 also images/ + labels/, img_dir/ + ann_dir/ and so on
    imgs/b/002.jpg           masks/b/002_mask.png
    images/003.jpg           masks/003_0.png  003_1.png    one file for each object, also masks/003/*.png
    a/images/a.png           a/masks/*.png                 one folder for each image, as in the Data Science Bowl 2018
    test/a/001.png           ground_truth/a/001_mask.png   as in MVTec AD
    001.jpg                  001_mask.png                  side by side, as Roboflow writes them, with _classes.csv

Folders whose masks number objects, in which 0 is background and k is object k::

    PNGImages/001.png        PedMasks/001_mask.png         as in Penn-Fudan
    images/001.jpg           instances/001.png
    JPEGImages/001.jpg       SegmentationObject/001.png    as in Pascal VOC; SegmentationClass/ numbers classes
    leftImg8bit/a/001_leftImg8bit.png   gtFine/a/001_gtFine_instanceIds.png    as in Cityscapes

What a mask holds is decided by `mask_values.read_mask`.

(L. Wang et al., "Object Detection Combining Recognition and Segmentation", ACCV 2007, made Penn-Fudan.)
"""

import itertools
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from thfuse_sam.datasets.named_images import image_names, list_images
from thfuse_sam.datasets.segmentation.formats.listing import (
    Entry,
    Listing,
    image_folder,
    no_image,
    no_mask,
    subfolder,
)
from thfuse_sam.datasets.segmentation.formats.mask_values import Kind, MaskValues, mask_values
from thfuse_sam.datasets.segmentation.formats.objects import drawn_frame, is_background, is_ignored
from thfuse_sam.datasets.segmentation.sample import NOTE, Flaw, SegmentationSample
from thfuse_sam.datasets.words import OTHER_FOLDERS, TRAIN_FOLDERS, VOC_IMAGES
from thfuse_sam.errors import SampleError
from thfuse_sam.images import image_frame, image_size, read_stored_pixels, read_visible, size_text
from thfuse_sam.options.shared import AnnotationReading

# Folders of masks, in lower case, and what their name says of the masks; the first that is there counts.
_MASK_FOLDERS: Mapping[str, Kind | None] = {
    **dict.fromkeys(("instances", "pedmasks", "gtfine", "gtcoarse"), "instances"),
    **dict.fromkeys(("segmentationobject", "segmentationobjectpng"), "instances"),
    **dict.fromkeys(("segmentationclass", "segmentationclasspng"), "classes"),
    **dict.fromkeys(("masks", "mask", "annotations", "ann_dir", "labels", "label", "gt", "ground_truth"), None),
}
_OF_DEFECTS = "ground_truth", "test"  # folders of MVTec AD; images without a defect have no mask
_CLASS_LIST = "_classes.csv"  # of Roboflow; the masks beside it number classes
_FOLDERS_TO_CHECK = 3
_NOT_SEGMENTED = "images without a mask, left out"  # most of Pascal VOC's images have none
_AROUND = "all around the border of the image; if black is the object: `mask_values` 0"
_OTHER_FILES = "further mask files of an image, left out"

_IMAGE_ENDING = "_leftImg8bit"
# What may follow the image's name in the mask's; of an image's files those with the first of these endings are used.
_ENDINGS: tuple[str, ...] = (
    *("", "mask", "masks", "gtfine_instanceids", "instanceids", "instances", "instance", "seg", "segmentation"),
    *("cp_masks", "gtcoarse_instanceids", "label", "labels", "gt", "matte", "l", "png", "jpg", "jpeg"),
    *("gtfine_labelids", "gtcoarse_labelids", "gtfine_labeltrainids", "gtfine_color", "gtcoarse_color"),
)
_UNSURE = ("", "l", "png", "jpg", "jpeg")  # endings of images, too
_TRAIN_IDS = "trainids"  # in which 0 is a class
_NUMBER = re.compile(r"(?:[_\-. ]\(?|\()\d+\)?$")  # number of an object at the end of a name
_NAMES = "a mask is named like its image, also with _mask or another usual ending, or _0, _1, ... for each object"


def find(root: Path, reading: AnnotationReading) -> Listing | None:
    """Entries of a folder with masks; None if it has none. Raises PairError: two files with one name."""
    images = image_folder(root)
    candidates = (subfolder(root, name) for name in _MASK_FOLDERS)
    masks = next((path for path in candidates if path and not _is_of_another_format(path)), None)
    if images is None and masks is not None and masks.name.casefold() == _OF_DEFECTS[0]:
        images = subfolder(root, _OF_DEFECTS[1])
    if images is not None and masks is not None:
        return _pair(images, masks, _MASK_FOLDERS[masks.name.casefold()], reading, _class_names(root))
    parts = {*TRAIN_FOLDERS, *OTHER_FOLDERS}  # which hold a data set each, not an image
    shown = (path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith("."))
    folders = list(itertools.islice((path for path in shown if path.name.casefold() not in parts), _FOLDERS_TO_CHECK))
    if folders and all((path / "masks").is_dir() and len(list(path.glob("images/[!.]*"))) == 1 for path in folders):
        return _pair(root / "**/images", root / "**/masks", None, reading)
    return None


def find_beside(root: Path, reading: AnnotationReading) -> Listing | None:
    """Entries of a folder in which masks lie beside their images, called as these and an ending; None: another folder.

    Raises PairError: two files with one name.
    """
    names = image_names(root)
    # Parts have a list of classes each.
    if subfolder(root, *TRAIN_FOLDERS) is not None or not any(_is_beside(name, names) for name in names):
        return None
    return _pair(root, root, "classes" if (root / _CLASS_LIST).is_file() else None, reading, _class_names(root))


def read(
    name: str,
    image_path: Path,
    mask_paths: Sequence[Path],
    kind: Kind | None,
    reading: AnnotationReading,
    names: Mapping[str, str] = MappingProxyType({}),
) -> SegmentationSample:
    """An image and its objects: those of its mask, or one of each mask if there are several.

    `kind` is what the name of the folder says about its masks, `names` are class names by number or colour. Raises
    ImageReadError, and SampleError: a mask that is empty, of another size, or of no certain kind.
    """
    masks, flaws = [], list[Flaw]()
    for path in mask_paths:
        mask_size, own_orientation = image_frame(path)
        shape, orientation, own_flaws = drawn_frame(image_path, mask_size, ignore_exif=reading.ignore_exif)
        if own_orientation != 1:  # turned as its image is
            shape, orientation, own_flaws = image_size(image_path), 1, []
        if shape != mask_size:
            sizes = f"is {size_text(mask_size)}, its image {size_text(shape)} (width x height)"
            raise SampleError(f"{path}: {sizes}; bring both to one size")
        mask = read_mask(path, kind, reading).turned(orientation)
        if _is_around(mask.labels) and not reading.mask_values:
            own_flaws = [*own_flaws, Flaw(_AROUND, str(path), NOTE)]
        masks.append(mask)
        flaws += own_flaws
    image = read_visible(image_path)
    if len(masks) == 1:
        [mask] = masks
        classes = {label: names.get(text, text) for label, text in mask.names.items()}
        mask = _only_objects(replace(mask, names=classes))
        return SegmentationSample(name, image, mask.labels, mask.names, ignored=mask.ignored, flaws=tuple(flaws))
    objects = [mask.labels == number for mask in masks for number in np.unique(mask.labels[mask.labels > 0])]
    regions = [mask.ignored for mask in masks if mask.ignored is not None]
    ignored = np.logical_or.reduce(regions) if regions else None
    return SegmentationSample.from_masks(name, image, dict(enumerate(objects, 1)), ignored=ignored, flaws=flaws)


def _only_objects(mask: MaskValues) -> MaskValues:
    """The mask without classes whose names say that they are background or to be ignored."""
    to_ignore = [label for label, name in mask.names.items() if is_ignored(name)]
    nothing = [label for label, name in mask.names.items() if is_background(name)] + to_ignore
    if not nothing:
        return mask
    ignored = np.isin(mask.labels, to_ignore) | (False if mask.ignored is None else mask.ignored)
    names = {label: name for label, name in mask.names.items() if label not in nothing}
    return MaskValues(
        np.where(np.isin(mask.labels, nothing), 0, mask.labels), names, ignored if ignored.any() else None
    )


def read_mask(path: Path, kind: Kind | None, reading: AnnotationReading) -> MaskValues:
    """The objects of a mask file. Raises ImageReadError, and SampleError: an empty mask, or one of no certain kind."""
    try:
        mask = mask_values(read_stored_pixels(path), kind, reading)
    except ValueError as error:
        raise SampleError(f"{path}: {error}") from error
    if not mask.labels.any():
        nothing_else = ", besides pixels to ignore (see `ignore_value`)" if mask.ignored is not None else ""
        raise SampleError(f"{path}: the mask is empty{nothing_else}; label an object or remove the pair")
    return mask


def _is_around(labels: npt.NDArray[np.int32]) -> bool:
    """Whether one object fills the whole border of an image, but not the whole image."""
    borders = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return bool(borders.all() and labels.max() == 1 and not labels.all())


def _is_of_another_format(folder: Path) -> bool:
    """Whether a folder is one of text files, as LabelMe and YOLO have of these names, and not of masks."""
    if folder.name.casefold() not in ("annotations", "labels", "label"):
        return False
    return not image_names(folder) or any(path.suffix.lower() in (".json", ".txt") for path in folder.rglob("*"))


def _class_names(root: Path) -> dict[str, str]:
    """Class names by colour ("128,0,0") and number, from the lists that programs write beside the masks."""
    names: dict[str, str] = {}
    for file in filter(Path.is_file, (root / "labelmap.txt", root / "class_names.txt", root / _CLASS_LIST)):
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        if file.name == _CLASS_LIST:  # value, name
            words = (line.split(",", 1) for line in lines if "," in line)
            names |= {value.strip(): name.strip() for value, name in words}
        elif file.name == "labelmap.txt":  # name:colour:parts:actions
            names |= {words[1]: words[0] for words in (line.split(":") for line in lines) if len(words) > 1}
        else:  # begins with __ignore__ and _background_, whose numbers are -1 and 0
            names |= {str(number): line.strip() for number, line in enumerate(lines, -1)}
    return names


def _pair(
    images_folder: Path,
    masks_folder: Path,
    kind: Kind | None,
    reading: AnnotationReading,
    names: Mapping[str, str] = MappingProxyType({}),
) -> Listing:
    """Entries of the images in one folder and their masks in the other.

    `kind` is what the folder's name says; `names` are class names by number or colour. If both folders are one, the
    ending of a name tells a mask.
    """
    # Else an image without a mask is no mistake.
    needs_masks = images_folder.name.casefold() not in (VOC_IMAGES, _OF_DEFECTS[1])
    images, masks = list_images(images_folder), list_images(masks_folder)
    if images_folder == masks_folder:
        masks = {name: path for name, path in masks.items() if _is_beside(name, images)}
        images = {name: path for name, path in images.items() if name not in masks}
    groups, strangers, others = group_masks(images, masks)
    entries, problems = [], []
    for name, own in groups.items():
        if own and own[0].lower().endswith(_TRAIN_IDS):
            problems.append(f"{masks[own[0]]}: 0 is a class in it, not background; use labelIds or instanceIds")
        elif own:
            # In a file for each object, its number is in the name.
            own_kind = None if len(own) > 1 or _is_numbered(own[0], name) else kind
            paths = [masks[mask] for mask in own]
            entries.append(
                Entry(name, images[name], partial(read, name, images[name], paths, own_kind, reading, names))
            )
    problems += [no_mask(images[name], masks_folder) for name, own in groups.items() if not own and needs_masks]
    problems += [f"{no_image(masks[name], images_folder)}; {_NAMES}" for name in strangers]
    bare = 0 if needs_masks else len(groups) - len(entries)
    return Listing(entries, problems, Counter({_OTHER_FILES: others, _NOT_SEGMENTED: bare}))


def group_masks(images: Iterable[str], masks: Iterable[str]) -> tuple[dict[str, list[str]], list[str], int]:
    """The names of each image's masks, one or one for each object; masks of no image; the number of files passed over.

    A file is passed over if its image has files with an ending that comes first in _ENDINGS. Beside a mask of the very
    name of an image, `a`, another one with a number, `a_1`, is the mask of an image that is not there.
    """
    images, masks = list(images), set(masks)
    by_key = {name.removesuffix(_IMAGE_ENDING): name for name in images} | {name: name for name in images}
    ranked: dict[str, list[tuple[int, str]]] = {name: [] for name in images}
    strangers = []
    for mask in sorted(masks):
        rank, key = next(((rank, key) for rank, key in _possible_images(mask) if key in by_key), (0, None))
        if key is None or (mask != key in masks and _NUMBER.sub("", mask) == key):
            strangers.append(mask)
        else:
            ranked[by_key[key]].append((rank, mask))
    first = {name: min(found)[0] for name, found in ranked.items() if found}
    groups = {name: [mask for rank, mask in found if rank == first[name]] for name, found in ranked.items()}
    return groups, strangers, sum(map(len, ranked.values())) - sum(map(len, groups.values()))


def _possible_images(mask: str) -> Iterator[tuple[int, str]]:
    """(place of its ending in _ENDINGS, name of the image) for each image that a mask may belong to; the likely first.

    Besides the names, a folder of the image's name may hold its masks.
    """
    folder = mask.rpartition("/")[0]
    unnumbered = _NUMBER.sub("", mask)
    names = [*_without_ending(mask), *_without_ending(unnumbered)]
    yield from names
    yield from ((rank, _NUMBER.sub("", name)) for rank, name in names if rank)
    if folder:
        yield 0, folder
        yield 0, f"{folder}/{folder.rpartition('/')[2]}"


def _is_beside(name: str, names: Container[str]) -> bool:
    """Whether a file is the mask of another one: its name is that of the other and an ending that says so."""
    return any(_ENDINGS[rank] not in _UNSURE and key in names for rank, key in _possible_images(name))


def _is_numbered(mask: str, image: str) -> bool:
    """Whether the name of an image's mask holds the number of an object besides the image's name."""
    return not any(key in (image, image.removesuffix(_IMAGE_ENDING)) for _, key in _without_ending(mask))


def _without_ending(name: str) -> list[tuple[int, str]]:
    folded = name.lower()
    found = [(0, name)]
    for rank, ending in enumerate(_ENDINGS):
        if ending and folded.endswith(ending) and folded[: -len(ending)][-1:] in ("_", "-", ".", " "):
            found.append((rank, name[: -len(ending) - 1]))
    return found
