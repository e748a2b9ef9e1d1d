"""How the infrared images of a command are read, according to `InfraredOptions`, told in one line."""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thfuse_sam.errors import ImageKindError, ImageReadError, OptionError, option_text
from thfuse_sam.images import image_form, infrared_numbers, read_infrared
from thfuse_sam.masks.manifest import Manifest
from thfuse_sam.options.shared import DATASET, RANGE_WORDS, InfraredOptions
from thfuse_sam.thermal import AS_STORED, BLACK_HOT, STRETCH_PERCENTILES, InfraredReading, as_range, limits

Range = tuple[float, float]

_NUMBERS = 20_000_000  # that the range of a data set is taken from
_IMAGES_LOOKED_AT = 20  # at most, for how many bits they have
_NUMBERS_OF_IMAGE = 16, 4096  # at least and at most, of each image

log = logging.getLogger(__name__)


def infrared_reading(
    options: InfraredOptions,
    images: Sequence[Path],
    kept: Mapping[str, Range | None] | None = None,
    tree: Path | None = None,
) -> InfraredReading:
    """How the infrared `images` are read. Logs the range of their numbers, and where it is from.

    Args:
        images: none where they are not known yet, as those of a stream.
        kept: ranges that were kept earlier, by what keeps them; the first one counts where `ir_range` gives none.
        tree: masks of the images, see `reading_of`.

    Raises:
        ImageKindError: the first image is drawn in false colours, or has not the channel that is asked for; or no image
            fits the range.
        OptionError: the range is to be taken from the images, and they have none.
    """
    return infrared_readings(options, [(images, tree)], kept)[0]


def infrared_readings(
    options: InfraredOptions,
    folders: Sequence[tuple[Sequence[Path], Path | None]],
    kept: Mapping[str, Range | None] | None = None,
) -> list[InfraredReading]:
    """As `infrared_reading`, of several folders: each has its images and its tree, and all have the same range."""
    readings = [reading_of(options, tree) for _, tree in folders]
    images = [(path, how) for (paths, _), how in zip(folders, readings, strict=True) for path in paths]
    how = readings[0]
    if any(one.polarity == BLACK_HOT for one in readings):
        log.info("infrared: black-hot, so black and white are exchanged (`ir_polarity`)")
    own = reading_of(options).settings()
    for one, (_, tree) in zip(readings, folders, strict=True):
        for name, value in one.settings().items():
            if own.get(name) != value and name != "ir_polarity":
                log.info("infrared: %s, as the masks in %s were made", option_text(name, value), tree)
    is_deep = _is_deep(images)
    _warn_if_mixed([path for path, _ in images])
    found = next(((source, range_) for source, range_ in (kept or {}).items() if range_ is not None), None)
    given = options.ir_range
    if how.value_range is not None:
        source, range_ = "`ir_range`", how.value_range
    elif found is not None and given in (None, (DATASET,)):
        source, range_ = found
    elif given == (DATASET,):
        source, range_ = f"of {len(images)} images", _range_of(images)
    else:
        if is_deep:
            log.info(
                "infrared: the %g and %g percentiles of each image become black and white (see `ir_range`)",
                *_black_and_white(STRETCH_PERCENTILES, how),
            )
        return readings
    _require_in_range(images, range_)
    log.info("infrared: %g becomes black and %g white (%s)", *_black_and_white(range_, how), source)
    if not is_deep:
        example = f", such as {images[0][0]}" if images else ""
        log.info("infrared: images of 8 bits are taken as they are%s", example)
    return [dataclasses.replace(one, value_range=range_) for one in readings]


def _black_and_white(range_: Range, how: InfraredReading) -> Range:
    return range_[::-1] if how.polarity == BLACK_HOT else range_


def reading_of(options: InfraredOptions, tree: Path | None = None) -> InfraredReading:
    """How the infrared images are read, as the options say it, and where they do not, as those of which the masks at
    `tree` were made; the range is that of the options alone.
    """
    own, given = _reading_of_tree(tree), options.ir_range
    colours = options.ir_colormap, options.ir_gray  # one excludes the other
    colormap, gray = colours if any(colours) else (own.colormap, own.gray)
    return InfraredReading(
        value_range=None if given is None or given[0] in RANGE_WORDS else (float(given[0]), float(given[1])),
        nodata=own.nodata if options.ir_nodata is None else options.ir_nodata,
        colormap=colormap,
        gray=gray,
        channel=own.channel if options.ir_channel is None and not any(colours) else options.ir_channel,
        polarity=options.ir_polarity or own.polarity,
    )


def trained_range(path: Path, training: Mapping[str, Any]) -> dict[str, Range | None]:
    """The range with which the network in the file `path` was trained, as `kept` of `infrared_reading`; `training` are
    the options of its training.
    """
    return {f"as {path} was trained": as_range(training.get("ir_range"))}


def range_of_tree(root: Path | None) -> Range | None:
    """The range of the infrared images of which the masks at `root` were made; None: none is noted."""
    return _reading_of_tree(root).value_range


def _reading_of_tree(root: Path | None) -> InfraredReading:
    manifest = None if root is None else Manifest.find(root)
    return AS_STORED if manifest is None else InfraredReading.of_settings(manifest.signature.generator)


def _is_deep(images: Sequence[tuple[Path, InfraredReading]]) -> bool:
    """Whether the first image has more than 8 bits. One that cannot be read is reported when its turn comes."""
    try:
        return bool(images) and infrared_numbers(*images[0]) is not None
    except ImageKindError:
        raise
    except ImageReadError:
        return False


def _warn_if_mixed(images: Sequence[Path]) -> None:
    """Warn if some images have 8 bits, as the headers of a few of them say, which are not stretched as the others."""
    forms = {True: list[Path](), False: list[Path]()}
    for path in images[:: 1 + len(images) // _IMAGES_LOOKED_AT]:
        with contextlib.suppress(ImageReadError):
            forms[image_form(path)[0]].append(path)
    if forms[True] and forms[False]:
        log.warning(
            "infrared: some images have 8 bits and are taken as they are, such as %s, others are stretched, such as %s",
            forms[False][0], forms[True][0],
        )  # fmt: skip


def _require_in_range(images: Sequence[tuple[Path, InfraredReading]], range_: Range) -> None:
    """Raise ImageKindError if no image, of a few, has a number in the range: then nothing is to be written."""
    first: ImageKindError | None = None
    for path, how in images[:: 1 + len(images) // _IMAGES_LOOKED_AT]:
        try:
            read_infrared(path, dataclasses.replace(how, value_range=range_))
        except ImageKindError as error:
            first = first or error
        except ImageReadError:  # is reported when its turn comes
            pass
        else:
            return
    if first is not None:
        raise first


def _range_of(images: Sequence[tuple[Path, InfraredReading]]) -> Range:
    """The range that `thermal.limits` finds in numbers of all `images`. Raises OptionError."""
    if not images:
        raise OptionError("ir_range", DATASET, "images come one after another here; give LOW HIGH")
    least, most = _NUMBERS_OF_IMAGE
    share = min(most, max(least, _NUMBERS // max(1, len(images))))
    samples = []
    for path, how in images:
        with contextlib.suppress(ImageReadError):
            found = infrared_numbers(path, how)
            if found is not None:
                numbers = found[0][~found[1]]
                # Not every n-th: where n divides the width, those are pixels of a few columns.
                samples.append(numbers[np.linspace(0, numbers.size - 1, min(numbers.size, share)).astype(int)])
    pooled = np.concatenate(samples) if samples else np.empty(0)
    if not pooled.size:
        raise OptionError("ir_range", DATASET, "no infrared image has more than 8 bits; leave it out")
    low, high = limits(pooled)
    # Six digits, so that the range is equal where it was kept as a text.
    return float(f"{low:.6g}"), float(f"{high:.6g}")
