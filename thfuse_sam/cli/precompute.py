"""`precompute_masks.py`: options -> objects -> `engine.precompute`."""

import argparse
import contextlib
import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import thfuse_sam
from thfuse_sam.cli import common
from thfuse_sam.datasets.pairs import ImageSet, find_images
from thfuse_sam.devices import resolve_device
from thfuse_sam.engine.precompute import (
    Job,
    Outcome,
    Plan,
    list_jobs,
    plan_precompute,
    precompute,
    save_manifest,
)
from thfuse_sam.errors import OutputError, UsageError
from thfuse_sam.images import MODALITIES, Modality
from thfuse_sam.masks.manifest import Signature
from thfuse_sam.masks.tree import MaskTree
from thfuse_sam.masks.verify import verify_tree
from thfuse_sam.report.contact_sheet import preview
from thfuse_sam.sam.checkpoints import ResolvedSam, resolve_sam, sha256_of
from thfuse_sam.sam.generator import AutomaticMaskGenerator, GeneratorSettings
from thfuse_sam.sam.registry import MODEL_TYPES, build_sam

SAMPLE = "datasets/sample/train"
TERMINATED = 143  # exit status after SIGTERM, as shells report it
SHOWN_PROBLEMS = 50  # lines of --verify before it only counts

SETTINGS_HELP = {
    "points_per_side": "points along each side of the grid that SAM is prompted with",
    "points_per_batch": "points in one go: more is faster and takes more memory; the masks stay the same",
    "pred_iou_thresh": "drop masks whose quality SAM itself puts below this, 0 to 1",
    "stability_score_thresh": "drop masks that change more than this with the cut-off, 0 to 1",
    "stability_score_offset": "shift of the cut-off for that, in logits",
    "box_nms_thresh": "of masks whose boxes overlap by more than this IoU, the best stays",
    "crop_n_layers": "also run on 4**i crops of the image in layer i; 0: the whole image only",
    "crop_nms_thresh": "the IoU for masks from different crops",
    "crop_overlap_ratio": "overlap of crops as a share of the image's shorter side",
    "crop_n_points_downscale_factor": "in layer i, divide points_per_side by this to the power of i",
    "min_mask_region_area": "remove holes and islands smaller than this, in pixels; 0: keep them",
}

log = logging.getLogger(__name__)


def build_parser() -> common.CommandParser:
    parser = common.CommandParser(
        "precompute_masks.py",
        "Make SAM masks of infrared and visible images once, for train.py and test.py. Finished masks are kept: "
        "the same command goes on where an earlier one stopped.",
    )
    images = parser.add_argument_group("images")
    images.add_argument("--dataset_path", type=Path, help=f"folder of pairs, see datasets/README.md (None: {SAMPLE})")
    images.add_argument("--ir_dir", type=Path, help="folder of infrared images, instead of --dataset_path")
    images.add_argument("--vi_dir", type=Path, help="folder of visible images, instead of --dataset_path")
    images.add_argument("--modality", choices=("ir", "vi", "both"), default="both", help="which images get masks")

    sam = parser.add_argument_group("SAM")
    sam.add_argument("--sam_checkpoint", type=Path, help="SAM weights (None: those of the model type, see the README)")
    sam.add_argument("--sam_model_type", choices=("auto", *MODEL_TYPES), default="auto", help="auto: the checkpoint's")
    sam.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")

    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", type=Path, default=common.DEFAULT_MASKS_DIR, help="the mask tree")
    output.add_argument("--overwrite", action="store_true", help="make masks anew that are there already")
    output.add_argument("--save_instances", action="store_true", help="also write overlapping masks, COCO RLE in JSON")
    output.add_argument("--preview", type=common.natural_int, default=0, metavar="N", help="contact sheet of N masks")
    output.add_argument("--preview_dir", type=Path, help="for the contact sheet (None: OUTPUT_DIR/preview)")
    output.add_argument("--num_workers", type=common.natural_int, default=2, help="threads that read and write files")
    output.add_argument("--dry_run", action="store_true", help="print what would be done and stop")
    output.add_argument("--verify", action="store_true", help="check the tree against the images and stop; no SAM")

    settings = parser.add_argument_group("mask generator", "None means the default of the model type")
    for field in dataclasses.fields(GeneratorSettings):
        settings.add_argument(
            f"--{field.name}",
            type=int if isinstance(field.default, int) else float,
            help=f"{SETTINGS_HELP[field.name]} (None: {_defaults_text(field.name)})",
        )
    parser.add_config_option()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return common.run(build_parser(), _precompute, argv)


def _precompute(options: argparse.Namespace) -> int:
    if options.debug:
        logging.getLogger(thfuse_sam.__name__).setLevel(logging.DEBUG)
    _settings(options, GeneratorSettings())  # refuses a wrong value before anything is looked for or fetched
    images = _find_images(options)
    jobs = list_jobs({modality: found.images for modality, found in images.items()})
    if options.verify:
        return _verify(options, images)
    device = resolve_device(options.device)
    _require_writable("--output_dir", options.output_dir)
    if options.preview:
        _require_writable("--preview_dir", _preview_dir(options))
    sam = resolve_sam(options.sam_model_type, options.sam_checkpoint)
    settings = _settings(options, MODEL_TYPES[sam.model_type].defaults)
    plan = plan_precompute(
        options.output_dir,
        jobs,
        {modality: found.folder for modality, found in images.items()},
        _signature(sam, settings),
        overwrite=options.overwrite,
        save_instances=options.save_instances,
    )
    if options.dry_run:
        print(_plan_text(options, plan, sam, settings, device))
        return 0
    log.info("%d images, of which %d have their masks in %s", len(jobs), plan.finished, options.output_dir)
    outcome = Outcome()
    started = time.monotonic()
    try:
        with _sigterm_as_interrupt():
            if plan.todo:
                log.info("%s from %s on %s", sam.model_type, sam.checkpoint, device)
                generator = AutomaticMaskGenerator(build_sam(sam.model_type, sam.checkpoint, device), settings)
                precompute(plan, generator, outcome, num_workers=options.num_workers)
            else:
                save_manifest(plan, outcome)
            for path in preview(_preview_dir(options), _entries(jobs), plan.tree, options.preview):
                log.info("preview: %s", path)
    except KeyboardInterrupt as stop:
        log.error("stopped: %s", _how_far(plan, outcome))
        return TERMINATED if isinstance(stop, _Terminated) else common.INTERRUPTED
    except OutputError as error:
        raise OutputError(f"{error}; {_how_far(plan, outcome)}") from error
    return _report(plan, outcome, time.monotonic() - started)


def _find_images(options: argparse.Namespace) -> dict[Modality, ImageSet]:
    """The images of each modality asked for. One folder is enough for `--modality ir` or `vi`."""
    dataset_path = options.dataset_path
    if options.ir_dir is None and options.vi_dir is None:
        dataset_path = common.resolve_dataset_path(options, SAMPLE)
    elif dataset_path is not None:
        raise UsageError(f"--dataset_path {dataset_path} is given beside --ir_dir or --vi_dir; give one or the other")
    wanted = MODALITIES if options.modality == "both" else (options.modality,)
    return {
        modality: find_images(dataset_path, ir_dir=options.ir_dir, vi_dir=options.vi_dir, modality=modality)
        for modality in wanted
    }


def _settings(options: argparse.Namespace, defaults: GeneratorSettings) -> GeneratorSettings:
    """`defaults` with the settings given on the command line. Raises UsageError."""
    return dataclasses.replace(defaults, **_given_settings(options))


def _given_settings(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in SETTINGS_HELP if (value := getattr(options, name)) is not None}


def _defaults_text(name: str) -> str:
    """For example "32; vit_nano 24": the setting's default, and the model types that have another."""
    common_value = getattr(GeneratorSettings(), name)
    values = {key: getattr(kind.defaults, name) for key, kind in MODEL_TYPES.items()}
    others = [f"{key} {value:.4g}" for key, value in values.items() if value != common_value]
    return "; ".join([f"{common_value:.4g}", *others])


def _signature(sam: ResolvedSam, settings: GeneratorSettings) -> Signature:
    generator = dataclasses.asdict(settings)
    del generator["points_per_batch"]  # speed and memory only
    return Signature(
        model_type=sam.model_type,
        checkpoint_sha256=sam.sha256,
        generator=generator,
        package_version=thfuse_sam.__version__,
        precision="fp32",
    )


def _require_writable(option: str, folder: Path) -> None:
    """Refuse a folder that cannot be made or written, without making it."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise OutputError(f"{option} {folder}: {existing} is a file, not a folder; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{option} {folder}: {existing} is not writable; choose another folder")


def _preview_dir(options: argparse.Namespace) -> Path:
    # Beside ir/ and vi/, where neither a reader of masks nor --verify looks.
    return Path(options.preview_dir or options.output_dir / "preview")


def _entries(jobs: Sequence[Job]) -> list[tuple[Modality, str, Path]]:
    return [(job.modality, job.name, job.image) for job in jobs]


class _Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C."""


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Inside, SIGTERM stops the work as cleanly as Ctrl-C does."""

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _how_far(plan: Plan, outcome: Outcome) -> str:
    return (
        f"{plan.finished + outcome.written} of {len(plan.jobs)} masks are done and valid; "
        "the same command (without --overwrite) goes on from there"
    )


def _report(plan: Plan, outcome: Outcome, seconds: float) -> int:
    """Log what was done, then one line for each failure; the exit status."""
    log.info(
        "masks made: %d in %.1f s (%.2f images/s), of these without a segment: %d, kept: %d, failed: %d; in %s",
        outcome.written,
        seconds,
        outcome.written / max(seconds, 1e-9),
        outcome.empty,
        plan.finished,
        len(outcome.failures),
        plan.tree.root,
    )
    for job, reason in outcome.failures.items():
        log.error("failed: %s: %s", job, reason)
    return 1 if outcome.failures else 0


def _plan_text(
    options: argparse.Namespace, plan: Plan, sam: ResolvedSam, settings: GeneratorSettings, device: torch.device
) -> str:
    counts = ", ".join(f"{sum(job.modality == modality for job in plan.jobs)} {modality}" for modality in MODALITIES)
    lines = {
        "images": f"{len(plan.jobs)} ({counts})",
        "to make": f"{len(plan.todo)}{' (overwriting)' if options.overwrite else ''}",
        "finished": plan.finished,
        "output_dir": options.output_dir,
        "model type": sam.model_type,
        "checkpoint": f"{sam.checkpoint} (SHA-256 {sam.sha256})",
        "device": device,
        "num_workers": options.num_workers,
        "save_instances": options.save_instances,
        "preview": f"{options.preview} masks in {_preview_dir(options)}" if options.preview else "none",
        **dataclasses.asdict(settings),
    }
    return "\n".join(["dry run, nothing is written", *(f"  {name}: {value}" for name, value in lines.items())])


def _verify(options: argparse.Namespace, images: Mapping[Modality, ImageSet]) -> int:
    asked = _given_settings(options)
    asked.pop("points_per_batch", None)
    if options.sam_model_type != "auto":
        asked["model_type"] = options.sam_model_type
    if options.sam_checkpoint is not None:
        asked["checkpoint_sha256"] = sha256_of(options.sam_checkpoint)
    found = verify_tree(
        MaskTree(options.output_dir),
        {modality: images_found.images for modality, images_found in images.items()},
        asked=asked,
        require_instances=options.save_instances,
    )
    problems = found.problems()
    for problem in problems[:SHOWN_PROBLEMS]:
        print(problem)
    if len(problems) > SHOWN_PROBLEMS:
        print(f"and {len(problems) - SHOWN_PROBLEMS} more")
    total = sum(len(images_found.images) for images_found in images.values())
    verdict = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}" if problems else "no problem"
    print(f"{options.output_dir}: {found.sound} of {total} images have a sound mask; {verdict}")
    return 1 if problems else 0
