import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.errors import ImageReadError, UsageError
from thfuse_sam.fusion.fusing import fuse_pairs
from thfuse_sam.fusion.session import FusionSession, RememberedPrompts
from thfuse_sam.images import read_visible
from thfuse_sam.masks.source import LiveMasks
from thfuse_sam.models import build_network
from thfuse_sam.options.app import LimitSettings
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.thermal import InfraredReading

CPU = torch.device("cpu")
SETTINGS = GeneratorSettings(points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=0.7)


@pytest.fixture(scope="module")
def generator() -> AutomaticMaskGenerator:
    torch.manual_seed(0)
    return AutomaticMaskGenerator(build_vit_nano(64).eval(), SETTINGS)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network("thfuse_lite")


@pytest.fixture
def session(network, generator) -> FusionSession:
    return FusionSession(network, generator, CPU, LimitSettings(max_upload_mb=0.1, max_megapixels=0.01))


@pytest.fixture
def files(make_pairs) -> tuple[Path, Path]:
    pair = find_pairs(make_pairs(("0001",))).pairs[0]
    return pair.ir, pair.vi


@pytest.mark.parametrize("iou", [0.0, 0.5])
def test_fuses_as_the_command_does(session, network, generator, make_pairs, tmp_path, iou) -> None:
    pairs = find_pairs(make_pairs(("0001",))).pairs
    opened = session.open(pairs[0].ir, pairs[0].vi)
    session.fuse(opened, session.thresholds)  # what is remembered must not matter
    view = session.fuse(opened, dataclasses.replace(session.thresholds, pred_iou_thresh=iou))
    same = AutomaticMaskGenerator(generator.sam, dataclasses.replace(SETTINGS, pred_iou_thresh=iou))
    fuse_pairs(network, pairs, LiveMasks(same.label_map), tmp_path / "out", device=CPU)
    assert np.array_equal(view.fused, read_visible(tmp_path / "out" / "0001.png"))
    assert np.array_equal(view.vi_labels, same.label_map(opened.visible, opened.infrared))


def test_thresholds_change_masks_without_decoding_again(session, files, monkeypatch) -> None:
    opened = session.open(*files)
    assert isinstance(opened.ir_decoder, RememberedPrompts)
    all_masks = session.fuse(opened, session.thresholds)
    monkeypatch.setattr(opened.ir_decoder, "_decoder", None)
    monkeypatch.setattr(opened.vi_decoder, "_decoder", None)
    none = session.fuse(opened, dataclasses.replace(session.thresholds, stability_score_thresh=1))
    assert all_masks.ir_labels.max() > none.ir_labels.max()


def test_one_model_serves_all_thresholds(session, files, monkeypatch) -> None:
    monkeypatch.setattr("thfuse_sam.sam.generator.mask_model", None)
    opened = session.open(*files)
    session.fuse(opened, dataclasses.replace(session.thresholds, pred_iou_thresh=0.5))
    with pytest.raises(UsageError, match="pred_iou_thresh"):
        session.fuse(opened, dataclasses.replace(session.thresholds, pred_iou_thresh=2))


def test_large_models_remember_nothing(network, generator, files, monkeypatch) -> None:
    monkeypatch.setattr("thfuse_sam.fusion.session._MAX_REMEMBERED_BYTES", 1000)
    session = FusionSession(network, generator, CPU)
    assert not isinstance(session.open(*files).ir_decoder, RememberedPrompts)


def test_gray_has_one_channel(session, files) -> None:
    assert session.fuse(session.open(*files), session.thresholds, gray=True).fused.shape == (32, 48)


def test_thresholds_out_of_range_are_refused(session, files) -> None:
    with pytest.raises(UsageError, match="box_nms_thresh"):
        session.fuse(session.open(*files), dataclasses.replace(session.thresholds, box_nms_thresh=2.0))


def test_too_many_pixels_are_refused_before_decoding(session, files, tmp_path) -> None:
    Image.new("L", (200, 100)).save(tmp_path / "wide.png")
    with (tmp_path / "wide.png").open("r+b") as file:  # header intact, pixels gone
        file.truncate(60)
    with pytest.raises(ImageReadError, match=r"^wide\.png: 200x100 pixels, more than the 0\.01 megapixels"):
        session.open(tmp_path / "wide.png", files[1])


def test_too_many_bytes_are_refused(session, files, tmp_path) -> None:
    (tmp_path / "fat.png").write_bytes(b"\0" * 200_000)
    with pytest.raises(ImageReadError, match=r"^fat\.png: 0\.191 MiB, more than the 0\.1 MiB allowed"):
        session.open(files[0], tmp_path / "fat.png")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_bad_files_are_named_without_their_folder(session, files, tmp_path, content) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(ImageReadError, match=r"^bad\.png: ") as caught:
        session.open(tmp_path / "bad.png", files[1])
    assert str(tmp_path) not in str(caught.value)


def test_images_that_do_not_lie_on_each_other_are_aligned(session, files, tmp_path) -> None:
    opened = session.open(*files)
    assert opened.placement is None
    with Image.open(files[0]) as image:
        image.resize((24, 16)).save(tmp_path / "half.png")
    opened = session.open(tmp_path / "half.png", files[1])
    assert opened.placement is not None and opened.infrared.shape == opened.visible.shape[:2] == (32, 48)
    assert session.fuse(opened, session.thresholds).fused.shape == (32, 48, 3)


def test_black_hot_pairs_are_fused_as_white_hot_ones(session, network, generator, files, make_pairs, tmp_path) -> None:
    expected = session.fuse(session.open(*files), session.thresholds)
    root = make_pairs(("0001",), root=tmp_path / "black")
    Image.fromarray(255 - np.asarray(Image.open(files[0]))).save(root / "ir" / "0001.png")
    black = FusionSession(network, generator, CPU, reading=InfraredReading(polarity="black-hot"))
    view = black.fuse(black.open(root / "ir" / "0001.png", files[1]), black.thresholds)
    assert np.array_equal(view.fused, expected.fused) and np.array_equal(view.vi_labels, expected.vi_labels)
    black.fuse_folder(find_pairs(root), tmp_path / "out", black.thresholds, lambda _: None)
    assert np.array_equal(read_visible(tmp_path / "out" / "0001.png"), expected.fused)


def test_folder_is_fused_but_for_what_cannot_be(session, make_pairs, tmp_path) -> None:
    root = make_pairs(("0001", "0002", "0003"))
    (root / "ir" / "0002.png").write_bytes(b"no image")
    seen: list[str] = []
    report = session.fuse_folder(
        find_pairs(root), tmp_path / "out", session.thresholds, lambda pair: seen.append(pair.pair.name)
    )
    assert seen == ["0001", "0003"] and list(report.failures) == ["0002"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0001.png", "0003.png"]
    assert report.masks_found == 4
