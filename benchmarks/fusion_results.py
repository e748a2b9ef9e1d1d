"""The README's results table: masks, fused images, metrics and ranks on test sets, in one command.

    python benchmarks/fusion_results.py --data_dir DATA --datasets TNO42 RoadScene50 --peers PEERS.json --output results

`DATA/NAME` holds the pairs of a set (`ir/` + `vi/`), `PEERS.json` other methods' means (see `fusion_peers.py`).
Masks are made by `--sam_model_type`, images fused by the shipped network or `--model_path`. Masks that `--output`
already holds are kept.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

# A checkout is used without installing it: this script's own folder is on the path, the package's is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fusion_peers import BEATEN, OURS, mean_ranks, table, wins

from thfuse_sam.cli import precompute
from thfuse_sam.cli import test as fuse
from thfuse_sam.shipped import shipped_root


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--datasets", nargs="+", default=["TNO42", "RoadScene50"], help="their folders' names")
    parser.add_argument("--peers", type=Path, required=True, help="JSON file: data set -> method -> metric -> mean")
    parser.add_argument("--model_path", type=Path, default=shipped_root() / fuse.SHIPPED_MODEL, help="network")
    parser.add_argument("--sam_model_type", default="vit_nano", help="which SAM makes the masks")
    parser.add_argument("--output", type=Path, required=True, help="folder for masks, fused images and tables")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = build_parser().parse_args(argv)
    peers = json.loads(options.peers.read_text(encoding="utf-8"))
    chosen = ["--model_path", str(options.model_path)]
    summary = []
    for name in options.datasets:
        pairs = ["--dataset_path", str(options.data_dir / name)]
        masks, fused = options.output / "masks" / name, options.output / name
        made = ["--sam_model_type", options.sam_model_type, "--output_dir", str(masks)]
        for command, arguments in (
            (precompute.main, [*pairs, *made]),
            (
                fuse.main,
                [*pairs, *chosen, "--precomputed_masks_dir", str(masks), "--metrics", "--output_dir", str(fused)],
            ),
        ):
            if status := command(arguments):
                return status
        ours = json.loads((fused / "metrics.json").read_text(encoding="utf-8"))["mean"]
        rows = {OURS: ours, **peers[name]}
        print(f"\n{name}\n\n{table(rows)}\n")
        ranks = mean_ranks(rows)
        place = 1 + sum(rank < ranks[OURS] for rank in ranks.values())
        beaten = [f"{method} {len(wins(ours, rows[method]))}" for method in BEATEN if method in rows]
        summary.append(
            f"| {name} | {ranks[OURS]:.2f} | {place} of {len(rows)} | {ours['SCD']:.3f} | {ours['Nabf']:.3f} "
            f"| {', '.join(beaten)} |"
        )
    print("| data set | mean rank | place | SCD | Nabf | better on how many of 10 |\n|---|---:|---:|---:|---:|---|")
    print("\n".join(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
