"""Checking a mask tree against the images that it was made of, according to `PrecomputeOptions`."""

from collections.abc import Mapping
from typing import Any

from thfuse_sam.commands.infrared import reading_of
from thfuse_sam.commands.precompute_images import data_sets_of_tree, images_by_modality, names_no_images
from thfuse_sam.errors import UsageError
from thfuse_sam.masks.store import open_masks
from thfuse_sam.masks.verify import VerifyReport, verify_tree
from thfuse_sam.options.fields import AUTO
from thfuse_sam.options.generator import as_signed
from thfuse_sam.options.precompute import PrecomputeOptions
from thfuse_sam.sam.checkpoints import checkpoint_sha256


def verify_masks(options: PrecomputeOptions) -> list[VerifyReport]:
    """Compare a mask tree with the images of `options`, or, if they name none, with those of each data set in it.

    Raises PairError, and ManifestError if neither the options nor the manifest name images.
    """
    if options.shard is not None:
        raise UsageError("`verify` looks at the whole tree; leave `shard` out")
    asked = {**as_signed(options.changed_settings()), **reading_of(options).settings()}
    asked.pop("points_per_batch", None)
    for name in ("precision", "thermal_points"):
        if asked.get(name) == AUTO:
            del asked[name]
    if options.sam_model_type != AUTO:
        asked["model_type"] = options.sam_model_type
    if options.sam_checkpoint is not None:
        asked["checkpoint_sha256"] = checkpoint_sha256(options.sam_checkpoint)
    return [_verify(one, asked) for one in (data_sets_of_tree(options) if names_no_images(options) else [options])]


def _verify(options: PrecomputeOptions, asked: Mapping[str, Any]) -> VerifyReport:
    images = images_by_modality(options)
    return verify_tree(
        open_masks(options.output_dir),
        {modality: found.images for modality, found in images.items()},
        folders={modality: found.folder for modality, found in images.items()},
        asked=asked,
        require_instances=options.save_instances,
    )
