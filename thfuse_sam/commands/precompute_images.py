"""The images that a mask tree is made of, or was made of, according to `PrecomputeOptions`."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from thfuse_sam.commands.inputs import require_one_place, search_of
from thfuse_sam.datasets.pairs import ImageSet, find_both, find_images
from thfuse_sam.errors import ManifestError, counted
from thfuse_sam.images import MODALITIES, Modality
from thfuse_sam.masks.manifest import Manifest
from thfuse_sam.options.precompute import SAMPLES, PrecomputeOptions
from thfuse_sam.shipped import find_shipped

log = logging.getLogger(__name__)


def names_no_images(options: PrecomputeOptions) -> bool:
    return options.dataset_path is None and options.ir_dir is None and options.vi_dir is None


def data_sets(options: PrecomputeOptions) -> Iterator[PrecomputeOptions]:
    """The options for each data set: the one that `options` name, else the two sample sets."""
    if not names_no_images(options):
        yield options
        return
    for sample in SAMPLES:
        yield dataclasses.replace(options, dataset_path=sample)


def data_sets_of_tree(options: PrecomputeOptions) -> list[PrecomputeOptions]:
    """The options for each data set that the mask tree was made from. Raises ManifestError."""
    sets = []
    manifest = Manifest.load(options.output_dir)
    kept = manifest.signature.generator.get("ir_channel")  # with it, one folder may be both
    channel = kept if isinstance(kept, int) else options.ir_channel
    for source in manifest.sources:
        wanted = (modality for modality in MODALITIES if options.modality in (modality, "both"))
        folders = {modality: Path(source[modality]) for modality in wanted if modality in source}
        if folders:
            modality = next(iter(folders)) if len(folders) == 1 else "both"
            ir, vi = folders.get("ir"), folders.get("vi")
            sets.append(dataclasses.replace(options, modality=modality, ir_dir=ir, vi_dir=vi, ir_channel=channel))
    if not sets:
        raise ManifestError(
            f"`output_dir` {options.output_dir}: its manifest names no images; "
            "give `dataset_path`, or `ir_dir` and `vi_dir`"
        )
    return sets


def images_by_modality(options: PrecomputeOptions) -> dict[Modality, ImageSet]:
    """The images of each modality that is asked for. For `modality` ir or vi one folder is enough."""
    require_one_place(options.dataset_path, options)
    dataset_path = None if options.dataset_path is None else find_shipped(options.dataset_path)
    if options.modality == "both":
        return find_both(dataset_path, **search_of(options))
    return {options.modality: find_images(dataset_path, modality=options.modality, **search_of(options))}


def find_infrared(options: PrecomputeOptions, images: Mapping[Modality, ImageSet]) -> Mapping[str, Path]:
    """The infrared images by name, even if only visible ones are asked for; {} and a warning if none are given."""
    if "ir" in images:
        return images["ir"].images
    if options.dataset_path is None and options.ir_dir is None:
        log.warning("no prompts at warm places (`thermal_points`): they need the infrared images, give `ir_dir` too")
        return {}
    infrared = images_by_modality(dataclasses.replace(options, modality="ir"))["ir"].images
    if alone := [path for name, path in images["vi"].images.items() if name not in infrared]:
        log.warning(
            "no prompts at warm places (`thermal_points`): %s without an infrared image of the same name, such as %s",
            counted(len(alone), "visible image"),
            alone[0],
        )
    return infrared


def mention_unpaired(images: Mapping[Modality, ImageSet]) -> None:
    """Warn of images without a partner: they get masks, but no pair can use them."""
    if len(images) < len(MODALITIES):
        return
    ir, vi = images["ir"].images, images["vi"].images
    unpaired = [path for name, path in (*ir.items(), *vi.items()) if not (name in ir and name in vi)]
    if unpaired:
        log.warning(
            "images without a partner in the other modality: %d, such as %s; they get masks, but `train()` and "
            "`fuse()` refuse them without `skip_bad`",
            len(unpaired),
            unpaired[0],
        )
