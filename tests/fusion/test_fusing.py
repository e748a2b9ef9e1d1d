import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.errors import ImageReadError, ImageSizeError, OutputError, UsageError
from thfuse_sam.fusion import fusing as fuse
from thfuse_sam.fusion.colour import leave_room
from thfuse_sam.images import luma, read_visible, write_image
from thfuse_sam.masks.source import NoMasks, PrecomputedMasks
from thfuse_sam.masks.tree import MaskFiles
from thfuse_sam.metrics import fusion_metrics
from thfuse_sam.progress import reporting_to
from thfuse_sam.video.fusing import FrameFuser

CPU = torch.device("cpu")


class Brighter(nn.Module):
    """The brighter of both images; with guidance that is not constant, black."""

    def forward(self, ir: Tensor, vi: Tensor, ir_guidance: Tensor, vi_guidance: Tensor, ir_labels: Tensor) -> Tensor:
        if ir.shape[-1] < 8:
            raise ImageSizeError("image of 4x4 pixels; enlarge it")
        guided = ir_guidance.amax() > ir_guidance.amin()
        return torch.zeros_like(ir) if guided else torch.maximum(ir, vi)


def write_pair(root: Path, name: str, suffix: str = ".png", *, seed: int = 0, shape=(12, 20), ir_shape=None) -> None:
    random = np.random.default_rng(seed)
    infrared = random.integers(0, 256, ir_shape or shape, np.uint8)
    visible = random.integers(0, 256, (*shape, 3), np.uint8)
    for modality, image, ending in (("ir", infrared, ".png"), ("vi", visible, suffix)):
        path = root / modality / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, image)


def run(root: Path, output: Path, **options):
    pairs = find_pairs(root).pairs
    return fuse.fuse_pairs(Brighter(), pairs, options.pop("masks", NoMasks()), output, device=CPU, **options)


# Files


def test_outputs_follow_the_visible_files(tmp_path) -> None:
    write_pair(tmp_path, "b.c/01.2", ".jpg")
    write_pair(tmp_path, "a", ".png", shape=(9, 31))
    report = run(tmp_path, tmp_path / "out")
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*g"))
    assert written == ["a.png", "b.c/01.2.jpg"]
    assert len(report.fused) == 2 and (report.masks_found, report.placeholders) == (0, 4)
    assert read_visible(tmp_path / "out" / "a.png").shape == (9, 31, 3)


def test_a_number_format_that_the_device_computes_in_software_is_said(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    write_pair(tmp_path, "a", ".png")
    run(tmp_path, tmp_path / "out", settings=fuse.InferenceSettings(precision="bf16"))
    assert "`precision` bf16: cpu has no instructions for it" in caplog.text
    caplog.clear()
    FrameFuser(Brighter(), CPU, settings=fuse.InferenceSettings(precision="bf16"))
    assert "`precision` bf16: cpu has no instructions for it" in caplog.text


def test_gray_writes_the_fused_luma(tmp_path) -> None:
    write_pair(tmp_path, "a")
    run(tmp_path, tmp_path / "out", gray=True)
    infrared = read_visible(tmp_path / "ir" / "a.png")[..., 0]
    expected = np.maximum(infrared, luma(read_visible(tmp_path / "vi" / "a.png")))
    assert np.array_equal(read_visible(tmp_path / "out" / "a.png")[..., 0], expected)


def test_masks_reach_the_network_and_are_counted(tmp_path) -> None:
    write_pair(tmp_path, "a")
    label_map = np.zeros((12, 20), np.uint8)
    label_map[3:9, 4:12] = 1
    MaskFiles(tmp_path / "masks").write("ir", "a", label_map)
    masks = PrecomputedMasks(tmp_path / "masks", {"ir": tmp_path / "ir", "vi": tmp_path / "vi"})
    report = run(tmp_path, tmp_path / "out", gray=True, masks=masks)
    assert (report.masks_found, report.placeholders) == (1, 1)
    assert read_visible(tmp_path / "out" / "a.png").max() == 0


def test_bad_pair_stops_or_is_skipped(tmp_path) -> None:
    write_pair(tmp_path, "a", ir_shape=(12, 21))
    write_pair(tmp_path, "b")
    write_pair(tmp_path, "c")
    (tmp_path / "vi" / "c.png").write_bytes(b"no image")
    write_pair(tmp_path, "d", shape=(4, 4))
    with pytest.raises(ImageSizeError, match=r"21x12.*20x12"):
        run(tmp_path, tmp_path / "out")
    done: list[int] = []
    with reporting_to(lambda number, total: done.append(number)):
        report = run(tmp_path, tmp_path / "out", skip_bad=True)
    assert done[-1] == 4
    assert [path.name for path in report.fused] == ["b.png"]
    assert list(report.failures) == ["a", "c", "d"]
    assert "'d'" in report.failures["d"]
    (tmp_path / "ir" / "a.png").unlink()
    with pytest.raises(ImageReadError):
        run(tmp_path, tmp_path / "out")


def test_a_run_that_ends_early_says_how_far_it_came(tmp_path, caplog) -> None:
    for name in "abc":
        write_pair(tmp_path, name)
    (tmp_path / "ir" / "c.png").write_bytes((tmp_path / "ir" / "c.png").read_bytes()[:60])
    with pytest.raises(ImageReadError, match="truncated"):
        run(tmp_path, tmp_path / "out")
    assert caplog.messages == ["stopped after 2 of 3 pairs; with `skip_bad` a bad pair is left out"]

    def interrupt(fused: fuse.FusedPair) -> None:
        raise KeyboardInterrupt

    caplog.clear()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tmp_path / "out", observers=[interrupt])
    assert caplog.messages == ["stopped after 1 of 3 pairs"]


def test_require_usable_names_the_first_and_counts_the_others(tmp_path) -> None:
    write_pair(tmp_path, "a")
    fuse.require_usable(find_pairs(tmp_path).pairs)
    for name in "bcd":
        write_pair(tmp_path, name, ir_shape=(3, 20))
    with pytest.raises(ImageSizeError, match=r"'b'.*20x3.*20x12.*2 more"):
        fuse.require_usable(find_pairs(tmp_path).pairs)


def test_full_disk_stops_even_when_bad_pairs_are_skipped(tmp_path, monkeypatch) -> None:
    write_pair(tmp_path, "a")

    def refuse(path: Path, image: np.ndarray) -> None:
        raise OutputError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(fuse, "write_image", refuse)
    with pytest.raises(OutputError):
        run(tmp_path, tmp_path / "out", skip_bad=True)


def test_inputs_are_never_replaced(tmp_path) -> None:
    write_pair(tmp_path, "a")
    pairs = find_pairs(tmp_path).pairs
    fuse.require_outputs_apart(pairs, tmp_path / "out")
    for folder in ("vi", "ir", "out/../vi"):
        with pytest.raises(UsageError, match="input image"):
            fuse.require_outputs_apart(pairs, tmp_path / folder)


# Metrics


def test_metrics_see_the_fused_luma_and_both_sources(tmp_path) -> None:
    write_pair(tmp_path, "a")

    def metrics(fused: np.ndarray, ir: np.ndarray, vi: np.ndarray) -> dict[str, float]:
        assert fused.dtype == ir.dtype == vi.dtype == np.uint8
        visible = read_visible(tmp_path / "vi" / "a.png")
        assert np.array_equal(fused, leave_room(np.maximum(ir, vi), visible)) and not np.array_equal(ir, vi)
        assert np.array_equal(vi, luma(read_visible(tmp_path / "vi" / "a.png")))
        return {"EN": 1.0}

    assert run(tmp_path, tmp_path / "out", metrics=metrics).metrics == {"a": {"EN": 1.0}}


def test_metrics_of_many_pairs_come_from_other_processes_in_order(tmp_path, monkeypatch) -> None:
    for index, name in enumerate("abcde"):
        write_pair(tmp_path, name, seed=index)
    metrics = functools.partial(fusion_metrics, names=("EN", "MI"))
    here = run(tmp_path, tmp_path / "here", metrics=metrics)
    monkeypatch.setattr(fuse, "usable_cores", lambda: 2)
    monkeypatch.setattr(fuse, "_PAIRS_PER_PROCESS", 2)
    seen = []
    there = run(tmp_path, tmp_path / "there", metrics=metrics, observers=[seen.append])
    assert there.metrics == here.metrics and list(there.metrics) == list("abcde")
    assert [(one.pair.name, one.metrics) for one in seen] == list(here.metrics.items())


# Batches


def test_batches_of_equal_size_give_the_same_files_and_name_bad_pairs(tmp_path) -> None:
    for index, (name, shape) in enumerate((("a", (12, 20)), ("b", (14, 20)), ("c", (12, 20)), ("d", (12, 20)))):
        write_pair(tmp_path, name, seed=index, shape=shape)
    broken = tmp_path / "ir" / "c.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    one = run(tmp_path, tmp_path / "one", skip_bad=True)
    seen = []
    settings = fuse.InferenceSettings(batch_size=2)
    more = run(tmp_path, tmp_path / "more", skip_bad=True, settings=settings, observers=[lambda s: seen.append(s.pair)])
    assert set(more.failures) == set(one.failures) == {"c"}
    assert [pair.name for pair in seen] == ["a", "b", "d"]  # a with c, b, d
    assert {path.name for path in more.fused} == {"a.png", "b.png", "d.png"}
    for path in one.fused:
        assert (tmp_path / "more" / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(ImageReadError, match=r"c\.png"):
        run(tmp_path, tmp_path / "strict", settings=settings)
