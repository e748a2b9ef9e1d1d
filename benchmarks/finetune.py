"""What fine-tuning gains on annotated images, and what the embedding cache saves.

python -m benchmarks.finetune table --sets pennfudan=DIR fruits=DIR -- --freeze_image_encoder --n_iterations 400
python -m benchmarks.finetune cache --data_dir DIR --model_type vit_b --images 4 --epochs 3 --n_objects 5
python -m benchmarks.finetune cost --model_types vit_nano vit_t vit_b --objects 1 5 20
"""

import argparse
import functools
import json
import shlex
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import Sam

from benchmarks.common import command_line, made_by, markdown_table, timed
from thfuse_sam.cli.commands import finetune
from thfuse_sam.datasets.prompts import PromptMix
from thfuse_sam.datasets.segmentation import Subset, open_segmentation_dataset
from thfuse_sam.finetune.embedding_cache import EmbeddingCache, encoder_signature
from thfuse_sam.finetune.training import FinetuneTask
from thfuse_sam.losses.segmentation import SegmentationLoss
from thfuse_sam.options.training import FinetuneSettings
from thfuse_sam.sam.adapt import Adaptation, prepare
from thfuse_sam.sam.checkpoints import ResolvedSam
from thfuse_sam.sam.geometry import LOGIT_STRIDE
from thfuse_sam.sam.prompted import PromptTensors, decode, encode
from thfuse_sam.sam.registry import MODEL_TYPES, build_sam
from thfuse_sam.training.random_state import set_seed
from thfuse_sam.training.resuming import EVALUATION
from thfuse_sam.training.trainer import Trainer

FROZEN = Adaptation(("image_encoder",))


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="zero-shot and fine-tuned IoU and Dice for each prompt")
    table.add_argument("--sets", nargs="+", required=True, metavar="NAME=DIR")
    table.add_argument("--output_dir", type=Path, default=Path("runs/benchmark"))
    table.add_argument("finetune_options", nargs=argparse.REMAINDER, help="after --: options of finetune.py")
    cache = commands.add_parser("cache", help="CPU seconds of an epoch with and without the embedding cache")
    cache.add_argument("--data_dir", type=Path, required=True)
    cache.add_argument("--model_type", choices=MODEL_TYPES, default="vit_b", help="with random weights: time only")
    cache.add_argument("--images", type=int, default=6)
    cache.add_argument("--epochs", type=int, default=3)
    cache.add_argument("--n_objects", type=int, default=5)
    cost = commands.add_parser("cost", help="CPU seconds of the image encoder, and of training the decoder on an image")
    cost.add_argument("--model_types", nargs="+", choices=MODEL_TYPES, default=["vit_nano", "vit_t", "vit_b"])
    cost.add_argument("--objects", type=int, nargs="+", default=[1, 5, 20], help="of an image")
    options = parser.parse_args(argv)
    with timed() as spent:
        print({"table": _table, "cache": _cache, "cost": _cost}[options.command](options))
    print(f"\n{made_by()}; {spent.cpu:.0f} s of CPU time.")


def _table(options: argparse.Namespace) -> str:
    rows = []
    run: dict[str, Any] = {}
    extra = [item for item in options.finetune_options if item != "--"]
    for entry in options.sets:
        name, _, folder = entry.partition("=")
        status = finetune.main(
            ["--data_dir", folder, "--output_dir", str(options.output_dir), "--exp_name", name, *extra]
        )
        if status:
            raise SystemExit(status)
        results = json.loads((options.output_dir / name / EVALUATION).read_text(encoding="utf-8"))
        run = json.loads((options.output_dir / name / FinetuneTask.options_file).read_text(encoding="utf-8"))
        for kind, before in results["zero_shot"].items():
            after = results["fine_tuned"][kind]
            counts = run["images"], before["objects"]
            scores = (f"{result[score]:.3f}" for score in ("iou", "dice") for result in (before, after))
            rows.append((name, *counts, kind, *scores))
    header = "set", "images to train on", "objects to validate on", "prompt", "IoU zero-shot", "IoU tuned"
    table = markdown_table((*header, "Dice zero-shot", "Dice tuned"), rows)
    start = f"{run['sam_model_type']}, SHA-256 {run['checkpoint_sha256'][:16]}"
    return f"{table}\n\nTuned from {start}, seed {run['seed']}: {shlex.join(extra)}"


def _cache(options: argparse.Namespace) -> str:
    """One thread's CPU time and not the clock's, so that other work on the machine does not count.

    Each epoch is a run of its own from the same weights, its checkpoints included.
    """
    torch.set_num_threads(1)
    dataset = open_segmentation_dataset(options.data_dir)
    part = Subset(dataset, range(min(options.images, len(dataset))))
    seconds: dict[str, list[float]] = {"off": [], "on": []}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        set_seed(0)
        checkpoint = root / "random.pth"
        torch.save(MODEL_TYPES[options.model_type].build().state_dict(), checkpoint)
        for name, measured in seconds.items():
            for _ in range(options.epochs):
                trainer = _trainer(options, checkpoint, part, root / name, root / "cache" if name == "on" else None)
                with timed() as spent:
                    trainer.run()
                measured.append(spent.cpu)
    header = "cache", *(f"epoch {number + 1}, s" for number in range(options.epochs))
    rows = [(name, *(f"{value:.1f}" for value in measured)) for name, measured in seconds.items()]
    lines = [markdown_table(header, rows)]
    objects = sum(len(part[index].object_ids) for index in range(len(part)))
    lines.append(f"\n{len(part)} images with {objects} objects.")
    if options.epochs > 1:
        gain = statistics.median(seconds["off"]) / statistics.median(seconds["on"][1:])
        lines.append(f"An epoch from the cache is {gain:.1f} times as fast as one without (medians).")
    return "\n".join(lines)


def _trainer(
    options: argparse.Namespace, checkpoint: Path, images: Subset, output_dir: Path, cache: Path | None
) -> Trainer:
    """A trainer of one epoch; `cache` is the embedding cache's folder."""
    sam = build_sam(options.model_type, checkpoint)
    task = FinetuneTask(
        sam,
        ResolvedSam(options.model_type, checkpoint, "0" * 64),
        FROZEN,
        SegmentationLoss(),
        PromptMix(box=1.0),
        images,
        None,
        FinetuneSettings(epochs=1, n_objects=options.n_objects, lr=1e-6),
        cache=None if cache is None else EmbeddingCache(cache, encoder_signature(sam)),
    )
    return Trainer(task, device=torch.device("cpu"), output_dir=output_dir)


def _cost(options: argparse.Namespace) -> str:
    """CPU time as in `_cache`."""
    torch.set_num_threads(1)
    rows = []
    for name in options.model_types:
        set_seed(0)
        sam = MODEL_TYPES[name].build().eval()
        prepare(sam, FROZEN)
        size = int(sam.image_encoder.img_size)
        image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
        with torch.no_grad():
            embedding = encode(sam, [image])[0]
            encoder = _cpu_seconds(functools.partial(encode, sam, [image]))
        decoders = [_cpu_seconds(_decoder_step(sam, embedding, count)) for count in options.objects]
        cells = [f"{decoder:.3f} ({1 + encoder / decoder:.1f})" for decoder in decoders]
        rows.append((name, f"{encoder:.3f}", *cells))
    columns = (f"decoder, objects {count}, s (gain)" for count in options.objects)
    return markdown_table(("model", "encoder, s", *columns), rows)


def _decoder_step(sam: Sam, embedding: torch.Tensor, count: int) -> Callable[[], None]:
    """Forward and backward of the decoder, for `count` boxes in the image of `embedding`."""
    size = sam.image_encoder.img_size
    side = size // LOGIT_STRIDE
    corners = torch.rand(count, 2) * size / 2
    prompts = PromptTensors(boxes=torch.cat([corners, corners + size / 4], dim=1))
    targets, valid = torch.rand(count, side, side).round(), torch.ones(side, side)

    def step() -> None:
        parts = SegmentationLoss()(*decode(sam, embedding, prompts, multimask=False), targets, valid)
        parts["total"].mean().backward()

    return step


def _cpu_seconds(work: Callable[[], object], runs: int = 3) -> float:
    """The median of a few runs after a first one."""
    work()
    seconds = []
    for _ in range(runs):
        with timed() as spent:
            work()
        seconds.append(spent.cpu)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
