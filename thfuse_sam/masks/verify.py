"""Checking a mask tree against the images that it was made for; reads everything, writes nothing, needs no SAM."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thfuse_sam.errors import ImageReadError, ManifestError, MaskReadError
from thfuse_sam.images import Modality, image_size
from thfuse_sam.masks.format import mask_shape
from thfuse_sam.masks.instances import read_instances
from thfuse_sam.masks.manifest import Manifest, find_image
from thfuse_sam.masks.tree import MaskTree


@dataclass
class VerifyReport:
    """One line for each problem, by kind. `sound` counts the images with a readable mask of their own size."""

    sound: int = 0
    settings: list[str] = field(default_factory=list)  # the manifest is missing, unreadable, or has other settings
    failures: list[str] = field(default_factory=list)  # images the manifest lists as failed, still without a mask
    missing: list[str] = field(default_factory=list)  # no mask, or no instance file where one is asked for
    unreadable: list[str] = field(default_factory=list)  # masks and instance files, and images themselves
    wrong_size: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)  # masks without an image
    partial: list[str] = field(default_factory=list)  # left by an interrupted run

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems()

    def problems(self) -> list[str]:
        """All lines, each with its kind in front: 'missing: ...'."""
        kinds = ("settings", "failures", "unreadable", "wrong_size", "missing", "left_over", "partial")
        return [f"{kind.replace('_', ' ')}: {line}" for kind in kinds for line in getattr(self, kind)]


def verify_tree(
    tree: MaskTree,
    images_by_modality: Mapping[Modality, Mapping[str, Path]],
    *,
    asked: Mapping[str, Any] | None = None,
    require_instances: bool = False,
) -> VerifyReport:
    """Read every mask of the images and compare it with its image's size; look for masks that belong to no image.

    Args:
        images_by_modality: name -> image file, of the modalities to check.
        asked: settings that the manifest must name, such as {"model_type": "vit_b", "points_per_side": 32}.
        require_instances: whether each image needs a readable instance file too.
    """
    report = VerifyReport()
    manifest: Manifest | None = None
    try:
        manifest = Manifest.load(tree.root)
    except ManifestError as error:
        report.settings.append(str(error))
    if manifest is not None:
        report.settings += manifest.signature.departures(asked or {})
    failed = {(entry.get("modality"), entry.get("name")): entry.get("reason") for entry in _failures(manifest)}
    for modality, images in images_by_modality.items():
        for name, image in images.items():
            _check(report, tree, modality, name, image, failed.get((modality, name)), require_instances)
        report.left_over += _left_over(tree, modality, images, manifest)
    report.partial += [str(path) for path in tree.partial_files()]
    return report


def _check(
    report: VerifyReport,
    tree: MaskTree,
    modality: Modality,
    name: str,
    image: Path,
    failed: str | None,
    require_instances: bool,
) -> None:
    path = tree.path(modality, name)
    if not path.is_file():
        if failed is not None:
            report.failures.append(f"{modality}/{name}: {failed}")
        else:
            report.missing.append(f"{path}, of {image}")
        return
    try:
        size, mask_size = image_size(image), mask_shape(path)
        tree.read(modality, name, None)
    except (ImageReadError, MaskReadError) as error:
        report.unreadable.append(str(error))
        return
    if size != mask_size:
        report.wrong_size.append(f"{path} is {mask_size}, {image} is {size} (height, width)")
        return
    if require_instances and not _check_instances(report, tree.instances_path(modality, name), size):
        return
    report.sound += 1


def _check_instances(report: VerifyReport, path: Path, size: tuple[int, int]) -> bool:
    if not path.is_file():
        report.missing.append(str(path))
        return False
    try:
        read_instances(path, size)
    except MaskReadError as error:
        report.unreadable.append(str(error))
        return False
    return True


def _left_over(
    tree: MaskTree, modality: Modality, images: Mapping[str, Path], manifest: Manifest | None
) -> Iterator[str]:
    """Masks and instance files of no image in `images`, nor in another data set that shares the tree."""
    sources = [Path(source[modality]) for source in (manifest.sources if manifest else []) if modality in source]
    masks, instances = tree.names(modality), tree.instance_names(modality)
    has_mask = set(masks)
    for name in masks:
        if name not in images and not any(find_image(folder, name) for folder in sources):
            yield str(tree.path(modality, name))
    for name in instances:
        if name not in has_mask:
            yield str(tree.instances_path(modality, name))


def _failures(manifest: Manifest | None) -> list[dict[str, str]]:
    return manifest.failures if manifest is not None else []
