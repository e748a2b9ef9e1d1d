import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from thfuse_sam.images import MODALITIES, Modality
from thfuse_sam.masks.manifest import Manifest, Signature
from thfuse_sam.masks.source_images import find_image
from thfuse_sam.masks.state import ForeignSources, NamedImage, size_mismatches
from thfuse_sam.masks.tree import MaskFiles

SIGNATURE = Signature("vit_b", "ab" * 32, {}, "1.0")


def image(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(path)
    return path


def test_find_image(tmp_path: Path) -> None:
    plain = image(tmp_path / "a" / "scene.v2.PNG", 1)
    nested = image(tmp_path / "kaist" / "set00" / "V000" / "lwir" / "I0.png", 1)
    assert find_image(tmp_path, "a/scene.v2") == plain
    assert find_image(tmp_path / "kaist" / "**" / "lwir", "set00/V000/I0") == nested
    assert find_image(tmp_path / "kaist" / "**" / "lwir", "set00/V001/I0") is None
    assert find_image(tmp_path, "a/scene") is None
    assert find_image(tmp_path / "gone", "a") is None
    for name in ("b.Jpg", f"{unicodedata.normalize('NFD', 'ä')}.png"):
        assert image(tmp_path / name, 1) == find_image(tmp_path, unicodedata.normalize("NFC", Path(name).stem))


def test_foreign_source(tmp_path: Path) -> None:
    first = image(tmp_path / "first" / "0001.png", 1)
    image(tmp_path / "second" / "0001.png", 2)
    image(tmp_path / "second" / "0002.png", 2)
    image(tmp_path / "copy" / "0001.png", 1)
    manifest = Manifest(SIGNATURE, sources=[{"ir": str(tmp_path / "first"), "vi": str(tmp_path / "none")}])

    def find(folder: Path, name: str, modality: Modality = "ir") -> Path | None:
        return ForeignSources(manifest, {modality: folder}).find(modality, name, folder / f"{name}.png")

    assert find(tmp_path / "second", "0001") == first
    # Ours: the same folder, the same image elsewhere, another name, a folder that is gone, another modality.
    assert find(tmp_path / "first", "0001") is None
    assert find(tmp_path / "copy", "0001") is None
    assert find(tmp_path / "second", "0002") is None
    assert find(tmp_path / "second", "0001", "vi") is None


def test_foreign_source_in_nested_folders(tmp_path: Path) -> None:
    other = image(tmp_path / "kaist" / "set00" / "lwir" / "I0.png", 1)
    own = image(tmp_path / "new" / "set00" / "I0.png", 2)
    manifest = Manifest(SIGNATURE, sources=[{"ir": str(tmp_path / "kaist" / "**" / "lwir")}])
    assert ForeignSources(manifest, {"ir": tmp_path / "new"}).find("ir", "set00/I0", own) == other
    assert ForeignSources(manifest, {"ir": tmp_path / "kaist" / "**" / "lwir"}).find("ir", "set00/I0", other) is None


def test_masks_of_another_size_are_found(make_pairs: Callable[..., Path], tmp_path: Path) -> None:
    pairs = make_pairs(("a", "b", "c"))
    tree = MaskFiles(tmp_path / "masks")
    tree.write("ir", "a", np.ones((32, 48), np.uint8))
    tree.write("vi", "b", np.ones((30, 48), np.uint8))
    tree.path("ir", "c").write_bytes(b"broken")
    images = [(modality, name, pairs / modality / f"{name}.png") for name in "abc" for modality in MODALITIES]
    found = size_mismatches(images, tmp_path / "masks", ForeignSources(None, {}))
    assert list(found) == ["b"]
    assert "48x30" in found["b"][0] and "48x32" in found["b"][0] and "delete the mask" in found["b"][0]


def test_masks_of_another_data_set_are_to_stay(make_pairs: Callable[..., Path], tmp_path: Path) -> None:
    other, own = make_pairs(("a",), size=(30, 48)), make_pairs(("a",), root=tmp_path / "own")
    MaskFiles(tmp_path / "masks").write("ir", "a", np.ones((30, 48), np.uint8))
    manifest = Manifest(SIGNATURE, sources=[{"ir": str(other / "ir")}])
    images: list[NamedImage] = [("ir", "a", own / "ir" / "a.png")]
    foreign = ForeignSources(manifest, {"ir": own / "ir"})
    ((line,),) = size_mismatches(images, tmp_path / "masks", foreign).values()
    assert "another `output_dir`" in line and "delete" not in line
