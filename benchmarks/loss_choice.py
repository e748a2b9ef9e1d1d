"""Are the shipped weights of the loss those that the pairs kept for validation ask for? One Markdown table.

    python -m benchmarks.loss_choice --dataset_path RoadScene171 MSRS80 \\
        --masks masks/RoadScene171 masks/MSRS80 --output loss_choice

Each weight is halved and doubled alone (those of the regions together: left out and doubled), and the network is
trained anew from the same beginning, on the pairs that `train.py` trains on. Then the whole pairs that `train.py` keeps
for validation are fused. The rule, fixed before the first training: **other weights take the place of the shipped ones
where they are better on at least 7 of the 10 metrics** and keep Nabf at 0.03 or less. A second seed of the shipped
weights shows what such a count is by chance. Finished trainings are kept in `--output`.
"""

import argparse
import dataclasses
import functools
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import joblib
import numpy as np
import torch

from benchmarks.common import command_line, made_by, markdown_table
from benchmarks.fusion_peers import wins
from benchmarks.fusion_runs import BOTH, add_training_options, evaluate, figures_file, kept_figures, train
from benchmarks.metric_reference import RULES
from thfuse_sam.datasets.pairs import PairSet, find_pairs
from thfuse_sam.datasets.splits import split_pairs
from thfuse_sam.files import write_text
from thfuse_sam.images import luma, read_infrared, read_visible
from thfuse_sam.losses import DEFAULT_WEIGHTS
from thfuse_sam.metrics import TEN_METRICS, fusion_metrics
from thfuse_sam.report.run_facts import mask_signature

SHIPPED = "as shipped"
WINS_TO_REPLACE = 7  # of ten metrics
LARGEST_NABF = 0.03
VAL_FRACTION, SPLIT_SEED = 0.1, 0  # the defaults of train.py
RULE_NAMES = {"max": "rule max(VI, IR)", "avg": "rule average"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = command_line(__doc__)
    add_training_options(parser, epochs=17, batch_size=4, crop_size=160, lr=2e-3, ema_decay=0.995)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, of one thread each")
    options = parser.parse_args(argv)
    train_sets: list[PairSet] = []
    val_sets: list[PairSet] = []
    for pair_set in (find_pairs(path) for path in options.dataset_path):
        train_pairs, val_pairs = split_pairs(pair_set.pairs, VAL_FRACTION, SPLIT_SEED)
        train_sets.append(dataclasses.replace(pair_set, pairs=train_pairs))
        val_sets.append(dataclasses.replace(pair_set, pairs=val_pairs))
    runs = [(name, weights, 0) for name, weights in variants().items()]
    runs.insert(1, (f"{SHIPPED}, another seed", {}, 1))
    results = joblib.Parallel(n_jobs=options.jobs)(
        joblib.delayed(_figures)(options, *run, train_sets, val_sets) for run in runs
    )
    rows = {name: means for (name, _, _), means in zip(runs, results, strict=True)}
    text = f"{_heading(options, val_sets)}\n\n{table(rows, _rules(val_sets))}\n"
    write_text(options.output / "table.md", text)
    print(text)
    return 0


def variants() -> dict[str, dict[str, float]]:
    """Name -> weights that differ from the shipped ones."""
    weights: dict[str, dict[str, float]] = {SHIPPED: {}}
    for name in ("pyramid", "gradient", "ssim"):
        for factor in (0.5, 2.0):
            weights[f"{name} {DEFAULT_WEIGHTS[name] * factor:g}"] = {name: DEFAULT_WEIGHTS[name] * factor}
    regions = ("region", "region_edges")
    weights["no region losses"] = dict.fromkeys(regions, 0.0)
    weights["region losses doubled"] = {name: 2 * DEFAULT_WEIGHTS[name] for name in regions}
    return weights


def _figures(
    options: argparse.Namespace,
    name: str,
    weights: Mapping[str, float],
    seed: int,
    train_sets: Sequence[PairSet],
    val_sets: Sequence[PairSet],
) -> dict[str, float]:
    """Means of the metrics over the validation pairs after a training, in a process of its own."""
    torch.set_num_threads(1)
    folder = options.output / name.replace(" ", "_").replace(",", "")
    run = functools.partial(_train_and_evaluate, options, weights, seed, train_sets, val_sets, folder)
    return kept_figures(figures_file(folder, options), run)


def _train_and_evaluate(
    options: argparse.Namespace,
    weights: Mapping[str, float],
    seed: int,
    train_sets: Sequence[PairSet],
    val_sets: Sequence[PairSet],
    folder: Path,
) -> dict[str, float]:
    cpu = torch.device("cpu")
    network = train(options, train_sets, BOTH, seed, weights, cpu, folder)
    means = [evaluate(network, BOTH, pairs, tree, cpu) for pairs, tree in zip(val_sets, options.masks, strict=True)]
    counts = [len(pairs.pairs) for pairs in val_sets]
    return {key: float(np.average([mean[key] for mean in means], weights=counts)) for key in TEN_METRICS}


def _rules(val_sets: Sequence[PairSet]) -> dict[str, dict[str, float]]:
    """The means of two rules that need no network."""
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in RULE_NAMES.values()}
    for pair in (pair for pairs in val_sets for pair in pairs.pairs):
        ir, vi = read_infrared(pair.ir), luma(read_visible(pair.vi))
        for rule, name in RULE_NAMES.items():
            fused = RULES[rule](ir, vi)
            scores[name].append(fusion_metrics(fused, ir, vi, TEN_METRICS))
    return {name: {key: statistics.fmean(one[key] for one in of) for key in TEN_METRICS} for name, of in scores.items()}


def replaces(means: Mapping[str, float], shipped: Mapping[str, float]) -> bool:
    """The rule above."""
    return len(wins(means, shipped)) >= WINS_TO_REPLACE and means["Nabf"] <= LARGEST_NABF


def table(rows: Mapping[str, Mapping[str, float]], rules: Mapping[str, Mapping[str, float]]) -> str:
    """`rows`: the first is the shipped one."""
    shipped = rows[SHIPPED]
    lines = []
    for name, means in {**rows, **rules}.items():
        count = "" if name == SHIPPED else str(len(wins(means, shipped)))
        verdict = "" if name == SHIPPED or name in rules else "yes" if replaces(means, shipped) else "no"
        lines.append((name, *(f"{means[key]:.4g}" for key in TEN_METRICS), count, verdict))
    return markdown_table(("weights", *TEN_METRICS, "better on", "takes its place"), lines)


def _heading(options: argparse.Namespace, val_sets: Sequence[PairSet]) -> str:
    trees = "; ".join(mask_signature(tree) for tree in options.masks)
    kept = " and ".join(
        f"{len(pairs.pairs)} of {path.name}" for pairs, path in zip(val_sets, options.dataset_path, strict=True)
    )
    return (
        f"Means over validation pairs, {kept}; {options.epochs} epochs of batch {options.batch_size}, crops of "
        f"{options.crop_size} pixels; masks {trees}; {made_by()}."
    )


if __name__ == "__main__":
    sys.exit(main())
