"""Rank a folder of results among other methods: mean metrics of test.py and a JSON file of the others' means.

    python test.py --dataset_path TNO42 --metrics --output_dir results/tno
    python benchmarks/fusion_peers.py --results results/tno --peers PEERS.json --dataset TNO42

`PEERS.json` maps data set -> method -> metric -> mean. Ranks are of each metric among all rows, 1 is best, equal values
share the mean of their ranks; the mean rank is over ten metrics. Trivial rules (avg, max) are rows like others.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# A checkout is used without installing it: this script's own folder is on the path, the package's is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from thfuse_sam.metrics import METRICS

RANKED = ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM", "Nabf")
BEATEN = ("SeAFusion", "SAGE", "ReFusion")  # methods that wins are counted against, where they are listed
OURS = "this network"

Means = Mapping[str, float]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder with metrics.json, of test.py --metrics")
    parser.add_argument("--peers", type=Path, required=True, help="JSON file: data set -> method -> metric -> mean")
    parser.add_argument("--dataset", required=True, help="name of the data set in it")
    parser.add_argument("--against", nargs="+", default=list(BEATEN), metavar="METHOD", help="count wins against these")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    try:
        ours = json.loads((options.results / "metrics.json").read_text(encoding="utf-8"))["mean"]
        peers = json.loads(options.peers.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"--results {options.results} or --peers {options.peers}: {error}")
    if options.dataset not in peers:
        parser.error(f"--dataset {options.dataset}: not in {options.peers}; there are {', '.join(peers)}")
    rows = {OURS: ours, **peers[options.dataset]}
    incomplete = [
        f"{name} lacks {metric}" for name, row in rows.items() for metric in RANKED if row.get(metric) is None
    ]
    if incomplete:
        parser.error(f"{incomplete[0]}; every row needs {', '.join(RANKED)}")
    print(table(rows))
    print()
    for method in options.against:
        if method in rows:
            won = wins(ours, rows[method])
            print(f"better than {method} on {len(won)} of {len(RANKED)}: {', '.join(won)}")
    return 0


def ranks(rows: Mapping[str, Means], metric: str) -> dict[str, float]:
    """Rank of each row, 1 is best; equal values share the mean of their ranks."""
    sign = -1 if METRICS[metric].better == "higher" else 1
    values = {name: sign * row[metric] for name, row in rows.items()}
    return {
        name: sum(other < value for other in values.values()) + (sum(o == value for o in values.values()) + 1) / 2
        for name, value in values.items()
    }


def mean_ranks(rows: Mapping[str, Means]) -> dict[str, float]:
    """Mean over `RANKED` of each row's ranks."""
    by_metric = [ranks(rows, metric) for metric in RANKED]
    return {name: sum(found[name] for found in by_metric) / len(RANKED) for name in rows}


def wins(ours: Means, other: Means) -> list[str]:
    """The metrics in which `ours` is better."""
    return [m for m in RANKED if (ours[m] > other[m]) == (METRICS[m].better == "higher") and ours[m] != other[m]]


def table(rows: Mapping[str, Means]) -> str:
    """A Markdown table, the best mean rank first."""
    means = mean_ranks(rows)
    lines = [f"| method | {' | '.join(RANKED)} | mean rank |", f"|---|{'---:|' * (len(RANKED) + 1)}"]
    for name in sorted(rows, key=lambda row: means[row]):
        lines.append(f"| {name} | {' | '.join(f'{rows[name][m]:.4g}' for m in RANKED)} | {means[name]:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
