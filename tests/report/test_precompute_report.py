"""The report of a mask tree counts what is there, and names what is not."""

import json

import numpy as np

from thfuse_sam.datasets.pairs import find_images
from thfuse_sam.images import MODALITIES
from thfuse_sam.masks.manifest import Manifest, Signature
from thfuse_sam.masks.tree import MaskFiles
from thfuse_sam.report.precompute import write_precompute_report


def test_counts_problems_and_cards(make_pairs, tmp_path) -> None:
    root = tmp_path / "masks"
    dataset = make_pairs(("a/1", "b", "c"))
    images = {modality: find_images(dataset, modality=modality).images for modality in MODALITIES}
    tree = MaskFiles(root)
    labels = np.zeros((32, 48), np.uint8)
    labels[:16] = 1
    labels[:8, :24] = 3  # no pixel is left of segment 2
    tree.write("ir", "a/1", labels)
    tree.write("ir", "b", np.zeros((32, 48), np.uint8))
    tree.write("vi", "a/1", labels)
    (root / "vi" / "b.npy").write_bytes(b"no mask")
    failure = {"modality": "vi", "name": "c", "path": "vi/c.png", "reason": "too <large>"}
    Manifest(Signature("vit_nano", "00", {}, "1"), failures=[failure]).save(root)

    page = write_precompute_report(root, images, [("masks", "vit_nano")])
    assert page == root / "report" / "index.html"
    data = json.loads((page.parent / "data.js").read_text(encoding="utf-8")[len("window.REPORT = ") : -2])
    infrared, visible = data["modalities"]
    assert (infrared["images"], infrared["masks"], infrared["empty"], infrared["mostSegments"]) == (3, 2, 1, 2)
    assert (infrared["medianSegments"], infrared["medianCoverage"]) == (1, 0.25)
    assert (visible["masks"], visible["medianSize"]) == (1, 0.25)
    problems = data["problems"]
    assert problems["failed"] == ["visible: c: too <large>"] and problems["missing"] == ["infrared: c"]
    assert problems["empty"] == ["infrared: b"] and problems["unreadable"][0].startswith("visible: b: ")
    number, coverage, size = data["histograms"]
    assert [sum(counts) for counts in number["counts"]] == [2, 1]
    assert coverage["counts"][0][0] == 1 and coverage["counts"][0][5] == 1
    assert [sum(counts) for counts in size["counts"]] == [2, 2]
    assert [(card["title"], card["name"]) for card in data["cards"]] == [
        ("infrared", "a/1"),
        ("visible", "a/1"),
        ("infrared", "b"),
    ]
    assert all((page.parent / card[key]).is_file() for card in data["cards"] for key in ("picture", "mask"))


def test_no_mask_at_all(make_pairs, tmp_path) -> None:
    dataset = make_pairs(("a",))
    images = {"ir": find_images(dataset, modality="ir").images}
    page = write_precompute_report(tmp_path / "masks", images, [])
    text = (page.parent / "data.js").read_text(encoding="utf-8")
    assert '"missing":["infrared: a"]' in text and '"medianSegments":null' in text
