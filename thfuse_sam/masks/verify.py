"""Checking a mask tree against the images that it was made for; reads everything, writes nothing, needs no SAM."""

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from thfuse_sam.errors import ImageReadError, ManifestError, MaskReadError
from thfuse_sam.images import Modality
from thfuse_sam.masks.image_records import ImageRecords
from thfuse_sam.masks.manifest import Manifest
from thfuse_sam.masks.shards import MaskShards
from thfuse_sam.masks.source_images import find_image
from thfuse_sam.masks.state import ForeignSources, changed_image, size_mismatch
from thfuse_sam.masks.store import MaskStore
from thfuse_sam.masks.tree import INSTANCES_SUFFIX, partial_files

Kind = Literal[
    "settings",  # the manifest is missing, unreadable, or has other settings
    "failures",  # images that the manifest lists as failed and that still have no mask
    "unreadable",  # masks, instance files or images that cannot be read
    "wrong size",
    "changed",  # masks whose images have another content now
    "foreign",  # masks made from another data set's image of the same name
    "missing",  # no mask, or no instance file where one is asked for
    "left over",  # masks without an image, instance files without a mask
    "partial",  # files that an interrupted run left half written
]


@dataclass
class VerifyReport:
    """What is wrong with a tree."""

    root: Path
    images: int  # that were asked for
    sound: int = 0  # of these, with a readable mask of their own size
    lines: dict[Kind, list[str]] = field(default_factory=lambda: defaultdict(list))  # one line for each problem

    def problems(self) -> list[str]:
        """All lines, each with its kind in front: 'missing: ...'."""
        return [f"{kind}: {line}" for kind in get_args(Kind) for line in self.lines[kind]]


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
        folders: the folder (or pattern, see `find_image`) of the images of each modality; None: masks that were made
            from other images are not looked for.
        asked: settings that the manifest must name, such as {"model_type": "vit_b", "points_per_side": 32}.
        require_instances: whether each image needs a readable instance file too.
    """
    report = VerifyReport(store.root, sum(map(len, images_by_modality.values())))
    manifest: Manifest | None = None
    records = ImageRecords()
    try:
        manifest = Manifest.load(store.root)
        report.lines["settings"] += manifest.signature.differences(asked or {})
        records = ImageRecords.load(store.root)
    except ManifestError as error:
        report.lines["settings"].append(str(error))
    foreign = ForeignSources(manifest, folders or {})
    checks = _Checks(store, manifest, records, foreign, images_by_modality.get("ir", {}), require_instances)
    for modality, images in images_by_modality.items():
        for name, image in images.items():
            problem = checks.find_problem(modality, name, image)
            if problem is None:
                report.sound += 1
            else:
                report.lines[problem[0]].append(problem[1])
        report.lines["left over"] += _left_over(store, modality, images, manifest)
    if isinstance(store, MaskShards):
        report.lines["unreadable"] += store.damaged
    report.lines["partial"] += [str(path) for path in partial_files(store.root)]
    return report


@dataclass(frozen=True)
class _Checks:
    """The checks of the mask of one image."""

    store: MaskStore
    manifest: Manifest | None
    records: ImageRecords
    foreign: ForeignSources
    infrared: Mapping[str, Path]  # infrared images by name
    require_instances: bool

    @functools.cached_property
    def failure_reasons(self) -> Mapping[tuple[str, str], str]:
        return self.manifest.failure_reasons() if self.manifest is not None else {}

    def find_problem(self, modality: Modality, name: str, image: Path) -> tuple[Kind, str] | None:
        """The first problem of the mask and its line in the report; None if the mask is sound."""
        store, location = self.store, self.store.location(modality, name)
        if not store.has(modality, name):
            reason = self.failure_reasons.get((modality, name))
            if reason is not None:
                return "failures", f"{modality}/{name}: {reason}"
            return "missing", f"{location}, of {image}"
        other = self.foreign.find(modality, name, image)
        if other is not None:
            return "foreign", f"{location} was made from {other}, not from {image}"
        try:
            height, width = store.read(modality, name, None).shape
            mismatch = size_mismatch(store, modality, name, image)
            if mismatch is not None:
                return "wrong size", mismatch
            if self.require_instances:
                if not store.has(modality, name, INSTANCES_SUFFIX):
                    return "missing", store.location(modality, name, INSTANCES_SUFFIX)
                store.read_instances(modality, name, (height, width))
            infrared = self.infrared.get(name) if self._depends_on_infrared(modality, name) else None
            if changed := changed_image(self.records, modality, name, image, infrared):
                return "changed", f"{location}: {changed} has changed since"
        except (ImageReadError, MaskReadError) as error:
            return "unreadable", str(error)
        return None

    def _depends_on_infrared(self, modality: Modality, name: str) -> bool:
        """Whether a mask depends on the infrared image of the scene besides its own, as far as anybody knows."""
        known, manifest = self.records.get(modality, name), self.manifest
        uses_it = manifest is not None and bool(manifest.signature.generator.get("thermal_points"))
        return modality == "vi" and (uses_it or (known is not None and known.infrared is not None))


def _left_over(
    store: MaskStore, modality: Modality, images: Mapping[str, Path], manifest: Manifest | None
) -> Iterator[str]:
    """Masks without an image in `images` or in another data set of the tree, and instance files without a mask."""
    folders = manifest.folders(modality) if manifest is not None else []
    masks = set(store.names(modality))
    for name in sorted(masks - set(images)):
        if not any(find_image(folder, name) for folder in folders):
            yield store.location(modality, name)
    for name in sorted(set(store.names(modality, INSTANCES_SUFFIX)) - masks):
        yield store.location(modality, name, INSTANCES_SUFFIX)
