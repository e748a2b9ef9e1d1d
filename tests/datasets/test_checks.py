from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from thfuse_sam.datasets.fusion import FusionDataset, MixedPairs, mask_mismatches
from thfuse_sam.datasets.pairs import find_pairs, read_pair, require_partners, unusable_pairs
from thfuse_sam.errors import PairError
from thfuse_sam.masks.source import NoMasks
from thfuse_sam.masks.tree import MaskTree

MakePairs = Callable[..., Path]


def test_an_image_without_partner_is_named(make_pairs: MakePairs) -> None:
    root = make_pairs(("a", "b", "c"))
    require_partners(find_pairs(root))
    (root / "vi" / "b.png").unlink()
    (root / "ir" / "c.png").unlink()
    with pytest.raises(PairError, match=r"b\.png has no partner in .*vi \(and 1 more\)"):
        require_partners(find_pairs(root))


def test_broken_and_unequal_images_are_found(make_pairs: MakePairs, tmp_path: Path) -> None:
    root = make_pairs(("a", "b", "c"))
    broken = root / "ir" / "a.png"
    broken.write_bytes(broken.read_bytes()[:-60])
    larger = make_pairs(("c",), size=(40, 48), root=tmp_path / "larger")
    (larger / "vi" / "c.png").replace(root / "vi" / "c.png")
    found = unusable_pairs(find_pairs(root).pairs, read_pair)
    assert set(found) == {"a", "c"}
    assert "a.png" in found["a"] and "48x32" in found["c"]


def test_masks_of_another_size_are_found(make_pairs: MakePairs, tmp_path: Path) -> None:
    pairs = find_pairs(make_pairs(("a", "b", "c"))).pairs
    tree = MaskTree(tmp_path / "masks")
    tree.write("ir", "a", np.ones((32, 48), np.uint8))
    tree.write("vi", "b", np.ones((30, 48), np.uint8))
    tree.path("ir", "c").write_bytes(b"broken")
    found = mask_mismatches(pairs, tmp_path / "masks")
    assert list(found) == ["b"]
    assert "48x30" in found["b"][0] and "48x32" in found["b"][0] and "precompute_masks.py" in found["b"][0]


def test_several_data_sets_are_one_with_crops_of_their_own(make_pairs: MakePairs, tmp_path: Path) -> None:
    roots = [make_pairs(("x", "y"), root=tmp_path / name) for name in ("one", "two")]
    parts = {
        root.name: FusionDataset(find_pairs(root).pairs, NoMasks(), crop_size=16, augment=True, seed=index)
        for index, root in enumerate(roots)
    }
    mixed = MixedPairs(parts)
    assert [mixed[index]["name"] for index in range(len(mixed))] == ["one/x", "one/y", "two/x", "two/y"]
    before = mixed[0]["ir"], mixed[2]["ir"]
    assert not before[0].equal(before[1])  # the same image, another crop
    mixed.set_epoch(1)
    assert not mixed[0]["ir"].equal(before[0]) or not mixed[2]["ir"].equal(before[1])
