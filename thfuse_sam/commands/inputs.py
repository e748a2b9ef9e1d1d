"""Finding the pairs of a command, and choosing where their masks come from."""

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from thfuse_sam.align.placement import Placer
from thfuse_sam.commands.infrared import infrared_reading, range_of_tree
from thfuse_sam.datasets.naming import Naming
from thfuse_sam.datasets.pair_checks import require_partners, suspicion
from thfuse_sam.datasets.pairs import ImagePair, PairSet, Search, find_pairs
from thfuse_sam.datasets.targets import TargetSet, read_targets
from thfuse_sam.errors import (
    ImageReadError,
    MaskReadError,
    OptionError,
    UsageError,
    command_text,
    counted,
    first_of,
    naming,
)
from thfuse_sam.fusion.fusing import require_usable
from thfuse_sam.images import image_size
from thfuse_sam.masks.manifest import MANIFEST_NAME, Manifest
from thfuse_sam.masks.source import LiveMasks, MaskSource, NoMasks, PrecomputedMasks
from thfuse_sam.masks.state import (
    ForeignSources,
    NamedImage,
    count_changed_images,
    count_missing_masks,
    size_mismatches,
)
from thfuse_sam.masks.store import has_masks
from thfuse_sam.options.fields import AUTO
from thfuse_sam.options.generator import changed_settings
from thfuse_sam.options.shared import (
    DEFAULT_MASKS_DIR,
    SWITCHED_OFF,
    TEST_SAMPLE,
    FolderOptions,
    LiveSamOptions,
    SamOptions,
    TunedSamOptions,
)
from thfuse_sam.shipped import find_shipped

if TYPE_CHECKING:  # segment_anything is imported in live mode only
    from thfuse_sam.sam.generator import AutomaticMaskGenerator
    from thfuse_sam.sam.mask_model import AnySam

log = logging.getLogger(__name__)


def pair_folder(given: Path | None, folders: FolderOptions, sample: Path) -> Path | None:
    """The folder that holds the pairs: the given one; None if `ir_dir` or `vi_dir` is given; else `sample`, and it is
    said so. Raises OptionError.
    """
    require_one_place(given, folders)
    if given is not None:
        return find_shipped(given)
    if folders.ir_dir or folders.vi_dir:
        return None
    log.info("no folder is named: these are the sample pairs in %s", sample)
    return find_shipped(sample)


def require_one_place(dataset_path: Path | None, folders: FolderOptions) -> None:
    """Raise OptionError where images are named twice, in one folder and in two."""
    if dataset_path is not None and (folders.ir_dir is not None or folders.vi_dir is not None):
        raise OptionError("dataset_path", dataset_path, "is given beside `ir_dir` or `vi_dir`; give one or the other")


def find_command_pairs(given: Path | None, options: FolderOptions, tree: Path | None = None) -> PairSet:
    """The pairs of a command in the folder `given`, else in those of `options`, else the sample; and how their infrared
    images are read, see `infrared_reading`; `tree` has their masks. Raises OptionError, PairError and ImageKindError.
    """
    found = find_folder_pairs(pair_folder(given, options, TEST_SAMPLE), options)
    kept = {f"as the masks in {tree} were made": range_of_tree(tree)}
    return found.read_as(infrared_reading(options, [pair.ir for pair in found.pairs], kept, tree))


def find_folder_pairs(folder: Path | None, options: FolderOptions) -> PairSet:
    """The pairs in `folder`, else in the folders of `options`. Raises PairError."""
    return find_pairs(folder, **search_of(options))


def search_of(options: FolderOptions) -> Search:
    """Where images are looked for besides a data set's folder, and how they become pairs."""
    return {"ir_dir": options.ir_dir, "vi_dir": options.vi_dir, **pairing(options)}


def pairing(options: FolderOptions) -> Search:
    """How files become pairs."""
    naming = None if options.pair_pattern is None else Naming(*options.pair_pattern)
    return {"naming": naming, "in_one_file": options.ir_channel is not None}


def warn_if_odd(pairs: Sequence[ImagePair]) -> None:
    """Warn if the first of `pairs` looks as if the folders were swapped, or one were a copy of the other."""
    text = suspicion(pairs[0])
    if text is not None:
        log.warning("%s", text)


def require_no_input_in(output_dir: Path, folders: Sequence[str], inputs: Iterable[Path]) -> None:
    """Raise UsageError if one of the files or folders `inputs` lies in one of `folders` below `output_dir`."""
    written = {(output_dir / name).resolve() for name in folders}
    for path in inputs:
        resolved = path.resolve()
        if not written.isdisjoint((resolved, *resolved.parents)):
            raise UsageError(f"`output_dir` {output_dir}: {path} would lie among its results; give another folder")


def warn_of_older(
    found: Iterable[Path], known: Iterable[Path], noun: str = "image", results: Iterable[Path] = ()
) -> None:
    """Warn of what an earlier run left beside the results: what is `found` there and not `known` as results or inputs
    of this run, each a `noun`; and `results` of other kinds.
    """
    own = {path.resolve() for path in known}
    others = [path for path in found if path.resolve() not in own]
    older = [*map(str, results), *([f"{counted(len(others), noun)}, such as {others[0]}"] if others else [])]
    if older:
        log.warning("not of this run, but beside it: %s", ", ".join(older))


def targets_of_pairs(path: Path, pairs: Sequence[ImagePair]) -> TargetSet:
    """The targets of `pairs`; a warning says how many labels cannot be used. Raises UsageError."""
    sizes = {}
    for pair in pairs:
        with contextlib.suppress(ImageReadError):  # it is reported when the pair is fused
            sizes[pair.name] = image_size(pair.ir)
    targets = read_targets(path, sizes)
    if targets.left_out:
        log.warning("%s: %d labels left out: %s", path, len(targets.left_out), first_of(targets.left_out, 2, "; "))
    return targets


@dataclass(frozen=True)
class MaskChoice:
    """Where masks come from. `reason` says why, for the log."""

    mode: Literal["precomputed", "live", "none"]
    reason: str
    root: Path | None = None  # the mask tree; None in the other modes
    made_by: str | None = None  # the model type that made the tree, if its manifest says so
    settings: Mapping[str, Any] = field(default_factory=dict)  # options of the tree that are not the model type's own


def choose_masks(tree: Path | None, options: LiveSamOptions) -> MaskChoice:
    """Choose the mask source without building or opening anything but the manifest of `tree`. Raises OptionError."""
    if tree is None and not options.use_sam and (DEFAULT_MASKS_DIR / MANIFEST_NAME).is_file():
        return _precomputed(DEFAULT_MASKS_DIR, "found there", options.sam_model_type)
    switched_off = tree is not None and str(tree).lower() == str(SWITCHED_OFF)
    if tree is not None and not switched_off:
        if not tree.is_dir():
            remedy = (
                f"make it of your pairs with {command_text('precompute', output_dir=tree)}, or give '{SWITCHED_OFF}'"
            )
            raise OptionError("precomputed_masks_dir", tree, f"no such folder; {remedy}")
        return _precomputed(tree, "as asked", options.sam_model_type)
    if options.use_sam:
        return MaskChoice("live", "`use_sam` without a mask tree; `precompute()` makes one, which is much faster")
    if switched_off:
        return MaskChoice("none", "switched off")
    return MaskChoice("none", f"no {DEFAULT_MASKS_DIR / MANIFEST_NAME}; `precompute()` makes masks")


def _precomputed(root: Path, reason: str, model_type: str) -> MaskChoice:
    made_by, settings = None, {}
    if (root / MANIFEST_NAME).is_file():  # the masks of another program have none
        signature = Manifest.load(root).signature
        made_by, settings = signature.model_type, changed_settings(signature.generator, signature.model_type)
        if signature.precision != "fp32":
            settings["precision"] = signature.precision
        reason += f", made by {made_by}"
        if model_type not in (AUTO, made_by):
            reason += f" although `sam_model_type` is {model_type}"
    return MaskChoice("precomputed", reason, root, made_by, settings)


def require_usable_pairs(
    pairs: PairSet, masks: MaskChoice, *, skip_bad: bool, placer: Placer | None = None
) -> dict[str, list[str]]:
    """What is wrong with the masks of pairs, by the pair's name.

    Without `skip_bad`, raises MaskReadError for the first such mask, PairError for an image without a partner, and
    ImageSizeError for a pair that cannot be fused; with a `placer` see `require_usable`.
    """
    if not skip_bad:
        require_partners(pairs)
        require_usable(pairs.pairs, placer)
    mismatches: dict[str, list[str]] = {}
    if masks.root is not None:
        mismatches = size_mismatches(_named_images(pairs.pairs), masks.root, _foreign_sources(masks.root, pairs))
    if mismatches and not skip_bad:
        raise MaskReadError(next(iter(mismatches.values()))[0])
    return mismatches


def log_mask_choice(choice: MaskChoice, pairs: PairSet) -> None:
    """Log where masks come from and how many are missing."""
    place = f" from {choice.root}" if choice.root is not None else ""
    log.info("masks: %s%s (%s)", choice.mode, place, choice.reason)
    if choice.root is None:
        return
    images = _named_images(pairs.pairs)
    missing = count_missing_masks(images, choice.root) if has_masks(choice.root) else 0
    troubles = {
        f"have no mask in {choice.root} and get no help of masks": missing,
        f"have changed since their masks in {choice.root} were made": count_changed_images(
            images, choice.root, _foreign_sources(choice.root, pairs)
        ),
    }
    made = {"output_dir": choice.root, "sam_model_type": choice.made_by, **choice.settings}
    advice = ""
    if pairs.given:
        whole = command_text("precompute", **pairs.given, **made)
        advice = f"; to make them, with the `sam_checkpoint` of the tree if it was one of your own: {whole}"
    for trouble, number in troubles.items():
        if number:
            log.warning("%d of %d images %s%s", number, len(images), trouble, advice)


def _named_images(pairs: Sequence[ImagePair]) -> list[NamedImage]:
    return [(modality, pair.name, path) for pair in pairs for modality, path in pair.images.items()]


def _foreign_sources(root: Path, pairs: PairSet) -> ForeignSources:
    return ForeignSources(Manifest.find(root), {"ir": pairs.ir_dir, "vi": pairs.vi_dir})


def build_mask_source(choice: MaskChoice, options: SamOptions, device: torch.device, pairs: PairSet) -> MaskSource:
    """The mask source of `choice` for `pairs`. SAM is imported, and its checkpoint opened, in live mode only."""
    if choice.mode == "live":
        return LiveMasks(build_generator(options, device).label_map, pairs.reading)
    if choice.root is not None:
        return PrecomputedMasks(choice.root, {"ir": pairs.ir_dir, "vi": pairs.vi_dir})
    return NoMasks()


def build_generator(options: SamOptions, device: torch.device) -> "AutomaticMaskGenerator":
    """The mask generator that `options` ask for, with its model type's settings."""
    from thfuse_sam.sam.generator import AutomaticMaskGenerator

    sam, _ = open_sam(options, device)
    return AutomaticMaskGenerator(sam)


def open_sam(options: SamOptions, device: torch.device) -> "tuple[AnySam, str]":
    """The model that `options` ask for, and its type; with TunedSamOptions it may be one that finetune.py trained."""
    from thfuse_sam.sam.checkpoints import resolve_sam, resolve_tuned
    from thfuse_sam.sam.loading import load_sam

    model_type, checkpoint = options.sam_model_type, options.sam_checkpoint
    with naming("sam_checkpoint", checkpoint):
        if isinstance(options, TunedSamOptions):
            resolved = resolve_tuned(model_type, checkpoint, base=options.base_checkpoint)
        else:
            resolved = resolve_sam(model_type, checkpoint)
        return load_sam(resolved, device), resolved.model_type
