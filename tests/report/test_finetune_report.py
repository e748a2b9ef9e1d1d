"""The report of a fine-tuning run shows the masks that were scored, before and after, and its log as curves."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything.modeling import Sam

from thfuse_sam.datasets.prompts import PromptMix
from thfuse_sam.datasets.segmentation import SegmentationSample
from thfuse_sam.errors import OutputError
from thfuse_sam.finetune.evaluation import Results, evaluate_sam
from thfuse_sam.finetune.training import FinetuneTask
from thfuse_sam.losses.segmentation import SegmentationLoss
from thfuse_sam.options.training import FinetuneSettings
from thfuse_sam.report.finetune import write_finetune_report
from thfuse_sam.sam.adapt import Adaptation
from thfuse_sam.sam.checkpoints import ResolvedSam
from thfuse_sam.sam.registry import build_sam

sys.path.append(str(Path(__file__).parents[1] / "finetune"))  # fake images and a small model that those tests have too

from fake_objects import FakeObjects, write_base

LOG = (
    "epoch,step,lr,train/total,train/mask_iou,val/point_iou,val/box_iou,images_per_second\n"
    "1,3,0.001,0.5,0.3,,,2\n2,6,1e-05,0.25,0.4,0.6,0.7,2\n"
)


def finished(base: ResolvedSam, tuned: Sam, images: FakeObjects, seed: int = 0, *results: Results) -> FinetuneTask:
    """A task that has been run, with the results before and after it."""
    settings = FinetuneSettings(n_objects=2, seed=seed)
    task = FinetuneTask(tuned, base, Adaptation(), SegmentationLoss(), PromptMix(box=1), images, images, settings)
    task.zero_shot, task.fine_tuned = results or ({}, {})
    return task


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict, dict]:
    """The folder, its data, and the figures before and after of a model whose decoder was changed."""
    root = tmp_path_factory.mktemp("report")
    (root / "train_log.csv").write_text(LOG, encoding="utf-8")
    base = write_base(root / "base.pth")
    images = FakeObjects(9)
    untuned, tuned = (build_sam("vit_nano", base.checkpoint) for _ in range(2))
    with torch.no_grad():
        for value in tuned.mask_decoder.parameters():
            value.mul_(1.3)
    before, after = (evaluate_sam(sam, images, n_objects=2, seed=5) for sam in (untuned, tuned))
    page = write_finetune_report(
        root / "report", root / "train_log.csv", [("command", "x")], finished(base, tuned, images, 5, before, after)
    )
    data = json.loads((page.parent / "data.js").read_text(encoding="utf-8")[len("window.REPORT = ") : -2])
    return page.parent, data, before, after


def test_figures_are_those_of_the_evaluation(report: tuple[Path, dict, dict, dict]) -> None:
    _, data, before, after = report
    rows = {(row["kind"], row["figure"]): row for row in data["figures"]}
    for kind in ("point", "box"):
        row = rows[kind, "boundary IoU"]
        assert row["before"] == pytest.approx(before[kind]["boundary_iou"], rel=1e-4)
        assert row["after"] == pytest.approx(after[kind]["boundary_iou"], rel=1e-4)
        assert row["objects"] == 18


def test_six_images_with_pictures_of_what_was_scored(report: tuple[Path, dict, dict, dict]) -> None:
    folder, data, *_ = report
    assert [sample["name"] for sample in data["samples"]] == [f"image{index}" for index in (0, 2, 3, 5, 6, 8)]
    addresses = [
        address
        for sample in data["samples"]
        for address in (
            sample["image"],
            sample["truth"],
            *(sample[when][kind]["picture"] for when in ("before", "after") for kind in ("point", "box")),
        )
    ]
    assert len(set(addresses)) == 36 and all((folder / address).is_file() for address in addresses)
    plain, truth = (np.asarray(Image.open(folder / data["samples"][1][key]), int) for key in ("image", "truth"))
    assert plain.shape == truth.shape and np.abs(plain - truth).max() > 40, "the labelled objects are drawn in"
    assert any(sample["before"]["box"]["iou"] != sample["after"]["box"]["iou"] for sample in data["samples"])


def test_curves_of_the_evaluation_begin_before_training(report: tuple[Path, dict, dict, dict]) -> None:
    _, data, before, _ = report
    charts = {chart["title"]: {line["name"]: line["points"] for line in chart["series"]} for chart in data["charts"]}
    assert charts["loss, total"] == {"training": [[1, 0.5], [2, 0.25]]}
    (epoch, start), end = charts["IoU, validation"]["box"]
    assert (epoch, end) == (0, [2, 0.7]) and start == pytest.approx(before["box"]["iou"], rel=1e-4)
    assert [point[0] for point in charts["Dice, validation"]["point"]] == [0], "the log has none after that"
    assert "step" not in charts


def test_large_images_are_shrunk_with_their_prompts(tmp_path: Path) -> None:
    class Large(FakeObjects):
        def __getitem__(self, index: int) -> SegmentationSample:
            image = np.zeros((400, 1600, 3), np.uint8)
            mask = np.zeros((400, 1600), bool)
            mask[100:300, 800:1200] = True
            return SegmentationSample.from_masks("large", image, {1: mask})

    (tmp_path / "log.csv").write_text(LOG, encoding="utf-8")
    base = write_base(tmp_path / "base.pth")
    page = write_finetune_report(
        tmp_path / "report", tmp_path / "log.csv", [], finished(base, build_sam("vit_nano", base.checkpoint), Large(1))
    )
    pictures = {path.stem[6:]: np.asarray(Image.open(path), int) for path in page.parent.rglob("*.jpg")}
    assert {picture.shape for picture in pictures.values()} == {(160, 640, 3)}
    truth, box = pictures["truth"], pictures["box_before"]
    rows, columns = np.nonzero(truth.max(2) > 40)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((40, 119, 320, 479), abs=2)
    # The box is drawn where the object is, with at most 20 pixels of jitter in the large image.
    difference = np.abs(box - pictures["image"]).max(2)
    assert difference[60:100, 310:332].max() > 60
    data = (page.parent / "data.js").read_text(encoding="utf-8")
    assert '"figures":[]' in data, "without an evaluation there are no figures, but pictures"


def test_no_log_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.pth")
    sam = build_sam("vit_nano", base.checkpoint)
    with pytest.raises(OutputError, match="no log"):
        write_finetune_report(tmp_path / "report", tmp_path / "absent.csv", [], finished(base, sam, FakeObjects(1)))
    assert not (tmp_path / "report").exists()
