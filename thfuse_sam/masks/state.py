"""Whether a mask fits the image that has its name now: its size, and what it was made from.

Whoever reads, makes or checks masks asks here.
"""

import contextlib
import filecmp
from collections.abc import Iterable, Mapping
from pathlib import Path

from thfuse_sam.errors import ImageReadError, MaskReadError
from thfuse_sam.images import Modality, image_size, size_text
from thfuse_sam.masks.image_records import ImageRecords, record_image
from thfuse_sam.masks.manifest import Manifest
from thfuse_sam.masks.source_images import find_image
from thfuse_sam.masks.store import MaskStore, open_masks

OWN_TREE = "run `precompute()` for this data set with another `output_dir`"  # where a mask is of another data set

NamedImage = tuple[Modality, str, Path]  # an image with its name


class ForeignSources:
    """Finds masks that were made from another data set's image of the same name.

    Two data sets can hold different images under one name ("0001"); the mask of one must not be taken for the other's.

    Args:
        manifest: the manifest of the tree; None: nothing is known of its masks, so none counts as foreign.
        folders: the present data set's folder (or pattern, see `folder_patterns`) of each modality to check.
        recheck: check also a modality whose folder the manifest records. Who only reads masks need not: when they were
            made, foreign ones were ruled out.
    """

    def __init__(self, manifest: Manifest | None, folders: Mapping[Modality, Path], *, recheck: bool = False) -> None:
        self._others: dict[Modality, list[Path]] = {}
        for modality, folder in folders.items():
            recorded, own = manifest.folders(modality) if manifest is not None else [], folder.resolve()
            if recheck or own not in recorded:
                self._others[modality] = [other for other in recorded if other != own]

    def find(self, modality: Modality, name: str, image: Path) -> Path | None:
        """The image of another recorded data set that the existing mask called `name` may have been made from.

        Recorded folders that are gone, and copies of `image`, the present data set's, do not count. None: the mask was
        made from that one.
        """
        for folder in self._others.get(modality, ()):
            other = find_image(folder, name)
            if other is not None and not _same_image(other, image):
                return other
        return None


def changed_image(
    records: ImageRecords, modality: Modality, name: str, image: Path, infrared: Path | None = None
) -> Path | None:
    """Which of an image and the `infrared` one that its mask depends on has changed since the mask was made, if any.

    None also where nobody has noted what they were. Raises ImageReadError.
    """
    known = records.get(modality, name)
    now = None if known is None else record_image(image, known, infrared)
    if known is None or now is None or now.has_content_of(known):
        return None
    return image if now.digest != known.digest else infrared


def size_mismatch(store: MaskStore, modality: Modality, name: str, image: Path) -> str | None:
    """Says of a mask that is not of its image's size; None if it is. Reads headers only.

    Raises MaskReadError and ImageReadError.
    """
    mask_size, size = store.shape_and_time(modality, name)[0], image_size(image)
    if mask_size == size:
        return None
    location = store.location(modality, name)
    return f"mask {location} is {size_text(mask_size)} and its image {image} {size_text(size)} (width x height)"


def size_mismatches(images: Iterable[NamedImage], root: Path, foreign: ForeignSources) -> dict[str, list[str]]:
    """`size_mismatch` of the masks at `root`, by name: a line, with the remedy, for each image. Masks of another data
    set, which `foreign` finds, are to stay.

    Masks that are missing or not readable are not reported, because these images get the placeholder.
    """
    store = open_masks(root)
    mismatches: dict[str, list[str]] = {}
    for modality, name, image in images:
        if store.has(modality, name):
            with contextlib.suppress(MaskReadError, ImageReadError):
                if mismatch := size_mismatch(store, modality, name, image):
                    other = foreign.find(modality, name, image)
                    again = "; delete the mask and run `precompute()` again"
                    remedy = again if other is None else f": it was made from {other}; {OWN_TREE}"
                    mismatches.setdefault(name, []).append(mismatch + remedy)
    return mismatches


def count_missing_masks(images: Iterable[NamedImage], root: Path) -> int:
    """How many images have no mask at `root`."""
    store = open_masks(root)
    return sum(not store.has(modality, name) for modality, name, _ in images)


def count_changed_images(images: Iterable[NamedImage], root: Path, foreign: ForeignSources) -> int:
    """How many images have another size in bytes than when their masks at `root` were made. Those whose masks are of
    another data set, which `foreign` finds, do not count.

    Only sizes are compared, because a data set that was copied would have to be read whole. Raises ManifestError.
    """
    records, changed = ImageRecords.load(root), 0
    for modality, name, image in images:
        known = records.get(modality, name)
        with contextlib.suppress(OSError):  # it is reported when it is read
            if known is not None and known.size != image.stat().st_size:
                changed += foreign.find(modality, name, image) is None
    return changed


def _same_image(one: Path, other: Path) -> bool:
    """Whether both are one file, or files of equal content."""
    try:
        return one.samefile(other) or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
