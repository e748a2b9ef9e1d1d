import logging
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.masks.file_times import wait_for_another_time
from thfuse_sam.errors import ImageReadError, ManifestError, UsageError
from thfuse_sam.images import MODALITIES, Modality, image_size, read_for_sam
from thfuse_sam.masks.image_records import ImageRecords, record_image
from thfuse_sam.masks.manifest import Manifest, Signature
from thfuse_sam.masks.source import LiveMasks, NoMasks, PrecomputedMasks
from thfuse_sam.masks.tree import MaskFiles

SIGNATURE = Signature("fake", "00", {}, "1.0")


def fake_label_map(image: np.ndarray, infrared: np.ndarray | None = None) -> np.ndarray:
    """Bands of brightness, each channel weighing differently: another picture gives another map."""
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    return (image @ np.array([3, 5, 7]) // 100 % 40).astype(np.uint8)


def write_images(root: Path) -> dict[Modality, dict[str, Path]]:
    """A plain pair, and a 16-bit infrared image with a visible one that EXIF turns by a quarter."""
    random = np.random.default_rng(0)
    folders = {modality: root / modality for modality in MODALITIES}
    for folder in folders.values():
        folder.mkdir(parents=True)
    Image.fromarray(random.integers(0, 256, (20, 30), dtype=np.uint8)).save(folders["ir"] / "plain.png")
    Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folders["vi"] / "plain.png")
    Image.fromarray(random.integers(7000, 9000, (20, 30)).astype(np.uint16)).save(folders["ir"] / "deep.png")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(random.integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(folders["vi"] / "deep.jpg", exif=exif)
    return {modality: {path.stem: path for path in folder.iterdir()} for modality, folder in folders.items()}


def precompute(images: dict[Modality, dict[str, Path]], tree: MaskFiles) -> None:
    for modality, files in images.items():
        for name, path in files.items():
            tree.write(modality, name, fake_label_map(read_for_sam(path, modality)))


def test_live_and_precomputed_masks_are_equal_byte_for_byte(tmp_path: Path) -> None:
    images = write_images(tmp_path)
    ahead = MaskFiles(tmp_path / "ahead")
    precompute(images, ahead)
    precomputed = PrecomputedMasks(ahead.root, {modality: tmp_path / modality for modality in MODALITIES})
    live = LiveMasks(fake_label_map)
    for modality, files in images.items():
        for name, path in files.items():
            shape = image_size(path)
            assert shape == (20, 30)
            expected = precomputed.get(modality, name, path, shape)
            assert expected is not None and len(np.unique(expected)) > 5
            mask = live.get(modality, name, path, shape)
            assert mask.dtype == expected.dtype and mask.tobytes() == expected.tobytes()


def test_live_masks_of_an_unreadable_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ImageReadError):
        LiveMasks(fake_label_map).get("ir", "a", tmp_path / "a.png", (4, 4))


def test_live_masks_of_a_wrong_shape_are_refused(tmp_path: Path) -> None:
    path = write_images(tmp_path)["ir"]["plain"]
    with pytest.raises(ValueError, match="the generator made a label map of"):
        LiveMasks(lambda image, infrared: np.zeros((1, 1), np.uint8)).get("ir", "plain", path, (20, 30))


def test_missing_and_broken_masks_give_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = write_images(tmp_path)
    tree = MaskFiles(tmp_path / "tree")
    precompute(images, tree)
    tree.path("ir", "deep").unlink()
    tree.path("vi", "deep").write_bytes(b"broken")
    source = PrecomputedMasks(tree.root, {})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for modality, files in images.items():
                for name, path in files.items():
                    mask = source.get(modality, name, path, (20, 30))
                    assert (mask is None) == (name == "deep")
    # Once, not once an epoch.
    assert [str(tree.path("vi", "deep")) in record.message for record in caplog.records] == [True]


def test_mask_of_another_size_is_broken(tmp_path: Path) -> None:
    images = write_images(tmp_path)
    tree = MaskFiles(tmp_path / "tree")
    tree.write("ir", "plain", np.ones((30, 20), np.uint8))
    source = PrecomputedMasks(tree.root, {})
    assert source.get("ir", "plain", images["ir"]["plain"], (20, 30)) is None


def test_masks_of_changed_images_are_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = write_images(tmp_path)
    tree = MaskFiles(tmp_path / "tree")
    precompute(images, tree)
    records = ImageRecords()
    for name in ("plain", "deep"):
        records.set("ir", name, record_image(images["ir"][name]))
    records.save(tree.root)
    changed, touched = images["ir"]["plain"], images["ir"]["deep"]
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1  # as many bytes as before
    wait_for_another_time(changed)
    changed.write_bytes(content)
    touched.touch()
    source = PrecomputedMasks(tree.root, {})
    assert source.get("ir", "plain", changed, (20, 30)) is None and str(changed) in caplog.text
    assert source.get("ir", "deep", touched, (20, 30)) is not None


def test_masks_of_another_data_set_are_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = write_images(tmp_path / "own")
    write_images(tmp_path / "copy")
    other = write_images(tmp_path / "other")
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(other["ir"]["plain"])
    tree = MaskFiles(tmp_path / "tree")
    precompute(own, tree)
    folders = {modality: str(tmp_path / "own" / modality) for modality in MODALITIES}
    Manifest(SIGNATURE, sources=[folders]).save(tree.root)

    def found(root: Path, name: str) -> bool:
        source = PrecomputedMasks(tree.root, {modality: root / modality for modality in MODALITIES})
        results = [source.get("ir", name, root / "ir" / f"{name}.png", (20, 30)) for _ in range(2)]
        assert (results[0] is None) == (results[1] is None)
        return results[0] is not None

    assert found(tmp_path / "own", "plain")
    assert found(tmp_path / "copy", "plain")
    with caplog.at_level(logging.WARNING):
        assert not found(tmp_path / "other", "plain")
    assert str(own["ir"]["plain"]) in caplog.text and str(other["ir"]["plain"]) in caplog.text
    assert found(tmp_path / "other", "deep")  # the same image


@pytest.mark.parametrize("exists", [False, True])
def test_folder_without_masks(tmp_path: Path, exists: bool) -> None:
    root = tmp_path / "tree"
    if exists:
        root.mkdir()
    with pytest.raises(UsageError, match=r"`precomputed_masks_dir` .*run `precompute\(\)` first"):
        PrecomputedMasks(root, {})


def test_unreadable_manifest(tmp_path: Path) -> None:
    MaskFiles(tmp_path).write("ir", "a", np.ones((2, 2), np.uint8))
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(ManifestError):
        PrecomputedMasks(tmp_path, {})


def test_no_masks() -> None:
    source = NoMasks()
    assert source.get("ir", "a", Path("a.png"), (2, 2)) is None


def test_sources_can_be_pickled(tmp_path: Path) -> None:
    MaskFiles(tmp_path).write("ir", "a", np.ones((2, 2), np.uint8))
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    for source in (NoMasks(), PrecomputedMasks(tmp_path, {}), LiveMasks(fake_label_map)):
        copy = pickle.loads(pickle.dumps(source))  # noqa: S301
        assert (copy.get("ir", "a", tmp_path / "a.png", (2, 2)) is None) == isinstance(source, NoMasks)


def test_masks_made_ahead_never_load_sam() -> None:
    code = (
        "import sys, thfuse_sam.masks.source, thfuse_sam.masks.verify;"
        "assert not [m for m in sys.modules if m.startswith(('segment_anything', 'thfuse_sam.sam', 'torch'))]"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
