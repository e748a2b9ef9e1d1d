"""How good is a training on sets of another kind? Each set is left out once: train on the others, judge on it.

    python -m tools.scenes --output scenes --count 150 --seed 5000
    python -m benchmarks.cross_validation --data_dir DATA --datasets RoadScene171 MSRS80 MSRS120 --beside scenes \\
        --baseline models/thfuse_lite.safetensors --output cv --epochs 17 --crop_size 144 --batch_size 4 --lr 2e-3 \\
        --ema_decay 0.995 --jitter 0.5 --then "--epochs 3 --lr 5e-4 --ema_decay 0.99 --jitter 0 --seed 1"

`DATA/NAME` holds the pairs of a set. Options that are not listed below go to `train.py`, which trains without masks.
How far each place follows one source (`selection`) is chosen, too: the amount that beats `--baseline` on the most
metrics over the sets that were trained on; of equal ones, the one that wins MI and SSIM. Rows are means over every
fourth pair of the set left out, without masks, and without the stage for skies or with it, which takes pictures away
from what the metrics ask for. Finished trainings and figures in `--output` are kept.
"""

import argparse
import functools
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.common import command_line, made_by, markdown_table
from benchmarks.fusion_peers import wins
from benchmarks.fusion_runs import kept_figures
from thfuse_sam.cli.commands import train
from thfuse_sam.datasets.fusion import FusionDataset, to_uint8
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.files import file_sha256, write_text
from thfuse_sam.fusion.inference import fuse_lumas
from thfuse_sam.fusion.loading import load_network
from thfuse_sam.masks.source import NoMasks
from thfuse_sam.metrics import TEN_METRICS, fusion_metrics
from thfuse_sam.training.resuming import LATEST

AMOUNTS = (0.0, 0.4, 0.7, 1.0)  # of `selection`
FIRST = ("MI", "SSIM")  # decide between amounts that win equally many metrics
Means = dict[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = command_line(__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--datasets", nargs="+", required=True, help="their folders' names, three or more")
    parser.add_argument("--beside", type=Path, nargs="+", default=[], help="folders of pairs for every training")
    parser.add_argument("--then", type=shlex.split, default=[], help="options of a training that goes on from each")
    parser.add_argument("--baseline", type=Path, required=True, help="network to compare with")
    parser.add_argument("--every", type=int, default=4, help="judge every so many pairs (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints, figures and table.md")
    options, training = parser.parse_known_args(argv)
    rows = []
    for left_out in options.datasets:
        others = [name for name in options.datasets if name != left_out]
        folder = options.output / left_out
        data = [str(path) for path in (*(options.data_dir / name for name in others), *options.beside)]
        fixed = ["--precomputed_masks_dir", "none", "--val_fraction", "0", "--resume", "auto"]
        common = ["--dataset_path", *data, *fixed, *training]
        if status := train.main([*common, "--output_dir", str(folder)]):
            return status
        if options.then:
            first = folder / LATEST
            folder /= f"then_{file_sha256(first)[:8]}"
            go_on = ["--init", str(first), *options.then, "--output_dir", str(folder)]
            if status := train.main([*common, *go_on]):
                return status
        baseline = {name: _means(options, options.output, options.baseline, name) for name in options.datasets}
        trained = functools.partial(_means, options, folder, folder / LATEST)
        best = max(AMOUNTS, key=lambda amount: _won([(trained(name, amount), baseline[name]) for name in others]))
        rows.append((left_out, "baseline", *_cells(baseline[left_out]), ""))
        for label, sky in (("trained on the others", 0.0), ("with the stage for skies", 1.0)):
            means = trained(left_out, best, sky)
            won_by = wins(means, baseline[left_out])
            rows.append(
                (left_out, f"{label}, selection {best:g}", *_cells(means), f"{len(won_by)}: {', '.join(won_by)}")
            )
    text = markdown_table(("left out", "network", *TEN_METRICS, "better on"), rows) + f"\n\n{made_by()}.\n"
    write_text(options.output / "table.md", text)
    print(text)
    return 0


def _means(
    options: argparse.Namespace, folder: Path, network: Path, name: str, selection: float = 0.0, sky: float = 0.0
) -> Means:
    """Mean metrics on a set, from `folder` where they are known of these weights."""
    make = functools.partial(measure, network, options.data_dir / name, options.every, selection, sky)
    known = f"{name}_every{options.every}_selection{selection:g}_sky{sky:g}_{file_sha256(network)[:8]}.json"
    return kept_figures(folder / known, make)


def measure(path: Path, dataset: Path, every: int, selection: float, sky: float) -> Means:
    """Mean metrics of a network, with other amounts of its stages, over every so many pairs of a set."""
    network, _ = load_network(path)
    network.selection, network.sky = selection, sky
    scores: list[Mapping[str, float]] = []
    samples = FusionDataset(find_pairs(dataset).pairs[::every], NoMasks())
    for sample in (samples[index] for index in range(len(samples))):
        (fused,) = fuse_lumas(network, [sample], torch.device("cpu"))
        scores.append(fusion_metrics(fused, to_uint8(sample["ir"][0]), to_uint8(sample["vi"][0]), TEN_METRICS))
    return {metric: statistics.fmean(one[metric] for one in scores) for metric in TEN_METRICS}


def _won(pairs: Sequence[tuple[Means, Means]]) -> tuple[int, int]:
    """How many metrics are won over the baseline on all sets together, and how many of them are in `FIRST`."""
    won = [metric for own, baseline in pairs for metric in wins(own, baseline)]
    return len(won), sum(metric in FIRST for metric in won)


def _cells(means: Means) -> list[str]:
    return [f"{means[metric]:.4g}" for metric in TEN_METRICS]


if __name__ == "__main__":
    sys.exit(main())
