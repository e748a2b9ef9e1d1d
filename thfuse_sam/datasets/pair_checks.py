"""Whether pairs of images can be used, and whether they look odd."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from thfuse_sam.arrays import ImageArray, Size
from thfuse_sam.datasets.named_images import unread_file
from thfuse_sam.datasets.naming import differ_by_modality, naming_advice
from thfuse_sam.datasets.pairs import ImagePair, PairSet
from thfuse_sam.errors import ImageReadError, ImageSizeError, PairError
from thfuse_sam.false_colour import recognise
from thfuse_sam.images import image_form, image_size, luma, read_visible, size_text
from thfuse_sam.thermal import AS_STORED

_COLOURFUL = 4.0  # mean difference of largest and smallest channel, in 0..255; in grey JPEG images it is smaller


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
        f"{naming_advice(pairs.unpaired_ir, pairs.unpaired_vi)}"
    )


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
