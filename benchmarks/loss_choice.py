"""Are the shipped weights of the loss those that the pairs kept for validation ask for? One Markdown table.

    python benchmarks/loss_choice.py --dataset_path RoadScene171 MSRS80 \\
        --masks masks/RoadScene171 masks/MSRS80 --output loss_choice

Each weight is halved and doubled alone (those of the regions together: left out and doubled), and the network is
trained anew from the same beginning, on the pairs that `train.py` trains on. Then the whole pairs that `train.py` keeps
for validation are fused. The rule, fixed before the first training: **other weights take the place of the shipped ones
where they are better on at least 7 of the 10 metrics** and keep Nabf at 0.03 or less. A second seed of the shipped
weights shows what such a count is by chance. Finished trainings are kept in `--output`.
"""

import argparse
import dataclasses
import datetime
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# A checkout is used without installing it: this script's own folder is on the path, the package's is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import joblib
import numpy as np
import torch
from ablation import ARMS, SHOWN, evaluate, train
from fusion_peers import wins

from thfuse_sam.datasets.pairs import PairSet, find_pairs
from thfuse_sam.files import write_json, write_text
from thfuse_sam.fusion.training import split_pairs
from thfuse_sam.images import luma, read_infrared, read_visible
from thfuse_sam.losses import DEFAULT_WEIGHTS
from thfuse_sam.metrics import METRICS
from thfuse_sam.models import DEFAULT_NETWORK
from thfuse_sam.report.run_facts import code_version, machine, mask_signature

SHIPPED = "as shipped"
WINS_TO_REPLACE = 7  # of len(SHOWN)
LARGEST_NABF = 0.03
VAL_FRACTION, SPLIT_SEED = 0.1, 0  # the defaults of train.py


def variants() -> dict[str, dict[str, float]]:
    """Name -> weights that differ from the shipped ones."""
    found: dict[str, dict[str, float]] = {SHIPPED: {}}
    for name in ("pyramid", "gradient", "ssim"):
        for factor in (0.5, 2.0):
            found[f"{name} {DEFAULT_WEIGHTS[name] * factor:g}"] = {name: DEFAULT_WEIGHTS[name] * factor}
    regions = ("region", "region_edges")
    found["no region losses"] = dict.fromkeys(regions, 0.0)
    found["region losses doubled"] = {name: 2 * DEFAULT_WEIGHTS[name] for name in regions}
    return found


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_path", type=Path, nargs="+", required=True, help="pairs, a part of which is kept")
    parser.add_argument("--masks", type=Path, nargs="+", required=True, help="mask tree of each --dataset_path")
    parser.add_argument("--epochs", type=int, default=17)
    parser.add_argument("--max_steps", type=int, help="stop each training after so many steps")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--crop_size", type=int, default=160)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--ema_decay", type=float, default=0.995)
    parser.add_argument("--network", default=DEFAULT_NETWORK)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, of one thread each")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints, figures and table.md")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = build_parser().parse_args(argv)
    found = [find_pairs(path) for path in options.dataset_path]
    splits = [split_pairs(one.pairs, VAL_FRACTION, SPLIT_SEED) for one in found]
    train_sets = [dataclasses.replace(one, pairs=part) for one, (part, _) in zip(found, splits, strict=True)]
    val_sets = [dataclasses.replace(one, pairs=part) for one, (_, part) in zip(found, splits, strict=True)]
    runs = [(name, weights, 0) for name, weights in variants().items()]
    runs.insert(1, (f"{SHIPPED}, another seed", {}, 1))
    results = joblib.Parallel(n_jobs=options.jobs)(
        joblib.delayed(_run)(options, *run, train_sets, val_sets) for run in runs
    )
    rows = {name: means for (name, _, _), means in zip(runs, results, strict=True)}
    text = f"{_heading(options, val_sets)}\n\n{table(rows, _rules(val_sets))}\n"
    write_text(options.output / "table.md", text)
    print(text)
    return 0


def _run(
    options: argparse.Namespace,
    name: str,
    weights: Mapping[str, float],
    seed: int,
    train_sets: Sequence[PairSet],
    val_sets: Sequence[PairSet],
) -> dict[str, float]:
    """Means of the metrics over the validation pairs after a training."""
    torch.set_num_threads(1)
    folder = options.output / name.replace(" ", "_").replace(",", "")
    file = folder / "means.json"
    if not file.is_file():
        changed = [f"{key}={value}" for key, value in weights.items()]
        given = argparse.Namespace(**{**vars(options), "loss_weights": changed})
        cpu = torch.device("cpu")
        network = train(given, "both", seed, train_sets, cpu, folder)
        parts = [
            evaluate(network, ARMS["both"], one, tree, cpu) for one, tree in zip(val_sets, options.masks, strict=True)
        ]
        counts = [len(one.pairs) for one in val_sets]
        write_json(file, {key: float(np.average([part[key] for part in parts], weights=counts)) for key in SHOWN})
    means: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return means


def _rules(val_sets: Sequence[PairSet]) -> dict[str, dict[str, float]]:
    """The means of two rules that need no network."""
    values: dict[str, list[dict[str, float]]] = {"rule max(VI, IR)": [], "rule average": []}
    for pair in (pair for one in val_sets for pair in one.pairs):
        ir, vi = read_infrared(pair.ir), luma(read_visible(pair.vi))
        average = np.round((ir.astype(np.float32) + vi) / 2).astype(np.uint8)
        for name, fused in (("rule max(VI, IR)", np.maximum(ir, vi)), ("rule average", average)):
            values[name].append({key: METRICS[key].compute(fused, ir, vi) for key in SHOWN})
    return {name: {key: statistics.fmean(one[key] for one in of) for key in SHOWN} for name, of in values.items()}


def replaces(means: Mapping[str, float], shipped: Mapping[str, float]) -> bool:
    """The rule above."""
    return len(wins(means, shipped)) >= WINS_TO_REPLACE and means["Nabf"] <= LARGEST_NABF


def table(rows: Mapping[str, Mapping[str, float]], rules: Mapping[str, Mapping[str, float]]) -> str:
    """`rows`: the first is the shipped one."""
    shipped = rows[SHIPPED]
    lines = [f"| weights | {' | '.join(SHOWN)} | better on | takes its place |", f"|---|{'---:|' * (len(SHOWN) + 2)}"]
    for name, means in (rows | dict(rules)).items():
        cells = " | ".join(f"{means[key]:.4g}" for key in SHOWN)
        count = "" if name == SHIPPED else str(len(wins(means, shipped)))
        verdict = "" if name == SHIPPED or name in rules else "yes" if replaces(means, shipped) else "no"
        lines.append(f"| {name} | {cells} | {count} | {verdict} |")
    return "\n".join(lines)


def _heading(options: argparse.Namespace, val_sets: Sequence[PairSet]) -> str:
    trees = "; ".join(mask_signature(tree) for tree in options.masks)
    kept = " and ".join(
        f"{len(one.pairs)} of {path.name}" for one, path in zip(val_sets, options.dataset_path, strict=True)
    )
    return (
        f"Means over validation pairs, {kept}; {options.epochs} epochs of batch {options.batch_size}, crops of "
        f"{options.crop_size} pixels; masks {trees}; {code_version()}; {machine(torch.device('cpu'))}; "
        f"{datetime.date.today().isoformat()}."
    )


if __name__ == "__main__":
    sys.exit(main())
