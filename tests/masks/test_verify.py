from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from thfuse_sam.images import MODALITIES, Modality
from thfuse_sam.masks.instances import encode_instances
from thfuse_sam.masks.manifest import Manifest, Signature
from thfuse_sam.masks.tree import INSTANCES_SUFFIX, MaskFiles
from thfuse_sam.masks.verify import Kind, VerifyReport, verify_tree

SHAPE = (16, 24)
SIGNATURE = Signature("vit_b", "00", {"points_per_side": 32}, "1.0")


@dataclass
class Case:
    tree: MaskFiles
    images: dict[Modality, dict[str, Path]]
    manifest: Manifest

    def verify(self, **options: object) -> VerifyReport:
        return verify_tree(self.tree, self.images, **options)  # type: ignore[arg-type]


@pytest.fixture
def case(tmp_path: Path, make_pairs: Callable[..., Path]) -> Case:
    """A sound tree of two pairs."""
    root = make_pairs(("a/0001", "0002"), size=SHAPE)
    images: dict[Modality, dict[str, Path]] = {
        modality: {name: root / modality / f"{name}.png" for name in ("0002", "a/0001")} for modality in MODALITIES
    }
    tree = MaskFiles(tmp_path / "tree")
    for modality in MODALITIES:
        for name in images[modality]:
            tree.write(modality, name, np.ones(SHAPE, np.uint8))
    manifest = Manifest(SIGNATURE, sources=[{modality: str(root / modality) for modality in MODALITIES}])
    manifest.save(tree.root)
    return Case(tree, images, manifest)


def only(report: VerifyReport, kind: Kind) -> str:
    """The one line of `kind`, when nothing else was found."""
    assert len(report.problems()) == len(report.lines[kind]) == 1, report
    return str(report.problems()[0])


def test_sound_tree(case: Case) -> None:
    report = case.verify(asked={"model_type": "vit_b", "points_per_side": 32})
    assert report.sound == 4 and report.problems() == []


def test_masks_of_other_images_of_the_same_names(case: Case, tmp_path: Path, make_pairs: Callable[..., Path]) -> None:
    own = {modality: tmp_path / "pairs" / modality for modality in MODALITIES}
    assert case.verify(folders=own).problems() == []
    other = make_pairs(("a/0001", "0002"), size=SHAPE, root=tmp_path / "other")
    path = other / "ir" / "0002.png"
    path.write_bytes((other / "vi" / "0002.png").read_bytes())
    images = {
        modality: {name: other / modality / f"{name}.png" for name in ("0002", "a/0001")} for modality in MODALITIES
    }
    report = verify_tree(case.tree, images, folders={modality: other / modality for modality in MODALITIES})
    line = only(report, "foreign")  # the others are copies
    assert f"was made from {own['ir'] / '0002.png'}, not from {path}" in line


def test_missing(case: Case) -> None:
    path = case.tree.path("ir", "a/0001")
    path.unlink()
    report = case.verify()
    assert str(path) in only(report, "missing")
    assert report.sound == 3


def test_failure_in_the_manifest_is_told_with_its_reason(case: Case) -> None:
    case.tree.path("ir", "0002").unlink()
    case.manifest.failures.append({"modality": "ir", "name": "0002", "path": "x", "reason": "truncated image"})
    case.manifest.save(case.tree.root)
    assert only(case.verify(), "failures") == "failures: ir/0002: truncated image"


@pytest.mark.parametrize("content", [b"", b"broken"])
def test_unreadable_mask(case: Case, content: bytes) -> None:
    case.tree.path("vi", "0002").write_bytes(content)
    assert str(case.tree.path("vi", "0002")) in only(case.verify(), "unreadable")


def test_truncated_mask(case: Case) -> None:
    path = case.tree.path("vi", "0002")
    path.write_bytes(path.read_bytes()[:-1])
    assert "truncated" in only(case.verify(), "unreadable")


def test_unreadable_image(case: Case) -> None:
    case.images["vi"]["0002"].write_bytes(b"broken")
    assert str(case.images["vi"]["0002"]) in only(case.verify(), "unreadable")


def test_wrong_size(case: Case) -> None:
    case.tree.write("ir", "0002", np.ones((24, 16), np.uint8))
    line = only(case.verify(), "wrong size")
    assert " is 16x24 and its image" in line and line.endswith(" 24x16 (width x height)")


def test_left_over(case: Case) -> None:
    case.tree.write("ir", "gone", np.ones(SHAPE, np.uint8))
    assert str(case.tree.path("ir", "gone")) in only(case.verify(), "left over")


def test_masks_of_another_recorded_data_set_are_not_left_over(
    case: Case, tmp_path: Path, make_pairs: Callable[..., Path]
) -> None:
    make_pairs(("set00/I0",), root=tmp_path / "second", ir="moved", size=SHAPE)
    (tmp_path / "second" / "set00").mkdir()
    (tmp_path / "second" / "moved" / "set00").rename(tmp_path / "second" / "set00" / "lwir")
    case.tree.write("ir", "set00/I0", np.ones(SHAPE, np.uint8))
    case.manifest.sources.append({"ir": str(tmp_path / "second" / "**" / "lwir")})
    case.manifest.save(case.tree.root)
    assert case.verify().problems() == []


def test_partial_file(case: Case) -> None:
    partial = case.tree.root / "ir" / ".0002.npy.1.partial"
    partial.write_bytes(b"half")
    assert str(partial) in only(case.verify(), "partial")


def test_settings(case: Case) -> None:
    line = only(case.verify(asked={"model_type": "vit_b", "points_per_side": 16}), "settings")
    assert line == "settings: points_per_side 32 (asked: 16)"


def test_without_manifest(case: Case) -> None:
    (case.tree.root / "manifest.json").unlink()
    assert "manifest.json" in only(case.verify(), "settings")


def test_instances(case: Case) -> None:
    for modality in MODALITIES:
        for name in case.images[modality]:
            case.tree.path(modality, name, INSTANCES_SUFFIX).write_text(encode_instances([], SHAPE), encoding="utf-8")
    assert case.verify(require_instances=True).problems() == []
    case.tree.path("ir", "0002", INSTANCES_SUFFIX).write_text("{", encoding="utf-8")
    assert case.verify().problems() == []
    assert "damaged" in only(case.verify(require_instances=True), "unreadable")
    case.tree.path("ir", "0002", INSTANCES_SUFFIX).unlink()
    assert "0002.json" in only(case.verify(require_instances=True), "missing")


def test_instances_without_a_mask_are_left_over(case: Case) -> None:
    case.tree.path("ir", "gone", INSTANCES_SUFFIX).write_text(encode_instances([], SHAPE), encoding="utf-8")
    assert "gone.json" in only(case.verify(), "left over")


def test_nothing_is_written(case: Case) -> None:
    before = sorted(case.tree.root.rglob("*"))
    case.verify()
    assert sorted(case.tree.root.rglob("*")) == before
