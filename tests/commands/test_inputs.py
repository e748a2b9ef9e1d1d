"""Where a command's pairs and masks come from."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from thfuse_sam import shipped
from thfuse_sam.commands import inputs
from thfuse_sam.commands.train_pairs import find_train_pairs
from thfuse_sam.datasets.pairs import PairSet
from thfuse_sam.errors import OptionError
from thfuse_sam.masks.manifest import Manifest, Signature
from thfuse_sam.masks.source import MaskSource, NoMasks, PrecomputedMasks
from thfuse_sam.options.shared import FolderOptions, MaskOptions, PairOptions, SamOptions
from thfuse_sam.options.train import TrainOptions


def test_sample_is_found_from_any_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shipped, "shipped_root", lambda: tmp_path / "checkout")
    (tmp_path / "checkout" / "datasets" / "sample").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    sample = Path("datasets/sample")
    there = tmp_path / "checkout" / sample
    assert inputs.pair_folder(None, FolderOptions(), sample) == there
    assert inputs.pair_folder(sample, FolderOptions(), Path("x")) == there
    assert inputs.pair_folder(Path("mine"), FolderOptions(), Path("x")) == Path("mine")
    assert inputs.pair_folder(None, FolderOptions(ir_dir=Path("a"), vi_dir=Path("b")), sample) is None
    sample.mkdir(parents=True)
    assert inputs.pair_folder(None, FolderOptions(), sample) == sample


@pytest.mark.parametrize("folders", [{"ir_dir": Path("a"), "vi_dir": Path("b")}, {"vi_dir": Path("b")}])
def test_one_folder_and_two_are_not_given_together(folders) -> None:
    with pytest.raises(OptionError, match=r"`dataset_path` c: is given beside `ir_dir` or `vi_dir`; give one or the"):
        inputs.find_command_pairs(Path("c"), PairOptions(**folders))
    with pytest.raises(OptionError, match=r"`dataset_path` c: is given beside"):
        find_train_pairs(TrainOptions(dataset_path=(Path("c"), Path("d")), **folders))


# Masks


def plan(**options: object) -> inputs.MaskChoice:
    masks = MaskOptions(**options)  # type: ignore[arg-type]
    return inputs.choose_masks(masks.precomputed_masks_dir, masks)


def make_tree(root: Path) -> Path:
    for modality in ("ir", "vi"):
        (root / modality).mkdir(parents=True)
    Manifest(Signature("vit_b", "00", {}, "0.1")).save(root)
    return root


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_masks_by_default(here) -> None:
    assert plan().mode == "none" and "manifest.json" in plan().reason
    assert plan(use_sam=True).mode == "live"


def test_tree_in_the_default_place_is_taken(here) -> None:
    make_tree(here / "precomputed_masks")
    for options in ({}, {"sam_checkpoint": "absent.pth"}):
        chosen = plan(**options)
        assert (chosen.mode, chosen.root) == ("precomputed", Path("precomputed_masks"))
        assert "vit_b" in chosen.reason
    (here / "precomputed_masks" / "manifest.json").unlink()
    assert plan().mode == "none"


def test_none_switches_the_tree_off(here) -> None:
    make_tree(here / "precomputed_masks")
    assert plan(precomputed_masks_dir="none").mode == "none"
    assert plan(precomputed_masks_dir="none", use_sam=True).mode == "live"
    assert plan(use_sam=True).mode == "live"


def test_named_tree_wins_over_sam_and_another_model_type_is_said(here) -> None:
    make_tree(here / "m")
    chosen = plan(precomputed_masks_dir="m", use_sam=True, sam_model_type="vit_h")
    assert (chosen.mode, chosen.root) == ("precomputed", Path("m"))
    assert "made by vit_b although `sam_model_type` is vit_h" in chosen.reason


def test_named_tree_must_exist(here) -> None:
    with pytest.raises(OptionError, match=r"`precomputed_masks_dir` absent: .*`precompute\(\)` `output_dir` absent"):
        plan(precomputed_masks_dir="absent")


def test_tree_of_another_program_needs_no_manifest(here) -> None:
    (here / "m" / "ir").mkdir(parents=True)
    assert plan(precomputed_masks_dir="m").mode == "precomputed"


def test_plan_is_one_log_line(here, caplog) -> None:
    with caplog.at_level(logging.INFO):
        inputs.log_mask_choice(plan(), PairSet([], here, here, {}, {}))
    assert len(caplog.messages) == 1


def test_sources_without_sam(here, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "thfuse_sam.sam.checkpoints", None)
    pairs = PairSet([], here / "ir", here / "vi", [], [])

    def build(mode: Any, root: Path | None = None) -> MaskSource:
        return inputs.build_mask_source(inputs.MaskChoice(mode, "", root), SamOptions(), torch.device("cpu"), pairs)

    assert isinstance(build("none"), NoMasks)
    assert isinstance(build("precomputed", make_tree(here / "m")), PrecomputedMasks)
    with pytest.raises(ImportError):  # so that the two above mean something
        build("live")
