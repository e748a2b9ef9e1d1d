"""Figures of docs/finetuning.md: what fine-tuning gains on annotated images, and what the embedding cache saves.

python benchmarks/finetune.py table --sets pennfudan=DIR fruits=DIR --checkpoint models/vit_nano.safetensors
python benchmarks/finetune.py cache --data_dir DIR --model_type vit_b --images 6
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from thfuse_sam.cli import finetune
from thfuse_sam.cli.common import positive_int
from thfuse_sam.datasets.prompts import PromptMix
from thfuse_sam.datasets.segmentation import Subset, open_segmentation_dataset
from thfuse_sam.engine.embedding_cache import EmbeddingCache, encoder_signature
from thfuse_sam.engine.loop import set_seed
from thfuse_sam.engine.sam_training.trainer import EVALUATION, FinetuneSettings, SamTrainer
from thfuse_sam.losses.segmentation import SegmentationLoss
from thfuse_sam.sam.adapt import Adaptation
from thfuse_sam.sam.checkpoints import ResolvedSam
from thfuse_sam.sam.registry import MODEL_TYPES, build_sam

FROZEN = Adaptation(("image_encoder",))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="zero-shot and fine-tuned IoU and Dice for each prompt")
    table.add_argument("--sets", nargs="+", required=True, metavar="NAME=DIR")
    table.add_argument("--output_dir", type=Path, default=Path("runs/benchmark"))
    table.add_argument("finetune_options", nargs=argparse.REMAINDER, help="after --: options of finetune.py")
    cache = commands.add_parser("cache", help="seconds of each epoch with and without the embedding cache")
    cache.add_argument("--data_dir", type=Path, required=True)
    cache.add_argument("--model_type", choices=MODEL_TYPES, default="vit_b", help="with random weights: time only")
    cache.add_argument("--images", type=positive_int, default=6)
    cache.add_argument("--epochs", type=positive_int, default=3)
    cache.add_argument("--n_objects", type=positive_int, default=5)
    options = parser.parse_args(argv)
    if options.command == "table":
        print(_table(options))
    else:
        print(_cache(options))


def _table(options: argparse.Namespace) -> str:
    lines = [
        "| set | objects | prompt | IoU zero-shot | IoU tuned | Dice zero-shot | Dice tuned |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    extra = [item for item in options.finetune_options if item != "--"]
    for entry in options.sets:
        name, _, folder = entry.partition("=")
        status = finetune.main(
            ["--data_dir", folder, "--output_dir", str(options.output_dir), "--exp_name", name, *extra]
        )
        if status:
            raise SystemExit(status)
        results = json.loads((options.output_dir / name / EVALUATION).read_text(encoding="utf-8"))
        for kind, before in results["zero_shot"].items():
            after = results["fine_tuned"][kind]
            lines.append(
                f"| {name} | {before['objects']} | {kind} | {before['iou']:.3f} | {after['iou']:.3f} "
                f"| {before['dice']:.3f} | {after['dice']:.3f} |"
            )
    return "\n".join(lines)


def _cache(options: argparse.Namespace) -> str:
    dataset = open_segmentation_dataset(options.data_dir)
    part = Subset(dataset, range(min(options.images, len(dataset))))
    lines = [f"| cache | {' | '.join(f'epoch {number + 1}, s' for number in range(options.epochs))} |"]
    lines.append(f"|---|{'---:|' * options.epochs}")
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        set_seed(0)
        checkpoint = root / "random.pth"
        torch.save(MODEL_TYPES[options.model_type].build().state_dict(), checkpoint)
        for name in ("off", "on"):
            sam = build_sam(options.model_type, checkpoint)
            trainer = SamTrainer(
                sam,
                ResolvedSam(options.model_type, checkpoint, "0" * 64),
                FROZEN,
                SegmentationLoss(),
                PromptMix(box=1.0),
                part,
                None,
                FinetuneSettings(epochs=options.epochs, n_objects=options.n_objects, lr=1e-6),
                device=torch.device("cpu"),
                output_dir=root / name,
                cache=EmbeddingCache(root / "cache", encoder_signature(sam)) if name == "on" else None,
            )
            trainer.run()
            with (root / name / "train_log.csv").open(encoding="utf-8", newline="") as file:
                seconds[name] = [len(part) / float(row["images_per_second"]) for row in csv.DictReader(file)]
            lines.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in seconds[name])} |")
    later = sorted(seconds["on"][1:])
    if later:
        gain = sorted(seconds["off"])[len(seconds["off"]) // 2] / later[len(later) // 2]
        lines.append(f"\nAn epoch from the cache is {gain:.1f} times as fast as one without (medians).")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
