"""Aligning infrared images with visible ones, and calibrating two cameras, according to `AlignOptions`."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from thfuse_sam.align.estimate import Alignment, estimate_alignment
from thfuse_sam.align.placement import Placement, Placer, resample
from thfuse_sam.align.rig import Calibration, Rig, calibrate
from thfuse_sam.arrays import ImageArray, size_of
from thfuse_sam.commands.inputs import find_command_pairs, require_no_input_in, warn_if_odd, warn_of_older
from thfuse_sam.datasets.aligned import registered_numbers
from thfuse_sam.datasets.pair_checks import require_partners
from thfuse_sam.datasets.pairs import ImagePair, PairSet
from thfuse_sam.errors import ImageReadError, OptionError, UsageError, command_text, counted, renaming
from thfuse_sam.files import make_directory, remove_abandoned, require_writable, write_atomically, write_csv
from thfuse_sam.fusion.fusing import require_usable
from thfuse_sam.fusion.misalignment import warn_unsure
from thfuse_sam.images import MODALITIES, Modality, luma, size_text, write_image, write_numbers
from thfuse_sam.masks.format import segment_labels
from thfuse_sam.masks.source import MaskSource, NoMasks, PrecomputedMasks
from thfuse_sam.masks.tree import MaskFiles
from thfuse_sam.options.align import VISIBLE, AlignmentOptions, AlignOptions
from thfuse_sam.progress import progress_bar
from thfuse_sam.thermal import WHITE_HOT, as_white_hot

CSV, MASKS = "alignment.csv", "masks"

log = logging.getLogger(__name__)


@dataclass
class AlignedFolder:
    """What `align` has done."""

    alignments: dict[str, Alignment] = field(default_factory=dict)  # by the pair's name
    failures: dict[str, str] = field(default_factory=dict)  # pair or file -> reason


def build_placer(options: AlignmentOptions) -> Placer | None:
    """What places the images of a pair; None: they are fused as they are. Raises UsageError."""
    if not options.places_images:
        return None
    return Placer(options.align or "size", options.size, None if options.rig is None else Rig.load(options.rig))


def align(options: AlignOptions) -> AlignedFolder:
    """Write OUTPUT_DIR/ir (and vi, where `size` is not the visible image's), masks and alignment.csv.

    Raises ThFuseError.
    """
    rig = None if options.rig is None else Rig.load(options.rig)
    placer = Placer(options.kind, options.size, rig)
    pairs = _find(options, options.dataset_path)
    masks: MaskSource = NoMasks()
    if options.masks_dir is not None:
        masks = PrecomputedMasks(options.masks_dir, {"ir": pairs.ir_dir, "vi": pairs.vi_dir})
        require_no_input_in(options.output_dir, [MASKS], [options.masks_dir])
    if not options.skip_bad:
        require_usable(pairs.pairs, placer)
    require_writable("output_dir", options.output_dir)
    require_no_input_in(options.output_dir, MODALITIES, pairs.files)
    make_directory(options.output_dir)
    remove_abandoned(options.output_dir)
    done, written = AlignedFolder(), list[Path]()
    for pair, infrared, visible in _read(pairs, options.skip_bad, done.failures):
        placement = placer.place(infrared, visible)
        written += _write(pair, placement, infrared, visible, masks, options)
        done.alignments[pair.name] = placement.alignment
    write_csv(options.output_dir / CSV, _rows(done.alignments))
    _log_result(done, options.output_dir)
    found = [path for name in (*MODALITIES, MASKS) for path in sorted((options.output_dir / name).rglob("[!.]*"))]
    warn_of_older([path for path in found if path.is_file()], written, "file")
    _log_next(pairs, options)
    return done


def calibrate_rig(options: AlignOptions) -> Calibration:
    """Write the rig file `output`. Raises ThFuseError."""
    if options.rig is not None or options.kind == "size":
        name, value = ("rig", options.rig) if options.rig is not None else ("align", options.align)
        raise OptionError(name, value, "is given beside `calibrate`, which finds a transformation; leave it out")
    require_writable("output", options.output.parent)
    with renaming(dataset_path="calibrate"):
        pairs = _find(options, options.calibrate)
    failures: dict[str, str] = {}
    estimates: dict[str, Alignment] = {}
    for pair, infrared, visible in _read(pairs, options.skip_bad, failures):
        estimate = estimate_alignment(infrared, luma(visible), options.kind)
        first = next(iter(estimates.values()), estimate)
        if (estimate.ir_size, estimate.vi_size) != (first.ir_size, first.vi_size):
            raise UsageError(
                f"`calibrate` {options.calibrate}: {pair.name} has images of {size_text(estimate.ir_size)} and "
                f"{size_text(estimate.vi_size)}, the pairs before {size_text(first.ir_size)} and "
                f"{size_text(first.vi_size)} (width x height); calibrate each rig alone"
            )
        estimates[pair.name] = estimate
    result = calibrate(estimates, options.kind)
    result.write(options.output)
    for name, distance in result.outliers.items():
        log.warning("%s: not used, %.1f pixels from the other pairs", name, distance)
    log.info(
        "rig of %d of %d pairs (%d unsure, %d outliers) written to %s, for `rig` of `fuse()` and `align()`; "
        "pairs differ from it by %.2f pixels (median)",
        len(result.used), len(estimates), len(result.unsure), len(result.outliers), options.output, result.residual,
    )  # fmt: skip
    return result


def _find(options: AlignOptions, folder: Path | None) -> PairSet:
    pairs = find_command_pairs(folder, options, options.masks_dir)
    if not options.skip_bad:
        require_partners(pairs)
    warn_if_odd(pairs.pairs)
    return pairs


def _read(
    pairs: PairSet, skip_bad: bool, failures: dict[str, str]
) -> Iterator[tuple[ImagePair, ImageArray, ImageArray]]:
    """Each pair with its images; those that cannot be read raise, or with `skip_bad` are noted in `failures`."""
    failures |= {str(path): "no partner" for path in pairs.unpaired}
    for pair in progress_bar(pairs.pairs, "aligning", unit=" pairs"):
        try:
            infrared, visible = pair.read()
        except ImageReadError as error:
            if not skip_bad:
                raise
            failures[pair.name] = str(error)
            continue
        yield pair, infrared, visible
    for name, reason in failures.items():
        log.warning("left out: %s: %s", name, reason)


def _write(
    pair: ImagePair,
    placement: Placement,
    infrared: ImageArray,
    visible: ImageArray,
    masks: MaskSource,
    options: AlignOptions,
) -> list[Path]:
    """Write what belongs to a pair, and return the files."""
    folder = options.output_dir
    written = [_write_infrared(folder / "ir", pair, placement, infrared)]
    if options.size != VISIBLE:
        written.append(folder / "vi" / f"{pair.name}.png")
        write_image(written[-1], resample(visible, placement.vi, placement.size, border=0))
    tree = MaskFiles(folder / MASKS)
    images: tuple[tuple[Modality, Path, ImageArray], ...] = (("ir", pair.ir, infrared), ("vi", pair.vi, visible))
    for modality, path, image in images:
        mask = masks.get(modality, pair.name, path, size_of(image))
        if mask is not None:
            is_label_map = mask.dtype in (np.uint8, np.uint16)
            labels = mask if is_label_map else segment_labels(mask).astype(np.uint8)
            tree.write(modality, pair.name, placement.mask(modality, labels))
            written.append(tree.path(modality, pair.name))
    return written


def _write_infrared(folder: Path, pair: ImagePair, placement: Placement, infrared: ImageArray) -> Path:
    """Write the placed image, and return its file.

    Images of more than 8 bits keep their numbers, and all their polarity, so that one reading fits both. What the
    camera does not see is transparent in 8 bits, `ir_nodata` or else 0 in 16 and NaN in numbers with a point, which is
    read as "nothing measured".
    """
    nodata = pair.reading.nodata
    nothing = 0 if nodata is None or nodata not in range(2**16) else int(nodata)
    numbers = registered_numbers(pair, placement, nothing)
    if numbers is not None:
        path = folder / f"{pair.name}{'.png' if numbers.dtype == np.uint16 else '.tiff'}"
        write_numbers(path, numbers)
        return path
    stored = as_white_hot(infrared, pair.reading.polarity)  # turns it round again
    placed, seen = resample(stored, placement.ir, placement.size), placement.sees("ir")
    picture = Image.fromarray(placed)
    if not seen.all():
        layers = np.where(seen, placed, np.uint8(0)), np.where(seen, np.uint8(255), np.uint8(0))
        picture = Image.merge("LA", [Image.fromarray(layer) for layer in layers])
    path = folder / f"{pair.name}.png"
    write_atomically(path, lambda file: picture.save(file, format="PNG"))
    return path


def _rows(alignments: dict[str, Alignment]) -> Iterator[list[Any]]:
    elements = [f"m{row}{column}" for row in (1, 2, 3) for column in (1, 2, 3)]
    yield ["name", "kind", "confident", "offset_percent", "blocks", "blocks_share", *elements]
    for name, one in alignments.items():
        facts = [one.kind, str(one.confident).lower(), 100 * one.offset, one.blocks, one.share]
        yield [name, *facts, *(float(value) for value in one.applied.ravel())]


def _log_result(done: AlignedFolder, folder: Path) -> None:
    sure = [one.offset for one in done.alignments.values() if one.confident]
    unsure = [name for name, one in done.alignments.items() if not one.confident]
    if sure:
        moved = 100 * float(np.median(sure))
        log.info(
            "%s aligned to %s, moved by %.1f %% of the width (median); see %s",
            counted(len(sure), "pair"), folder, moved, CSV,
        )  # fmt: skip
    warn_unsure(unsure, len(done.alignments))


def _log_next(pairs: PairSet, options: AlignOptions) -> None:
    """Log the command that fuses the aligned pairs."""
    moved_too = options.size != VISIBLE
    first = pairs.pairs[0]
    if moved_too or first.vi.stem == Path(first.name).name:  # else both folders have no equal names
        masks = None if options.masks_dir is None else options.output_dir / MASKS
        visible = options.output_dir / "vi" if moved_too else pairs.vi_dir
        folders = {"ir_dir": options.output_dir / "ir", "vi_dir": visible}
        # Colours and channels are grey values now.
        how = pairs.reading
        polarity = None if how.polarity == WHITE_HOT else how.polarity
        reading = {"ir_range": how.value_range or options.ir_range, "ir_polarity": polarity, "ir_nodata": how.nodata}
        log.info("to fuse them: %s", command_text("fuse", **folders, precomputed_masks_dir=masks, **reading))
