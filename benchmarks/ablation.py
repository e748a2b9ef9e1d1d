"""Does SAM help? Five trainings for each seed, evaluated on other pairs: one Markdown table.

    python -m benchmarks.ablation --dataset_path RoadScene171 MSRS80 --masks masks/RoadScene171 masks/MSRS80 \\
        --test_path VALIDATION --test_masks masks/VALIDATION --epochs 20 --output ablation

| arm | the network sees | losses see |
|---|---|---|
| none | no masks | no masks |
| placeholder | the constant 0.5 instead of masks | no segments |
| guidance | masks | no segments |
| region losses | the constant 0.5 | masks |
| both | masks | masks |

Every arm of a seed has the same weights to begin with, the same crops in the same order, and the same steps. The region
metrics of all arms are measured in the segments of `--test_masks`, whatever the network saw. Finished arms are kept in
`--output` and not done again with the same options.
"""

import argparse
import functools
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.common import command_line, made_by, markdown_table
from benchmarks.fusion_runs import (
    BOTH,
    REGION_METRICS,
    TARGET_METRICS,
    Arm,
    add_training_options,
    evaluate,
    figures_file,
    kept_figures,
    train,
)
from thfuse_sam.datasets.pairs import PairSet, find_pairs
from thfuse_sam.devices import resolve_device
from thfuse_sam.files import write_text
from thfuse_sam.metrics import TEN_METRICS
from thfuse_sam.report.run_facts import mask_signature

ARMS = {
    "none": Arm(masks=False, guidance=False, region_losses=False),
    "placeholder": Arm(masks=True, guidance=False, region_losses=False),
    "guidance": Arm(masks=True, guidance=True, region_losses=False),
    "region losses": Arm(masks=True, guidance=False, region_losses=True),
    "both": BOTH,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = command_line(__doc__)
    add_training_options(parser, epochs=20, batch_size=8, crop_size=128, lr=1e-3, ema_decay=0.0)
    parser.add_argument("--test_path", type=Path, required=True, help="pairs to evaluate on")
    parser.add_argument("--test_masks", type=Path, required=True, help="their mask tree")
    parser.add_argument("--targets", type=Path, help="labels of the test pairs, class 0 people (None: not measured)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--loss_weights", nargs="+", default=[], metavar="NAME=VALUE", help="change parts of the loss")
    parser.add_argument("--threads", type=int, help="of torch (None: its own choice)")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(argv)
    if len(options.masks) != len(options.dataset_path):
        parser.error(f"--masks names {len(options.masks)} trees for {len(options.dataset_path)} --dataset_path")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    train_sets, test_set = [find_pairs(path) for path in options.dataset_path], find_pairs(options.test_path)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    for seed in options.seeds:
        for name, means in results.items():
            folder = options.output / f"{name.replace(' ', '_')}_seed{seed}"
            run = functools.partial(run_arm, options, ARMS[name], seed, train_sets, test_set, device, folder)
            means.append(kept_figures(figures_file(folder, options), run))
            print(f"seed {seed}, {name}: {means[-1]}", file=sys.stderr)
    text = f"{heading(options, device)}\n\n{table(results)}\n"
    write_text(options.output / "table.md", text)
    print(text)
    return 0


def run_arm(
    options: argparse.Namespace,
    arm: Arm,
    seed: int,
    train_sets: Sequence[PairSet],
    test_set: PairSet,
    device: torch.device,
    folder: Path,
) -> dict[str, float]:
    weights = {key: float(value) for key, _, value in (text.partition("=") for text in options.loss_weights)}
    network = train(options, train_sets, arm, seed, weights, device, folder)
    return evaluate(network, arm, test_set, options.test_masks, device, options.targets)


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Mean over the seeds, and the standard deviation between them where there are several."""
    columns = [
        name
        for name in (*TEN_METRICS, *REGION_METRICS, *TARGET_METRICS)
        if all(name in means for runs in results.values() for means in runs)
    ]
    header = ("masks", *(name.replace("_", " ") for name in columns))
    return markdown_table(
        header, [(arm, *(_mean([means[name] for means in runs]) for name in columns)) for arm, runs in results.items()]
    )


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{spread}"


def heading(options: argparse.Namespace, device: torch.device) -> str:
    trees = "; ".join(mask_signature(tree) for tree in [*options.masks, options.test_masks])
    data = ", ".join(path.name for path in options.dataset_path)
    return (
        f"Trained on {data}, evaluated on {options.test_path.name}; seeds {', '.join(map(str, options.seeds))}; "
        f"{options.epochs} epochs of batch {options.batch_size}; masks {trees}; {made_by(device)}. "
        "Mean over seeds ± their standard deviation."
    )


if __name__ == "__main__":
    sys.exit(main())
