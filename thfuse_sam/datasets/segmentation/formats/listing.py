"""What a format finds in a folder: entries that can be read, and a line for each file that makes none."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from thfuse_sam.datasets.named_images import unread_file
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.datasets.words import IMAGE_FOLDERS

WITHOUT_OBJECTS = "images without an object, left out"


@dataclass(frozen=True)
class Entry:
    """One annotated image on disk."""

    name: str  # path below its folder without suffix
    image_path: Path  # the sample's `source`
    read: Callable[[], SegmentationSample]  # raises SampleError, ImageReadError or MaskReadError, naming the file


@dataclass(frozen=True)
class Listing:
    """What a format finds in a folder."""

    entries: Sequence[Entry]
    problems: list[str] = field(default_factory=list)  # a line for each file that makes no entry
    notes: Counter[str] = field(default_factory=Counter)  # what is left out without being a mistake -> how often


def no_mask(image: Path, folder: Path) -> str:
    """The problem of an image that has no mask in `folder`."""
    return f"{image}: no mask of the same name in {folder}{_unread(folder, image.stem)}"


def no_image(mask: Path, folder: Path) -> str:
    """The problem of a mask whose image is not in `folder`."""
    return f"{mask}: no image of the same name in {folder}{_unread(folder, mask.stem)}"


def image_folder(root: Path) -> Path | None:
    """The folder of images in a data set's folder, if it has a usual name."""
    return subfolder(root, *IMAGE_FOLDERS)


def files_below(root: Path, suffix: str) -> list[Path]:
    """The files below `root` of a lower-case suffix, in upper or lower case; none that is hidden."""
    paths = (path for path in root.rglob("*") if path.suffix.lower() == suffix and path.is_file())
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts))


def subfolder(root: Path, *names: str) -> Path | None:
    """The folder in `root` with the first of these lower-case names that is there, in upper or lower case."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir()]
    by_name = {path.name.casefold(): path for path in folders} | {path.name: path for path in folders}
    return next((by_name[name] for name in names if name in by_name), None)


def _unread(folder: Path, stem: str) -> str:
    """The file of that name whose suffix is not read, to end a message; "" if there is none."""
    path = unread_file(folder, stem)
    return "" if path is None else f"; {path.name} there has a suffix that is not read"
