"""The README's results table: fused images, metrics and ranks on test sets, in one command.

    python -m benchmarks.fusion_results --data_dir DATA --datasets TNO42 RoadScene50 --output results

`DATA/NAME` holds the pairs of a set (`ir/` + `vi/`). Images are fused by the shipped network or `--model_path`, with
masks by `--sam_model_type` if it is given, and ranked among the methods of `peers.json` (see `fusion_peers.py`). Masks
that `--output` already holds are kept.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import command_line, markdown_table
from benchmarks.fusion_peers import (
    OURS,
    PEERS,
    mean_ranks,
    own_interval,
    read_rows,
    rules_ahead,
    table,
    win_counts,
)
from thfuse_sam.cli.commands import precompute
from thfuse_sam.cli.commands import test as fuse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = command_line(__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--datasets", nargs="+", default=["TNO42", "RoadScene50"], help="their folders' names")
    parser.add_argument("--peers", type=Path, default=PEERS, help="means of other methods (default: those shipped)")
    parser.add_argument("--model_path", type=Path, help="network (default: the shipped one)")
    parser.add_argument("--sam_model_type", help="which SAM makes masks (default: images are fused without)")
    parser.add_argument("--output", type=Path, required=True, help="folder for masks, fused images and tables")
    options = parser.parse_args(argv)
    summary = []
    for name in options.datasets:
        if status := fuse_dataset(options, name):
            return status
        try:
            rows = read_rows(options.output / name, options.peers, name)
        except (OSError, ValueError, KeyError) as error:
            parser.error(f"--data_dir {options.data_dir / name} or --peers {options.peers}: {error}")
        print(f"\n{name}\n\n{table(rows)}\n\n{rules_ahead(rows)}\n")
        ours, ranks = rows[OURS], mean_ranks(rows)
        place = 1 + sum(rank < ranks[OURS] for rank in ranks.values())
        low, high = own_interval(options.output / name, rows)
        scores = (
            f"{ranks[OURS]:.2f} [{low:.2f} to {high:.2f}]",
            f"{place} of {len(rows)}",
            f"{ours['SCD']:.3f}",
            f"{ours['Nabf']:.3f}",
        )
        summary.append((name, *scores, win_counts(rows)))
    print(markdown_table(("data set", "mean rank", "place", "SCD", "Nabf", "better on how many of 10"), summary))
    return 0


def fuse_dataset(options: argparse.Namespace, name: str) -> int:
    """Masks, fused images and metrics of one set; the exit status of the command that failed, or 0."""
    pairs = ["--dataset_path", str(options.data_dir / name)]
    masks = ["--precomputed_masks_dir", "none"]
    if options.sam_model_type is not None:
        tree = str(options.output / "masks" / name)
        if status := precompute.main([*pairs, "--sam_model_type", options.sam_model_type, "--output_dir", tree]):
            return status
        masks = ["--precomputed_masks_dir", tree]
    network = [] if options.model_path is None else ["--model_path", str(options.model_path)]
    output = [*masks, "--metrics", "--output_dir", str(options.output / name)]
    return fuse.main([*pairs, *network, *output])


if __name__ == "__main__":
    sys.exit(main())
