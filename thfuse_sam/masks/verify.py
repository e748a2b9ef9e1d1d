"""Checking a mask tree against the images that it was made for; reads everything, writes nothing, needs no SAM."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thfuse_sam.errors import ImageReadError, ManifestError, MaskReadError
from thfuse_sam.images import Modality, image_size
from thfuse_sam.masks.manifest import ForeignSources, Manifest, find_image
from thfuse_sam.masks.shards import MaskShards
from thfuse_sam.masks.store import MaskStore


@dataclass
class VerifyReport:
    """One line for each problem, by kind. `sound` counts the images with a readable mask of their own size."""

    sound: int = 0
    settings: list[str] = field(default_factory=list)  # the manifest is missing, unreadable, or has other settings
    failures: list[str] = field(default_factory=list)  # images the manifest lists as failed, still without a mask
    missing: list[str] = field(default_factory=list)  # no mask, or no instance file where one is asked for
    unreadable: list[str] = field(default_factory=list)  # masks and instance files, and images themselves
    wrong_size: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)  # masks made from another data set's image of the same name
    left_over: list[str] = field(default_factory=list)  # masks without an image
    partial: list[str] = field(default_factory=list)  # left by an interrupted run

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems()

    def problems(self) -> list[str]:
        """All lines, each with its kind in front: 'missing: ...'."""
        kinds = ("settings", "failures", "unreadable", "wrong_size", "foreign", "missing", "left_over", "partial")
        return [f"{kind.replace('_', ' ')}: {line}" for kind in kinds for line in getattr(self, kind)]


def verify_tree(
    store: MaskStore,
    images_by_modality: Mapping[Modality, Mapping[str, Path]],
    *,
    folders: Mapping[Modality, Path] | None = None,
    asked: Mapping[str, Any] | None = None,
    require_instances: bool = False,
) -> VerifyReport:
    """Read every mask of the images and compare it with its image's size; look for masks that belong to no image.

    Args:
        images_by_modality: name -> image file, of the modalities to check.
        folders: where these images lie, or patterns (see `find_image`); given, masks made from others are found.
        asked: settings that the manifest must name, such as {"model_type": "vit_b", "points_per_side": 32}.
        require_instances: whether each image needs a readable instance file too.
    """
    report = VerifyReport()
    manifest: Manifest | None = None
    try:
        manifest = Manifest.load(store.root)
    except ManifestError as error:
        report.settings.append(str(error))
    if manifest is not None:
        report.settings += manifest.signature.departures(asked or {})
    failed = {(entry.get("modality"), entry.get("name")): entry.get("reason") for entry in _failures(manifest)}
    for modality, images in images_by_modality.items():
        foreign = _foreign_sources(manifest, modality, folders)
        for name, image in images.items():
            other = foreign.find(name) if foreign is not None and store.has(modality, name) else None
            if other is not None:
                report.foreign.append(f"{store.place(modality, name)} was made from {other}, not from {image}")
                continue
            _check(report, store, modality, name, image, failed.get((modality, name)), require_instances)
        report.left_over += _left_over(store, modality, images, manifest)
    if isinstance(store, MaskShards):
        report.unreadable += store.damaged
    report.partial += [str(path) for path in store.partial_files()]
    return report


def _foreign_sources(
    manifest: Manifest | None, modality: Modality, folders: Mapping[Modality, Path] | None
) -> ForeignSources | None:
    """None where no mask can be of another data set: making them from a recorded folder has ruled that out."""
    if manifest is None or folders is None or manifest.records(modality, folders[modality]):
        return None
    return ForeignSources(manifest, modality, folders[modality])


def _check(
    report: VerifyReport,
    store: MaskStore,
    modality: Modality,
    name: str,
    image: Path,
    failed: str | None,
    require_instances: bool,
) -> None:
    place = store.place(modality, name)
    if not store.has(modality, name):
        if failed is not None:
            report.failures.append(f"{modality}/{name}: {failed}")
        else:
            report.missing.append(f"{place}, of {image}")
        return
    try:
        size, (mask_size, _) = image_size(image), store.stamp(modality, name)
        store.read(modality, name, None)
    except (ImageReadError, MaskReadError) as error:
        report.unreadable.append(str(error))
        return
    if size != mask_size:
        report.wrong_size.append(f"{place} is {mask_size}, {image} is {size} (height, width)")
        return
    if require_instances and not _check_instances(report, store, modality, name, size):
        return
    report.sound += 1


def _check_instances(
    report: VerifyReport, store: MaskStore, modality: Modality, name: str, size: tuple[int, int]
) -> bool:
    if not store.has_instances(modality, name):
        report.missing.append(store.instances_place(modality, name))
        return False
    try:
        store.read_instances(modality, name, size)
    except MaskReadError as error:
        report.unreadable.append(str(error))
        return False
    return True


def _left_over(
    store: MaskStore, modality: Modality, images: Mapping[str, Path], manifest: Manifest | None
) -> Iterator[str]:
    """Masks and instance files of no image in `images`, nor in another data set that shares the tree."""
    sources = [Path(source[modality]) for source in (manifest.sources if manifest else []) if modality in source]
    masks, instances = store.names(modality), store.instance_names(modality)
    has_mask = set(masks)
    for name in masks:
        if name not in images and not any(find_image(folder, name) for folder in sources):
            yield store.place(modality, name)
    for name in instances:
        if name not in has_mask:
            yield store.instances_place(modality, name)


def _failures(manifest: Manifest | None) -> list[dict[str, str]]:
    return manifest.failures if manifest is not None else []
