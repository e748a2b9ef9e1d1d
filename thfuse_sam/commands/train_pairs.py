"""The pairs with their masks that a fusion network is trained and validated on, according to `TrainOptions`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from thfuse_sam.commands.infrared import Range, infrared_readings, range_of_tree, reading_of
from thfuse_sam.commands.inputs import (
    MaskChoice,
    build_mask_source,
    choose_masks,
    find_folder_pairs,
    pair_folder,
    pairing,
    require_usable_pairs,
)
from thfuse_sam.datasets.fusion import FusionDataset, MixedPairs
from thfuse_sam.datasets.pair_checks import read_pair, unusable_pairs
from thfuse_sam.datasets.pairs import ImagePair, PairSet, find_pairs
from thfuse_sam.datasets.splits import split_pairs, training_part
from thfuse_sam.errors import OptionError, PairError, UsageError, counted, naming
from thfuse_sam.masks.source import MaskSource
from thfuse_sam.options.shared import TRAIN_SAMPLE
from thfuse_sam.options.train import TrainOptions
from thfuse_sam.shipped import find_shipped
from thfuse_sam.thermal import InfraredReading

log = logging.getLogger(__name__)

_SEED_STEP = 1_000_003  # difference between the seeds of two parts; with equal seeds they would draw equal crops


@dataclass(frozen=True)
class PairFolder:
    """Pairs of one folder, and where their masks come from."""

    name: str  # prefix of its samples' names if there are several parts
    found: PairSet
    masks: MaskChoice

    @property
    def pairs(self) -> list[ImagePair]:
        return self.found.pairs

    def of(self, pairs: list[ImagePair]) -> "PairFolder":
        """Some of the pairs alone."""
        return replace(self, found=replace(self.found, pairs=pairs))


_Split = tuple[PairFolder, list[ImagePair], list[ImagePair]]  # a part, its pairs for training and for validation


@dataclass(frozen=True)
class TrainPairs:
    """The pairs of a training, split into those for training and those for validation."""

    parts: list[PairFolder]  # before the split; with that of `val_dataset_path`
    train: list[PairFolder]
    val: list[PairFolder]
    skipped: dict[str, str] = field(default_factory=dict)  # what cannot be used -> why

    @property
    def counts(self) -> str:
        """How many pairs there are, as a text for messages."""
        train, val = (sum(len(part.pairs) for part in parts) for parts in (self.train, self.val))
        return f"{counted(train, 'pair')} to train on, {val} to validate on"

    @property
    def mask_modes(self) -> list[str]:
        return sorted({part.masks.mode for part in self.parts})


def find_train_pairs(options: TrainOptions, kept: Mapping[str, Range | None] | None = None) -> TrainPairs:
    """Find the pairs, check them, and hold some out for validation. `kept` see `infrared_reading`.

    Raises ThFuseError.
    """
    if options.val_dataset_path is None and options.val_precomputed_masks_dir is not None:
        reason = "is for the pairs of `val_dataset_path`; give `val_dataset_path`, or leave it out"
        raise OptionError("val_precomputed_masks_dir", options.val_precomputed_masks_dir, reason)
    skipped: dict[str, str] = {}
    parts = _once(_parts(options, kept or {}, skipped))
    fraction = options.val_fraction if options.val_dataset_path is None else 0.0
    splits = [(part, *split_pairs(part.pairs, fraction, options.seed)) for part in parts]
    val = [part.of(held_out) for part, _, held_out in splits if held_out]
    if options.val_dataset_path is not None:
        with naming("val_dataset_path", options.val_dataset_path, instead_of="dataset_path"):
            found = find_pairs(find_shipped(options.val_dataset_path), **pairing(options))
        tree = options.val_precomputed_masks_dir
        with naming("val_precomputed_masks_dir", tree, instead_of="precomputed_masks_dir"):
            masks = parts[0].masks if tree is None else choose_masks(tree, options)
        reading = replace(reading_of(options, masks.root), value_range=parts[0].found.reading.value_range)
        val = [_part("val", found, masks, reading, options, skipped)]
        splits = _without(splits, val[0].pairs)
        parts += val
    return TrainPairs(parts, [part.of(train) for part, train, _ in splits], val, skipped)


def _without(splits: list[_Split], val: Sequence[ImagePair]) -> list[_Split]:
    """`splits` whose pairs for training are none of `val`, unless all of them are. A warning tells it."""
    known = {pair.vi.resolve() for pair in val}
    rest = [(part, [pair for pair in train if pair.vi.resolve() not in known], own) for part, train, own in splits]
    before, after = (sum(len(train) for _, train, _ in each) for each in (splits, rest))
    if before == after:
        return splits
    what = "left out of training" if after else "trained on, so the validation says nothing of others"
    log.warning("%d pairs for training are those for validation, too, and are %s", before - after, what)
    return rest if after else splits


def _once(parts: list[PairFolder]) -> list[PairFolder]:
    """`parts` without pairs that an earlier part holds, which would be held out there and trained on here. A warning
    tells it.
    """
    if len(parts) == 1:
        return parts
    known: set[tuple[Path, ...]] = set()
    rest = []
    for part in parts:
        files = [tuple(path.resolve() for path in pair.images.values()) for pair in part.pairs]
        rest.append(part.of([pair for pair, own in zip(part.pairs, files, strict=True) if own not in known]))
        known.update(files)
    if twice := sum(len(part.pairs) for part in parts) - sum(len(part.pairs) for part in rest):
        log.warning("%s in more than one `dataset_path`: taken once, from the first", counted(twice, "pair"))
    return [part for part in rest if part.pairs]


def _parts(options: TrainOptions, kept: Mapping[str, Range | None], skipped: dict[str, str]) -> list[PairFolder]:
    """The checked pairs of each folder; with `skip_bad`, what cannot be used goes into `skipped`."""
    paths: Sequence[Path | None] = options.dataset_path or [None]
    trees: Sequence[Path | None] = options.precomputed_masks_dir or [None]
    if len(trees) not in (1, len(paths)):
        raise UsageError(
            f"`precomputed_masks_dir` names {len(trees)} trees for {len(paths)} `dataset_path`; "
            "give one for all, or one for each in the same order"
        )
    names = [path.resolve().name if path is not None else "" for path in paths]
    folders = []
    for index, path in enumerate(paths):
        found, left_out = training_part(find_folder_pairs(pair_folder(path, options, TRAIN_SAMPLE), options))
        if left_out:
            place = next(iter(found.given.values()))
            log.warning("%s: pairs of %s/ are for tests, and are left out", place, "/, ".join(left_out))
        name = names[index] if names.count(names[index]) == 1 else f"{names[index]}_{index + 1}"
        folders.append((name, found, choose_masks(trees[index if len(trees) > 1 else 0], options)))
    # One range for all, so that equal numbers are equal grey values.
    images = [([pair.ir for pair in found.pairs], masks.root) for _, found, masks in folders]
    of_trees = {f"as the masks in {masks.root} were made": range_of_tree(masks.root) for *_, masks in folders}
    readings = infrared_readings(options, images, {**kept, **of_trees})
    return [_part(*values, how, options, skipped) for values, how in zip(folders, readings, strict=True)]


def _part(
    name: str,
    found: PairSet,
    masks: MaskChoice,
    reading: InfraredReading,
    options: TrainOptions,
    skipped: dict[str, str],
) -> PairFolder:
    """The pairs of a folder, read as `reading` says.

    Without `skip_bad`, raises ThFuseError unless all can be used.
    """
    found = found.read_as(reading)
    mismatches = require_usable_pairs(found, masks, skip_bad=options.skip_bad)
    bad = unusable_pairs(found.pairs, read_pair) if options.skip_bad else {}
    pairs = [pair for pair in found.pairs if pair.name not in bad]
    if not pairs:
        raise PairError(f"no pair of {found.ir_dir} and {found.vi_dir} can be used, such as {next(iter(bad.values()))}")
    if options.skip_bad:
        skipped |= {str(path): "no partner" for path in found.unpaired}
        skipped |= bad
        skipped |= {f"the mask of {pair}": "; ".join(lines) for pair, lines in mismatches.items()}
    return PairFolder(name, replace(found, pairs=pairs), masks)


class MaskSources:
    """The mask sources of the parts. If masks are made live, one SAM serves all parts."""

    def __init__(self, options: TrainOptions, device: torch.device) -> None:
        self._options, self._device = options, device
        self._sources: dict[object, MaskSource] = {}

    def of(self, part: PairFolder) -> MaskSource:
        # The source of a mask tree also depends on the folders of the images, which it compares with the manifest.
        key = "live" if part.masks.mode == "live" else (part.masks.root, part.found.ir_dir, part.found.vi_dir)
        if key not in self._sources:
            self._sources[key] = build_mask_source(part.masks, self._options, self._device, part.found)
        return self._sources[key]


def fusion_dataset(
    parts: Sequence[PairFolder],
    sources: MaskSources,
    *,
    crop_size: int,
    augment: bool = False,
    seed: int = 0,
    jitter: float = 0.0,
) -> FusionDataset | MixedPairs:
    """One data set with the pairs of all parts."""
    datasets = {
        part.name: FusionDataset(
            part.pairs,
            sources.of(part),
            crop_size=crop_size,
            augment=augment,
            seed=seed + _SEED_STEP * index,
            jitter=jitter,
        )
        for index, part in enumerate(parts)
    }
    return MixedPairs(datasets) if len(datasets) > 1 else next(iter(datasets.values()))
