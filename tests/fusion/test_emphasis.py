"""Emphasis: what is wanted of segments is seen there and nowhere else, and choices are kept beside the masks."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import thfuse_sam as th
from thfuse_sam.cli.commands import test as fuse_command
from thfuse_sam.datasets.fusion import FusionSample, fusion_sample
from thfuse_sam.errors import UsageError
from thfuse_sam.fusion.emphasis import EmphasisPlan, fuse_emphasised, read_emphasis
from thfuse_sam.fusion.loading import load_network
from thfuse_sam.images import read_visible
from thfuse_sam.masks.tree import MaskFiles
from thfuse_sam.shipped import shipped_root

CPU = torch.device("cpu")
INSIDE, FAR = (slice(22, 34), slice(26, 38)), (slice(0, 8), slice(0, 192))  # of the segment, and far from it


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return load_network(shipped_root() / "models/thfuse_lite.safetensors")[0]


@pytest.fixture(scope="module")
def sample() -> FusionSample:
    random = np.random.default_rng(0)
    infrared = random.integers(60, 80, (128, 192), dtype=np.uint8)
    visible = random.integers(120, 160, (128, 192, 3), dtype=np.uint8)
    infrared[16:40, 20:44] += 60
    labels = np.zeros((128, 192), np.uint8)
    labels[16:40, 20:44] = 3
    return fusion_sample("a", infrared, visible, labels, labels)


def fused(network: torch.nn.Module, sample: FusionSample, plan: EmphasisPlan | None = None) -> np.ndarray:
    return fuse_emphasised(network, [sample], CPU, plan=plan)[0].astype(float)


def grey(sample: FusionSample, modality: str) -> np.ndarray:
    return sample[modality][0].numpy() * 255  # type: ignore[literal-required]


def test_a_segment_shows_what_is_wanted_and_the_rest_stays(network: torch.nn.Module, sample: FusionSample) -> None:
    usual = fused(network, sample)
    neutral = fused(network, sample, EmphasisPlan(chosen={"a": {("ir", 3): "neutral"}}))
    assert usual[INSIDE].mean() > neutral[INSIDE].mean() + 2, "what is warm is lifted, unless that is not wanted"
    for source in ("ir", "vi"):
        leaning = fused(network, sample, EmphasisPlan(chosen={"a": {("ir", 3): source}}))  # type: ignore[dict-item]
        expected = 0.75 * grey(sample, source) + 0.25 * neutral
        assert np.abs(leaning - expected)[INSIDE].max() <= 1.5
        assert np.array_equal(leaning[FAR], neutral[FAR])
    brighter = fused(network, sample, EmphasisPlan(chosen={"a": {("vi", 3): "brighter"}}))
    assert np.abs(brighter - neutral - 32)[INSIDE].max() <= 1


def test_the_usual_emphasis_is_of_all_other_segments(network: torch.nn.Module, sample: FusionSample) -> None:
    chosen = {"a": {("ir", 3): "brighter", ("vi", 3): "brighter"}}
    plan = EmphasisPlan("vi", chosen)  # type: ignore[arg-type]
    assert np.array_equal(fused(network, sample, plan), fused(network, sample, EmphasisPlan(None, plan.chosen)))
    of_another_pair = EmphasisPlan("vi", {"b": plan.chosen["a"]})
    assert np.array_equal(fused(network, sample, of_another_pair), fused(network, sample, EmphasisPlan("vi")))


def test_borders_are_soft(network: torch.nn.Module, sample: FusionSample) -> None:
    neutral = fused(network, sample, EmphasisPlan("neutral"))
    added = fused(network, sample, EmphasisPlan(chosen={"a": {("ir", 3): "brighter"}})) - neutral
    assert np.abs(np.diff(added[28])).max() <= 8


def test_choices_are_read_beside_the_masks(tmp_path: Path) -> None:
    assert read_emphasis(tmp_path) == {}
    text = '{"a/1": {"ir": {"3": "brighter"}, "vi": {"12": "vi"}}, "b": {"ir": {"1": "ir"}}}'
    (tmp_path / "emphasis.json").write_text(text, encoding="utf-8")
    assert read_emphasis(tmp_path) == {"a/1": {("ir", 3): "brighter", ("vi", 12): "vi"}, "b": {("ir", 1): "ir"}}


@pytest.mark.parametrize(
    "text", ["[", "[1]", '{"a": {"ir": {"3": "loud"}}}', '{"a": {"uv": {"3": "ir"}}}', '{"a": {"3": "ir"}}']
)
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "emphasis.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"emphasis\.json: no .*; write .*one of ir, vi, brighter, neutral") as caught:
        read_emphasis(tmp_path)
    assert "\n" not in str(caught.value) and "object" not in str(caught.value)


def test_commands_and_python_agree(make_pairs, tmp_path: Path, caplog) -> None:
    dataset, labels = make_pairs(("1",)), np.zeros((32, 48), np.uint8)
    labels[8:20, 10:30] = 2
    tree = MaskFiles(tmp_path / "masks")
    for modality in ("ir", "vi"):
        tree.write(modality, "1", labels)  # type: ignore[arg-type]
    (tmp_path / "masks" / "emphasis.json").write_text('{"1": {"ir": {"2": "brighter"}}}', encoding="utf-8")
    argv = ["--dataset_path", str(dataset), "--precomputed_masks_dir", str(tmp_path / "masks"), "--no-report"]
    for name, further in (("chosen", []), ("vi", ["--emphasis", "vi"])):
        assert fuse_command.main([*argv, *further, "--output_dir", str(tmp_path / name)]) == 0
    ir, vi = (next((dataset / modality).rglob("1.*")) for modality in ("ir", "vi"))
    result = th.fuse(ir, vi, (labels, labels), emphasis={("ir", 2): "brighter"})
    written = read_visible(next((tmp_path / "chosen").glob("1.*")))
    assert np.array_equal(result, written)
    assert not np.array_equal(written, read_visible(next((tmp_path / "vi").glob("1.*"))))
    assert "newer" not in caplog.text
    before = (tmp_path / "masks" / "emphasis.json").stat().st_mtime
    os.utime(tmp_path / "masks" / "ir" / "1.npy", (before, before + 100))
    assert fuse_command.main([*argv, "--output_dir", str(tmp_path / "anew")]) == 0
    assert "emphasis.json: masks of 1 are newer than it" in caplog.text
    wrong = '{"1": {"ir": {"2": "vi", "7": "vi"}}, "1.png": {"ir": {"2": "vi"}}}'
    (tmp_path / "masks" / "emphasis.json").write_text(wrong, encoding="utf-8")
    caplog.clear()
    assert fuse_command.main([*argv, "--output_dir", str(tmp_path / "wrong")]) == 0
    assert "no pair of this run is called 1.png" in caplog.text and "1: has no segment 7 in its ir mask" in caplog.text
    of_others = '{"1.png": {"ir": {"2": "vi"}}}'
    (tmp_path / "masks" / "emphasis.json").write_text(of_others, encoding="utf-8")
    assert fuse_command.main([*argv[:-1], "--output_dir", str(tmp_path / "of_others")]) == 0
    assert "what single segments show" not in (tmp_path / "of_others" / "report" / "data.js").read_text("utf-8")
    with pytest.raises(UsageError, match="`emphasis` loud: unknown"):
        th.fuse(ir, vi, (labels, labels), emphasis="loud")  # type: ignore[call-overload,arg-type]
