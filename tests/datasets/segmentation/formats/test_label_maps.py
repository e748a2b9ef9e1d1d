"""Label maps as files: beside images, and in the tree of precompute_masks.py."""

from pathlib import Path

import numpy as np
import pytest

from thfuse_sam.datasets.segmentation import open_segmentation_dataset
from thfuse_sam.errors import SampleError
from thfuse_sam.images import read_for_sam, write_numbers
from thfuse_sam.masks.format import write_mask
from thfuse_sam.masks.manifest import Manifest, Signature
from thfuse_sam.masks.shards import ShardWriter
from thfuse_sam.masks.tree import MaskFiles
from thfuse_sam.thermal import InfraredReading

from ..conftest import box_mask, picture, save


def test_maps_beside_images(tmp_path: Path) -> None:
    for name in ("a", "b/c"):
        save(tmp_path / f"images/{name}.jpg", picture())
        write_mask(tmp_path / f"masks/{name}.npy", box_mask(value=2))
    dataset = open_segmentation_dataset(tmp_path)
    assert dataset.names == ["a", "b/c"]
    assert dataset[1].object_ids == (2,) and dataset[1].labels.dtype == np.int32


def test_bad_maps_are_named(tmp_path: Path) -> None:
    for name in ("good", "empty", "small", "pickled", "no_mask"):
        save(tmp_path / f"images/{name}.png", picture())
        write_mask(tmp_path / f"masks/{name}.npy", box_mask(value=1))
    write_mask(tmp_path / "masks/empty.npy", box_mask(value=0))
    write_mask(tmp_path / "masks/small.npy", box_mask()[1:])
    np.save(tmp_path / "masks/pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "masks/no_mask.npy").rename(tmp_path / "masks/no_image.npy")
    with pytest.raises(SampleError, match="5 of 6 bad"):
        open_segmentation_dataset(tmp_path)
    assert open_segmentation_dataset(tmp_path, skip_bad=True).names == ["good"]


def test_a_tree_in_shards_and_its_way_of_reading(tmp_path: Path) -> None:
    root, image = tmp_path / "tree", tmp_path / "data/ir/a.png"
    write_numbers(image, np.linspace(1000, 9000, 40 * 60).reshape(40, 60).astype(np.uint16))
    how = InfraredReading(value_range=(500, 8000), polarity="black-hot")
    writer = ShardWriter(root)
    writer.write("ir", "a", np.ones((40, 60), np.uint8))
    writer.close()
    Manifest(Signature("vit_nano", "0" * 64, how.settings(), "0"), sources=[{"ir": str(image.parent)}]).save(root)
    dataset = open_segmentation_dataset(root)
    assert dataset.names == ["ir/a"] and np.array_equal(dataset[0].image, read_for_sam(image, "ir", how))


def test_a_precomputed_tree_knows_its_images(tmp_path: Path) -> None:
    save(tmp_path / "data/ir/a.png", picture()[..., 0])
    save(tmp_path / "data/vi/a.png", picture(1))
    root = tmp_path / "tree"
    tree = MaskFiles(root)
    for modality in ("ir", "vi"):
        write_mask(tree.path(modality, "a"), box_mask(value=1))  # type: ignore[arg-type]
    signature = Signature("vit_nano", "0" * 64, {}, "0")
    sources = [{modality: str(tmp_path / "data" / modality) for modality in ("ir", "vi")}]
    Manifest(signature, sources=sources).save(root)
    dataset = open_segmentation_dataset(root)
    assert dataset.names == ["ir/a", "vi/a"]
    assert np.array_equal(dataset[0].image, read_for_sam(tmp_path / "data/ir/a.png", "ir"))
    write_mask(tree.path("vi", "gone"), box_mask(value=1))
    with pytest.raises(SampleError, match=r"gone\.npy: its image is in none of the folders"):
        open_segmentation_dataset(root)
