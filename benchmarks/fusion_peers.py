"""Rank a folder of results among other methods: mean metrics of test.py and a JSON file of the others' means.

    python test.py --dataset_path TNO42 --metrics --output_dir results/tno
    python -m benchmarks.fusion_peers --results results/tno --dataset TNO42

Ranks are of each metric among all rows, 1 is best, equal values share the mean of their ranks; the mean rank is over
ten metrics. Simple rules (avg, max, GFF, LP) are rows like others, and below the table stands where they are ahead.
`--peers` names another file than peers.json beside this one: {"means": data set -> method -> metric -> mean, "pairs":
data set -> number of pairs that the means are over}.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import command_line, markdown_table
from thfuse_sam.metrics import METRICS, TEN_METRICS
from thfuse_sam.metrics.ranks import DRAWS, INTERVAL

PEERS = Path(__file__).with_name("peers.json")
# Methods that wins are counted against, where they are listed.
COMPARED = ("SeAFusion", "SAGE", "ReFusion", "SHIP", "SFDFusion")
RULES = ("avg", "max", "GFF", "LP")  # no networks
OURS = "this network"

Means = Mapping[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = command_line(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder with metrics.json, of test.py --metrics")
    parser.add_argument("--peers", type=Path, default=PEERS, help="means of other methods (default: those shipped)")
    parser.add_argument("--dataset", required=True, help="name of the data set in it")
    parser.add_argument("--against", nargs="+", default=COMPARED, metavar="METHOD", help="count wins against these")
    options = parser.parse_args(argv)
    try:
        rows = read_rows(options.results, options.peers, options.dataset)
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"--results {options.results}, --peers {options.peers} or --dataset {options.dataset}: {error}")
    print(table(rows), rules_ahead(rows), sep="\n\n", end="\n\n")
    print(
        "95 % interval of its mean rank, over its images: {:.2f} to {:.2f}".format(*own_interval(options.results, rows))
    )
    for method in options.against:
        if method in rows:
            won = wins(rows[OURS], rows[method])
            print(f"better than {method} on {len(won)} of {len(TEN_METRICS)}: {', '.join(won)}")
    return 0


def read_peers(path: Path) -> dict[str, dict[str, Means]]:
    """Data set -> method -> metric -> mean."""
    means: dict[str, dict[str, Means]] = json.loads(path.read_text(encoding="utf-8"))["means"]
    return means


def read_rows(results: Path, peers: Path, dataset: str) -> dict[str, Means]:
    """The means of this network and of the others. Raises ValueError where they lack a metric or are of other pairs."""
    rows = {OURS: read_own(results), **read_peers(peers)[dataset]}
    require_all_metrics(rows)
    own = len(json.loads((results / "metrics.json").read_text(encoding="utf-8"))["images"])
    theirs = json.loads(peers.read_text(encoding="utf-8")).get("pairs", {}).get(dataset, own)
    if own != theirs:
        raise ValueError(f"{results} has {own} images, and the other methods' means are over {theirs}")
    return rows


def read_own(results: Path) -> Means:
    """The means that `test.py --metrics` has written into a folder."""
    means: Means = json.loads((results / "metrics.json").read_text(encoding="utf-8"))["mean"]
    return means


def require_all_metrics(rows: Mapping[str, Means]) -> None:
    """Raise ValueError where a row lacks a metric."""
    for name, means in rows.items():
        for metric in TEN_METRICS:
            if means.get(metric) is None:
                raise ValueError(f"{name} lacks {metric}; every row needs {', '.join(TEN_METRICS)}")


def ranks(rows: Mapping[str, Means], metric: str) -> dict[str, float]:
    """Rank of each row, 1 is best; equal values share the mean of their ranks."""
    sign = -1 if METRICS[metric].better == "higher" else 1
    values = {name: sign * row[metric] for name, row in rows.items()}
    return {
        name: sum(other < value for other in values.values())
        + (sum(other == value for other in values.values()) + 1) / 2
        for name, value in values.items()
    }


def mean_ranks(rows: Mapping[str, Means]) -> dict[str, float]:
    """Mean over the ten metrics of each row's ranks."""
    by_metric = [ranks(rows, metric) for metric in TEN_METRICS]
    return {name: sum(rank[name] for rank in by_metric) / len(TEN_METRICS) for name in rows}


def own_interval(results: Path, rows: Mapping[str, Means]) -> tuple[float, float]:
    """95 % interval of this network's mean rank: a bootstrap over its images, beside the others' means as they are."""
    images = json.loads((results / "metrics.json").read_text(encoding="utf-8"))["images"].values()
    values = np.array([[image[metric] for metric in TEN_METRICS] for image in images], float)
    others = np.array([[row[metric] for metric in TEN_METRICS] for name, row in rows.items() if name != OURS])
    signs = np.array([1 if METRICS[metric].better == "higher" else -1 for metric in TEN_METRICS])
    draws = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    means = np.nanmean(values[draws], axis=1)[:, np.newaxis] * signs
    behind, equal = (others * signs > means).sum(axis=1), (others * signs == means).sum(axis=1)
    low, high = np.percentile((1 + behind + equal / 2).mean(axis=1), INTERVAL)
    return float(low), float(high)


def wins(ours: Means, other: Means) -> list[str]:
    """The metrics in which `ours` is better."""
    return [m for m in TEN_METRICS if (ours[m] > other[m]) == (METRICS[m].better == "higher") and ours[m] != other[m]]


def win_counts(rows: Mapping[str, Means]) -> str:
    """On how many metrics this network is better than each method of COMPARED that is listed, the most first."""
    counts = {method: len(wins(rows[OURS], rows[method])) for method in COMPARED if method in rows}
    return ", ".join(f"{method} {counts[method]}" for method in sorted(counts, key=lambda name: -counts[name]))


def rules_ahead(rows: Mapping[str, Means]) -> str:
    """A sentence for the text beside the table: in which metrics simple rules are better than this network."""
    ahead = {rule: wins(rows[rule], rows[OURS]) for rule in RULES if rule in rows}
    named = [f"`{rule}` in {', '.join(metrics)}" for rule, metrics in ahead.items() if metrics]
    return f"Simple rules ahead of {OURS}: {'; '.join(named) or 'none'}."


def table(rows: Mapping[str, Means]) -> str:
    """A Markdown table, the best mean rank first."""
    means = mean_ranks(rows)
    return markdown_table(
        ("method", *TEN_METRICS, "mean rank"),
        [
            (name, *(f"{rows[name][metric]:.4g}" for metric in TEN_METRICS), f"{means[name]:.2f}")
            for name in sorted(rows, key=lambda row: means[row])
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
