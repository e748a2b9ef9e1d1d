"""Does SAM help? Five trainings for each seed, evaluated on other pairs: one Markdown table.

    python benchmarks/ablation.py --dataset_path RoadScene171 MSRS80 --masks masks/RoadScene171 masks/MSRS80 \\
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
`--output` and not done again.
"""

import argparse
import datetime
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# A checkout is used without installing it: this script's own folder is on the path, the package's is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from thfuse_sam.datasets.fusion import FusionDataset, FusionSample, MixedPairs, to_uint8
from thfuse_sam.datasets.pairs import PairSet, find_pairs
from thfuse_sam.devices import resolve_device
from thfuse_sam.files import write_json, write_text
from thfuse_sam.fusion.inference import fuse_lumas
from thfuse_sam.fusion.training import FusionTrainer, TrainingSettings
from thfuse_sam.losses import DEFAULT_WEIGHTS, FusionLoss
from thfuse_sam.masks.source import MaskSource, NoMasks, PrecomputedMasks
from thfuse_sam.metrics import METRICS
from thfuse_sam.metrics.regions import region_metrics
from thfuse_sam.models import DEFAULT_NETWORK, build_network
from thfuse_sam.report.run_facts import code_version, machine, mask_signature
from thfuse_sam.training.loop import set_seed

SHOWN = ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM", "Nabf")
REGION = ("contrast_kept", "boundary_kept")


@dataclass(frozen=True)
class Arm:
    """What one training is given."""

    masks: bool  # any at all, to the network or to the losses
    guidance: bool  # the network sees them
    region_losses: bool  # the losses see them


ARMS = {
    "none": Arm(masks=False, guidance=False, region_losses=False),
    "placeholder": Arm(masks=True, guidance=False, region_losses=False),
    "guidance": Arm(masks=True, guidance=True, region_losses=False),
    "region losses": Arm(masks=True, guidance=False, region_losses=True),
    "both": Arm(masks=True, guidance=True, region_losses=True),
}


class Withheld:
    """A data set whose samples have the placeholder in place of guidance, or no segments, or neither."""

    def __init__(self, dataset: FusionDataset | MixedPairs, arm: Arm) -> None:
        self.dataset, self.arm = dataset, arm

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)

    def __getitem__(self, index: int) -> FusionSample:
        sample = self.dataset[index]
        for modality in ("ir", "vi"):
            if not self.arm.guidance:
                sample[f"{modality}_guidance"] = torch.full_like(sample[f"{modality}_guidance"], 0.5)  # type: ignore[literal-required]
            if not self.arm.region_losses:
                sample[f"{modality}_labels"] = torch.zeros_like(sample[f"{modality}_labels"])  # type: ignore[literal-required]
        return sample


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_path", type=Path, nargs="+", required=True, help="pairs to train on")
    parser.add_argument("--masks", type=Path, nargs="+", required=True, help="mask tree of each --dataset_path")
    parser.add_argument("--test_path", type=Path, required=True, help="pairs to evaluate on")
    parser.add_argument("--test_masks", type=Path, required=True, help="their mask tree")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--max_steps", type=int, help="stop each training after so many steps")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--crop_size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--ema_decay", type=float, default=0.0)
    parser.add_argument("--loss_weights", nargs="+", default=[], metavar="NAME=VALUE", help="change parts of the loss")
    parser.add_argument("--network", default=DEFAULT_NETWORK)
    parser.add_argument("--threads", type=int, help="of torch (None: its own choice)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints, figures and table.md")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if len(options.masks) != len(options.dataset_path):
        parser.error(f"--masks names {len(options.masks)} trees for {len(options.dataset_path)} --dataset_path")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    train_sets = [find_pairs(path) for path in options.dataset_path]
    test_set = find_pairs(options.test_path)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    for seed in options.seeds:
        for name in ARMS:
            file = options.output / f"{name.replace(' ', '_')}_seed{seed}" / "means.json"
            if not file.is_file():
                network = train(options, name, seed, train_sets, device, file.parent)
                write_json(file, evaluate(network, ARMS[name], test_set, options.test_masks, device))
            results[name].append(json.loads(file.read_text(encoding="utf-8")))
            print(f"seed {seed}, {name}: {results[name][-1]}", file=sys.stderr)
    text = heading(options, device) + "\n\n" + table(results) + "\n"
    write_text(options.output / "table.md", text)
    print(text)
    return 0


def masks_of(tree: Path, pairs: PairSet) -> MaskSource:
    return PrecomputedMasks(tree, {"ir": pairs.ir_dir, "vi": pairs.vi_dir})


def train(
    options: argparse.Namespace, name: str, seed: int, data: Sequence[PairSet], device: torch.device, folder: Path
) -> nn.Module:
    arm = ARMS[name]
    parts = {
        str(index): FusionDataset(
            pairs.pairs,
            masks_of(tree, pairs) if arm.masks else NoMasks(),
            crop_size=options.crop_size,
            augment=True,
            seed=seed + 1_000_003 * index,
        )
        for index, (pairs, tree) in enumerate(zip(data, options.masks, strict=True))
    }
    changed = {key: float(value) for key, _, value in (text.partition("=") for text in options.loss_weights)}
    set_seed(seed)
    trainer = FusionTrainer(
        build_network(options.network),
        options.network,
        FusionLoss(DEFAULT_WEIGHTS | changed),
        Withheld(MixedPairs(parts), arm),
        None,
        TrainingSettings(
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            ema_decay=options.ema_decay,
            seed=seed,
            save_interval=options.epochs,
            max_steps=options.max_steps,
        ),
        device=device,
        output_dir=folder,
        options={"arm": name},
    )
    trainer.run()
    if trainer.ema is not None:
        trainer.network.load_state_dict(trainer.ema.weights)
    return trainer.network.eval()


def evaluate(network: nn.Module, arm: Arm, test_set: PairSet, tree: Path, device: torch.device) -> dict[str, float]:
    """Mean metrics over whole test pairs; the network sees what its arm was trained with."""
    masked = FusionDataset(test_set.pairs, masks_of(tree, test_set))
    seen = Withheld(masked, arm)
    values: dict[str, list[float]] = {name: [] for name in (*SHOWN, *REGION)}
    for index in range(len(test_set.pairs)):
        (fused,) = fuse_lumas(network, [seen[index]], device)
        sample = masked[index]
        ir, vi = to_uint8(sample["ir"][0]), to_uint8(sample["vi"][0])
        found = {name: METRICS[name].compute(fused, ir, vi) for name in SHOWN}
        found |= region_metrics(fused, ir, vi, sample["ir_labels"].numpy(), sample["vi_labels"].numpy())
        for name, kept in values.items():
            if math.isfinite(found[name]):
                kept.append(found[name])
    return {name: statistics.fmean(kept) for name, kept in values.items() if kept}


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Mean over the seeds, and the standard deviation between them where there are several."""
    columns = [name for name in (*SHOWN, *REGION) if all(name in run for runs in results.values() for run in runs)]
    titles = [name.replace("_", " ") for name in columns]
    lines = [f"| masks | {' | '.join(titles)} |", f"|---|{'---:|' * len(columns)}"]
    for arm, runs in results.items():
        cells = []
        for name in columns:
            values = [run[name] for run in runs]
            spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.4g}{spread}")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def heading(options: argparse.Namespace, device: torch.device) -> str:
    trees = "; ".join(mask_signature(tree) for tree in [*options.masks, options.test_masks])
    data = ", ".join(path.name for path in options.dataset_path)
    return (
        f"Trained on {data}, evaluated on {options.test_path.name}; seeds {', '.join(map(str, options.seeds))}; "
        f"{options.epochs} epochs of batch {options.batch_size}; masks {trees}; {code_version()}; {machine(device)}; "
        f"{datetime.date.today().isoformat()}. Mean over seeds ± their standard deviation."
    )


if __name__ == "__main__":
    sys.exit(main())
