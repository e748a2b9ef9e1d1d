"""The benchmark scripts run, on little."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import ablation, cross_validation, fusion_peers, fusion_results, fusion_speed, loss_choice
from benchmarks.fusion_runs import Withheld, figures_file, kept_figures
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.files import file_sha256
from thfuse_sam.masks.tree import MaskFiles
from thfuse_sam.metrics import METRICS, TEN_METRICS
from thfuse_sam.models import count_parameters


def test_the_stand_in_has_seafusions_parameters() -> None:
    other = fusion_speed.SeAFusionLayers().eval()
    assert count_parameters(other) == fusion_speed.SEAFUSION_PARAMETERS
    with torch.no_grad():
        assert other(*fusion_speed.inputs(1, (16, 24))).shape == (1, 1, 16, 24)


def test_speed_prints_both_rows_and_the_share_of_loading(make_pairs: Callable[..., Path], capsys) -> None:
    threads = torch.get_num_threads()
    argv = ["--size", "32", "32", "--rounds", "1", "--threads", "1", "--dataset_path", str(make_pairs())]
    assert fusion_speed.main([*argv, "--steps", "2", "--crop_size", "16", "--num_workers", "0"]) == 0
    torch.set_num_threads(threads)
    out = capsys.readouterr().out
    assert "| this network |" in out
    assert "| SeAFusion's layers | 166,883 |" in out and "loading: " in out


def write_results(folder: Path, better: bool) -> list[str]:
    sign = {name: 1 if METRICS[name].better == "higher" else -1 for name in TEN_METRICS}
    level = 1 if better else -1
    ours = {name: 5 + sign[name] * level for name in TEN_METRICS}
    (folder / "metrics.json").write_text(json.dumps({"mean": ours, "images": {"a": ours, "b": ours}}), encoding="utf-8")
    others = {"SeAFusion": dict.fromkeys(TEN_METRICS, 5.0), "max": dict.fromkeys(TEN_METRICS, 5.0)}
    (folder / "peers.json").write_text(json.dumps({"means": {"TNO": others}}), encoding="utf-8")
    return ["--results", str(folder), "--peers", str(folder / "peers.json"), "--dataset", "TNO"]


@pytest.mark.parametrize(("better", "rank", "won"), [(True, "1.00", 10), (False, "3.00", 0)])
def test_peers_ranks_and_counts_wins(tmp_path: Path, capsys, better: bool, rank: str, won: int) -> None:
    assert fusion_peers.main(write_results(tmp_path, better)) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if line.startswith("| this network"))
    assert row.endswith(f"| {rank} |")
    assert f"95 % interval of its mean rank, over its images: {rank} to {rank}" in lines
    ties = [line for line in lines if line.startswith(("| SeAFusion", "| max"))]
    assert all(line.endswith("| 2.50 |" if better else "| 1.50 |") for line in ties)
    assert lines[-1].startswith(f"better than SeAFusion on {won} of 10")
    assert f"Simple rules ahead of this network: {'none' if better else '`max` in EN, SD,'}" in "\n".join(lines)


def test_peers_that_ship_have_sources_and_all_metrics() -> None:
    sources = json.loads(fusion_peers.PEERS.read_text(encoding="utf-8"))["sources"]
    for rows in fusion_peers.read_peers(fusion_peers.PEERS).values():
        fusion_peers.require_all_metrics(rows)
        assert set(fusion_peers.RULES) <= set(rows) <= set(sources)


def test_peers_refuses_unknown_data_and_incomplete_rows(tmp_path: Path, capsys) -> None:
    argv = write_results(tmp_path, True)
    with pytest.raises(SystemExit):
        fusion_peers.main([*argv[:-1], "Moon"])
    (tmp_path / "metrics.json").write_text(json.dumps({"mean": {"EN": 1.0}}), encoding="utf-8")
    with pytest.raises(SystemExit):
        fusion_peers.main(argv)
    assert "this network lacks SD" in capsys.readouterr().err


def test_means_over_other_pairs_are_refused(tmp_path: Path, capsys) -> None:
    argv = write_results(tmp_path, True)
    peers = tmp_path / "peers.json"
    peers.write_text(json.dumps({**json.loads(peers.read_text("utf-8")), "pairs": {"TNO": 99}}), encoding="utf-8")
    with pytest.raises(SystemExit):
        fusion_peers.main(argv)
    assert "images, and the other methods' means are over 99" in capsys.readouterr().err


def box_masks(root: Path, pairs: Path) -> MaskFiles:
    """A tree with one segment in each image of 48x56 pixels."""
    tree = MaskFiles(root)
    labels = np.zeros((48, 56), np.uint8)
    labels[10:30, 10:40] = 1
    for pair in find_pairs(pairs).pairs:
        for modality in ("ir", "vi"):
            tree.write(modality, pair.name, labels)
    return tree


def test_ablation_writes_a_row_for_each_arm(make_pairs: Callable[..., Path], tmp_path: Path, capsys) -> None:
    root = make_pairs(("a", "b"), size=(48, 56))
    tree = box_masks(tmp_path / "masks", root)
    seen: dict[str, list[tuple[bool, bool]]] = {}
    original = Withheld.__getitem__

    def watch(self, index: int):
        sample = original(self, index)
        guided = bool(sample["ir_guidance"].amax() > sample["ir_guidance"].amin())
        arm = next(name for name, arm in ablation.ARMS.items() if arm == self.arm)
        seen.setdefault(arm, []).append((guided, bool(sample["vi_labels"].any())))
        return sample

    Withheld.__getitem__ = watch
    argv = ["--dataset_path", str(root), "--masks", str(tree.root), "--test_path", str(root), "--test_masks"]
    argv += [str(tree.root), "--seeds", "0", "1", "--epochs", "1", "--batch_size", "2", "--crop_size", "32"]
    assert ablation.main([*argv, "--device", "cpu", "--output", str(tmp_path / "out")]) == 0
    assert {arm: set(values) for arm, values in seen.items()} == {
        "none": {(False, False)},
        "placeholder": {(False, False)},
        "guidance": {(True, False)},
        "region losses": {(False, True)},
        "both": {(True, True)},
    }
    rows = [line for line in (tmp_path / "out" / "table.md").read_text(encoding="utf-8").splitlines() if "±" in line]
    assert [row.split("|")[1].strip() for row in rows if row.startswith("|")] == list(ablation.ARMS)


def test_figures_are_kept_of_the_same_options_alone(tmp_path: Path) -> None:
    made = []
    for options in ({"epochs": 1, "seeds": [0]}, {"epochs": 1, "seeds": [0, 1]}, {"epochs": 2, "seeds": [0]}):
        file = figures_file(tmp_path, argparse.Namespace(**options, output=tmp_path))
        made.append(kept_figures(file, lambda options=options: {"EN": float(options["epochs"])})["EN"])
    assert made == [1, 1, 2] and len([*tmp_path.iterdir()]) == 2


def test_loss_weights_are_replaced_where_validation_pairs_are_clearly_better(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = dict.fromkeys(TEN_METRICS, 1.0) | {"Nabf": 0.02}
    six = shipped | dict.fromkeys(TEN_METRICS[:6], 2.0)
    seven = shipped | dict.fromkeys(TEN_METRICS[:7], 2.0)
    assert not loss_choice.replaces(six, shipped) and loss_choice.replaces(seven, shipped)
    assert not loss_choice.replaces(seven | {"Nabf": 0.04}, shipped)
    lines = loss_choice.table({loss_choice.SHIPPED: shipped, "six": six, "seven": seven}, {"rule": seven}).splitlines()
    assert [line.split("|")[-3:-1] for line in lines[2:]] == [
        ["  ", "  "],
        [" 6 ", " no "],
        [" 7 ", " yes "],
        [" 7 ", "  "],
    ]


def test_loss_choice_trains_every_variant(
    make_pairs: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_pairs(tuple("abcdefghijkl"), size=(48, 56))
    tree = box_masks(tmp_path / "masks", root)
    chosen = {loss_choice.SHIPPED: {}, "gradient 16": {"gradient": 16.0}}
    monkeypatch.setattr(loss_choice, "variants", lambda: chosen)
    argv = ["--dataset_path", str(root), "--masks", str(tree.root), "--max_steps", "1", "--batch_size", "2"]
    threads = torch.get_num_threads()
    assert loss_choice.main([*argv, "--crop_size", "32", "--jobs", "1", "--output", str(tmp_path / "out")]) == 0
    torch.set_num_threads(threads)
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "1 of pairs" in text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:]
    assert rows == [
        loss_choice.SHIPPED,
        f"{loss_choice.SHIPPED}, another seed",
        "gradient 16",
        "rule max(VI, IR)",
        "rule average",
    ]


def test_one_command_makes_masks_images_and_the_table(
    make_pairs: Callable[..., Path], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = make_pairs(size=(96, 128))
    means = {"avg": dict.fromkeys(TEN_METRICS, 1000.0), "SeAFusion": dict.fromkeys(TEN_METRICS, -1000.0)}
    (tmp_path / "peers.json").write_text(json.dumps({"means": {pairs.name: means}}))
    argv = ["--data_dir", str(pairs.parent), "--datasets", pairs.name, "--peers", str(tmp_path / "peers.json")]
    assert fusion_results.main([*argv, "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    # Between the two in everything.
    assert f"| {pairs.name} | 2.00 [2.00 to 2.00] | 2 of 3 |" in out and "| SeAFusion 9 |" in out
    assert not (tmp_path / "out" / "masks").exists()
    assert fusion_results.main([*argv, "--output", str(tmp_path / "masked"), "--sam_model_type", "vit_nano"]) == 0
    assert (tmp_path / "masked" / "masks" / pairs.name / "manifest.json").exists()


def test_cross_validation_judges_on_the_set_left_out(
    make_pairs: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(cross_validation, "AMOUNTS", (0.4,))
    for name in (*"xyz", "beside"):
        make_pairs(("a", "b"), size=(48, 56), root=tmp_path / name)
    argv = ["--data_dir", str(tmp_path), "--datasets", *"xyz", "--beside", str(tmp_path / "beside"), "--every", "2"]
    argv += ["--baseline", "models/thfuse_lite.safetensors", "--output", str(tmp_path / "cv")]
    argv += ["--batch_size", "8", "--crop_size", "32", "--then", "--epochs 1 --lr 1e-4", "--epochs", "1"]
    assert cross_validation.main(argv) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row.split("|")[1].strip() for row in rows] == [name for name in "xyz" for _ in range(3)]
    folder = tmp_path / "cv" / "x"
    trained_on = json.loads((folder / "train_options.json").read_text(encoding="utf-8"))["dataset_path"]
    assert [Path(path).name for path in trained_on] == ["y", "z", "beside"]
    (then,) = folder.glob("then_*")
    went_on = json.loads((then / "train_options.json").read_text(encoding="utf-8"))
    assert (went_on["init"], went_on["lr"]) == (str(folder / "latest.pth"), 1e-4)
    (figures,) = then.glob("y_every2_selection0.4_sky0_*.json")
    kept = figures.stat().st_mtime_ns
    assert cross_validation.main(argv) == 0  # nothing is trained or measured twice
    assert figures.stat().st_mtime_ns == kept
    # What a shorter training led to is not taken for that of a longer one.
    assert then.name.endswith(file_sha256(folder / "latest.pth")[:8])
    assert figures.stem.endswith(file_sha256(then / "latest.pth")[:8])


def test_of_amounts_that_win_equally_many_metrics_mi_and_ssim_decide() -> None:
    baseline = dict.fromkeys(TEN_METRICS, 1.0)
    with_mi, with_sd, with_both = ({**baseline, **dict.fromkeys(won, 2.0)} for won in (["MI"], ["SD"], ["SD", "AG"]))
    assert cross_validation._won([(with_mi, baseline)]) > cross_validation._won([(with_sd, baseline)])
    assert cross_validation._won([(with_both, baseline)]) > cross_validation._won([(with_mi, baseline)])
