"""`precompute_masks.py`: options -> objects -> `precompute`."""

import argparse
import contextlib
import dataclasses
import functools
import gc
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import thfuse_sam
from thfuse_sam.cli import common
from thfuse_sam.datasets.pairs import ImageSet, find_images
from thfuse_sam.devices import resolve_device
from thfuse_sam.errors import ManifestError, OutputError, UsageError, WorkerError
from thfuse_sam.images import MODALITIES, Modality
from thfuse_sam.interrupts import Terminated
from thfuse_sam.masks.embeddings import EmbeddingTree
from thfuse_sam.masks.manifest import MANIFEST_NAME, Manifest, Signature
from thfuse_sam.masks.shards import SHARD_SIZE
from thfuse_sam.masks.store import open_masks
from thfuse_sam.masks.verify import verify_tree
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.precompute.jobs import Job, MakeOptions, list_jobs, take_part
from thfuse_sam.precompute.plan import Plan, plan_precompute, require_embeddings
from thfuse_sam.precompute.processes import WorkerSpec, make_in_processes
from thfuse_sam.precompute.ray import RayOptions, make_on_ray, require_ray
from thfuse_sam.precompute.worker import MaskGenerator, Result, make_masks
from thfuse_sam.precompute.writing import RunSummary, save_manifest, write_masks
from thfuse_sam.report.contact_sheet import preview
from thfuse_sam.report.page import INDEX, REPORT_FOLDER, require_replaceable
from thfuse_sam.report.precompute import write_precompute_report
from thfuse_sam.report.run_facts import mask_signature, run_facts
from thfuse_sam.sam.checkpoints import AUTO, ResolvedSam, checkpoint_sha256, resolve_sam, type_with_weights
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.precision import resolve_precision
from thfuse_sam.sam.registry import MODEL_TYPES, build_sam

SAMPLES = ("datasets/sample/test", "datasets/sample/train")  # what test.py and train.py take by default
SHOWN_PROBLEMS = 50  # lines of --verify before it only counts

SETTINGS_HELP = {
    "points_per_side": "points along each side of the grid that SAM is prompted with",
    "points_per_batch": "points in one go, or auto: as suits device and memory; the masks stay the same",
    "pred_iou_thresh": "drop masks whose quality SAM itself puts below this, 0 to 1",
    "stability_score_thresh": "drop masks that change more than this with the cut-off, 0 to 1",
    "stability_score_offset": "shift of the cut-off for that, in logits",
    "box_nms_thresh": "of masks whose boxes overlap by more than this IoU, the best stays",
    "crop_n_layers": "also run on 4**i crops of the image in layer i; 0: the whole image only",
    "crop_nms_thresh": "the IoU for masks from different crops",
    "crop_overlap_ratio": "overlap of crops as a share of the image's shorter side",
    "crop_n_points_downscale_factor": "in layer i, divide points_per_side by this to the power of i",
    "min_mask_region_area": "remove holes and islands smaller than this, in pixels; 0: keep them",
    "precision": "fp32, bf16, fp16, or auto: 16 bits where the device is fast at it",
    "adaptive_points": "skip points inside the smallest good mask of another: faster, loses a few masks",
}


def _points_per_batch(text: str) -> int | str:
    return text if text == "auto" else int(text)


_SETTING_TYPES = {"points_per_batch": _points_per_batch}

log = logging.getLogger(__name__)


def build_parser() -> common.CommandParser:
    parser = common.CommandParser(
        "precompute_masks.py",
        "Make SAM masks of infrared and visible images once, for train.py and test.py. Finished masks are kept: "
        "the same command goes on where an earlier one stopped.",
    )
    images = parser.add_argument_group("images")
    images.add_argument(
        "--dataset_path", type=Path, help=f"folder of pairs, see datasets/README.md (None: {' and '.join(SAMPLES)})"
    )
    images.add_argument("--ir_dir", type=Path, help="folder of infrared images, instead of --dataset_path")
    images.add_argument("--vi_dir", type=Path, help="folder of visible images, instead of --dataset_path")
    images.add_argument("--modality", choices=("ir", "vi", "both"), default="both", help="which images get masks")

    sam = parser.add_argument_group("SAM")
    sam.add_argument("--sam_checkpoint", type=Path, help="SAM weights (None: those of the model type, see the README)")
    sam.add_argument("--sam_model_type", choices=(AUTO, *MODEL_TYPES), default=AUTO, help="auto: the checkpoint's")
    sam.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")

    spread = parser.add_argument_group("several processes, several machines", "see docs/precompute.md")
    spread.add_argument(
        "--n_jobs",
        type=common.positive_int,
        metavar="N",
        help="processes on --device, CPU ones divide the cores (None: 1; with --engine ray: one a GPU, else a core)",
    )
    spread.add_argument("--devices", type=_device_list, metavar="cuda:0,cuda:1", help="one process on each of these")
    spread.add_argument("--shard", type=_part, metavar="I/N", help="only part I of N of the images, I from 1 to N")
    spread.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: a Ray cluster")
    spread.add_argument("--ray_address", help="of the cluster, auto: a running one (None: start Ray on this machine)")

    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", type=Path, default=common.DEFAULT_MASKS_DIR, help="the mask tree")
    output.add_argument("--overwrite", action="store_true", help="make masks anew that are there already")
    output.add_argument("--save_instances", action="store_true", help="also write overlapping masks, COCO RLE in JSON")
    output.add_argument("--save_embeddings", action="store_true", help="also keep image embeddings, for --embeddings")
    output.add_argument(
        "--embeddings", type=Path, metavar="DIR", help="use the embeddings kept in DIR, not the encoder"
    )
    output.add_argument("--store", choices=("npy", "shards"), help="a file for each mask, or tar files (None: npy)")
    output.add_argument("--shard_size", type=common.positive_int, default=SHARD_SIZE, help="masks in a tar file")
    output.add_argument("--preview", type=common.natural_int, default=0, metavar="N", help="contact sheet of N masks")
    output.add_argument("--preview_dir", type=Path, help="for the contact sheet (None: OUTPUT_DIR/preview)")
    output.add_argument(
        "--report", action="store_true", help=f"write OUTPUT_DIR/{REPORT_FOLDER}/{INDEX}: what the masks are like"
    )
    output.add_argument("--num_workers", type=common.natural_int, default=2, help="threads that read and write files")
    output.add_argument("--dry_run", action="store_true", help="print what would be done and stop")
    output.add_argument(
        "--verify",
        action="store_true",
        help="check the tree against the images (None: those it was made from) and stop; no SAM",
    )

    settings = parser.add_argument_group("mask generator", "None means the default of the model type")
    for field in dataclasses.fields(GeneratorSettings):
        text = f"{SETTINGS_HELP[field.name]} (None: {_defaults_text(field.name)})"
        if isinstance(field.default, bool):
            settings.add_argument(f"--{field.name}", action="store_true", default=None, help=text)
        else:
            settings.add_argument(
                f"--{field.name}", type=_SETTING_TYPES.get(field.name, type(field.default)), help=text
            )
    parser.add_config_option()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    return common.run(build_parser(), lambda options: _run(options, given), given)


def _run(options: argparse.Namespace, given: Sequence[str]) -> int:
    if options.dataset_path or options.ir_dir or options.vi_dir:
        return _precompute(options, given)
    if options.verify:
        return max(_precompute(one, given) for one in _of_tree(options))
    for sample in SAMPLES:
        status = _precompute(_changed(options, dataset_path=Path(sample)), given)
        if status:
            return status
    return 0


def _of_tree(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options for each data set that the masks were made from. Raises ManifestError."""
    asked = MODALITIES if options.modality == "both" else (options.modality,)
    found = []
    for source in Manifest.load(options.output_dir).sources:
        present = [modality for modality in asked if modality in source]
        folders = {f"{modality}_dir": Path(source[modality]) for modality in present}
        if present:
            found.append(_changed(options, modality=present[0] if len(present) == 1 else "both", **folders))
    if not found:
        raise ManifestError(
            f"--output_dir {options.output_dir}: its manifest names no images; "
            "give --dataset_path, or --ir_dir and --vi_dir"
        )
    return found


def _changed(options: argparse.Namespace, **values: object) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(options), **values})


def _precompute(options: argparse.Namespace, given: Sequence[str]) -> int:
    if options.debug:
        logging.getLogger(thfuse_sam.__name__).setLevel(logging.DEBUG)
    _settings(options, GeneratorSettings())  # refuses a wrong value before anything is looked for or fetched
    with _no_garbage_collection():
        images = _find_images(options)
        jobs = list_jobs({modality: found.images for modality, found in images.items()})
    if options.verify:
        return _verify(options, images)
    if options.shard is not None:
        jobs = take_part(jobs, *options.shard)
    workers = _workers(options)
    common.require_writable("--output_dir", options.output_dir)
    if options.preview:
        common.require_writable("--preview_dir", _preview_dir(options))
    if options.report:
        require_replaceable(options.output_dir / REPORT_FOLDER)
    sam = _resolve_sam(options)
    settings = _with_precision(_settings(options, MODEL_TYPES[sam.model_type].defaults), options, workers)
    with _no_garbage_collection():
        plan = _plan(options, images, jobs, sam, settings)
    _mention_lonely(images)
    if options.dry_run:
        print(_plan_text(options, plan, sam, settings, workers))
        return 0
    log.info("%d images, of which %d have their masks in %s", len(jobs), plan.finished, options.output_dir)
    summary = RunSummary()
    started = time.monotonic()
    try:
        if plan.todo:
            log.info("%s from %s on %s", sam.model_type, sam.checkpoint, _workers_text(options, workers))
            _make(options, plan, sam, settings, workers, summary)
        else:
            save_manifest(plan, summary)
        if options.preview:
            for path in preview(_preview_dir(options), _entries(jobs), open_masks(plan.root), options.preview):
                log.info("preview: %s", path)
        if options.report:
            log.info("report: open %s in a browser", _write_report(options, images, workers, given))
    except KeyboardInterrupt as stop:
        log.error("stopped: %s", _how_far(plan, summary))
        return common.TERMINATED if isinstance(stop, Terminated) else common.INTERRUPTED
    except (OutputError, WorkerError) as error:
        raise type(error)(f"{error}; {_how_far(plan, summary)}") from error
    return _report(plan, summary, time.monotonic() - started)


def _resolve_sam(options: argparse.Namespace) -> ResolvedSam:
    """The SAM asked for; by default the one that made the tree, so that a run goes on with it wherever it started."""
    model_type = options.sam_model_type
    tree = options.output_dir
    unnamed = model_type == AUTO and options.sam_checkpoint is None
    if unnamed and not options.overwrite and (tree / MANIFEST_NAME).is_file():
        model_type = type_with_weights(Manifest.load(tree).signature.checkpoint_sha256) or AUTO
    return resolve_sam(model_type, options.sam_checkpoint, fetch=not options.dry_run)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Inside, no garbage is looked for: of a large tree there are many objects, and all of them stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _plan(
    options: argparse.Namespace,
    images: Mapping[Modality, ImageSet],
    jobs: Sequence[Job],
    sam: ResolvedSam,
    settings: GeneratorSettings,
) -> Plan:
    """What is to be done. Raises UsageError and ManifestError."""
    folders = {modality: found.folder for modality, found in images.items()}
    encoder = _embedding_signature(sam, settings)
    if options.embeddings is not None:
        require_embeddings(options.embeddings, encoder, jobs, folders)
    if settings.crop_n_layers and (options.save_embeddings or options.embeddings is not None):
        name = "--save_embeddings" if options.save_embeddings else "--embeddings"
        raise UsageError(f"{name}: embeddings are of whole images; leave --crop_n_layers {settings.crop_n_layers} out")
    return plan_precompute(
        options.output_dir,
        jobs,
        folders,
        _signature(sam, settings, from_embeddings=options.embeddings is not None),
        overwrite=options.overwrite,
        options=MakeOptions(
            save_instances=options.save_instances,
            save_embeddings=options.save_embeddings,
            embeddings=EmbeddingTree(options.embeddings) if options.embeddings is not None else None,
        ),
        embedding_signature=encoder,
        store=options.store,
        shard_size=options.shard_size,
    )


def _make(
    options: argparse.Namespace,
    plan: Plan,
    sam: ResolvedSam,
    settings: GeneratorSettings,
    devices: Sequence[str],
    summary: RunSummary,
) -> None:
    build = functools.partial(_make_generator, sam.model_type, sam.checkpoint.resolve(), settings)
    spec = WorkerSpec(build, plan.options)
    results: Iterator[Result]
    if options.engine == "ray":
        use_gpu = None if options.device == "auto" else options.device != "cpu"
        results = make_on_ray(plan.todo, spec, RayOptions(options.ray_address, options.n_jobs, use_gpu))
    elif len(devices) > 1:
        results = make_in_processes(plan.todo, spec, devices)
    else:
        results = make_masks(plan.todo, build(devices[0]), plan.options, options.num_workers)
    write_masks(plan, results, summary, num_workers=options.num_workers)


def _make_generator(model_type: str, checkpoint: Path, settings: GeneratorSettings, device: str) -> MaskGenerator:
    """The mask generator on `device`; worker processes call it too."""
    return AutomaticMaskGenerator(build_sam(model_type, checkpoint, torch.device(device)), settings)


def _workers(options: argparse.Namespace) -> list[str]:
    """The device of each process on this machine; on a cluster, the actors find their own. Raises UsageError."""
    if options.engine == "ray":
        require_ray()
        if options.devices is not None:
            raise UsageError("--devices is for this machine; with --engine ray give --n_jobs, the number of workers")
        return []
    if options.ray_address is not None:
        raise UsageError(f"--ray_address {options.ray_address}: give --engine ray with it")
    if options.devices is None:
        return [str(resolve_device(options.device))] * (options.n_jobs or 1)
    if options.n_jobs is not None:
        raise UsageError(f"--n_jobs {options.n_jobs} and --devices {','.join(options.devices)}: give one of the two")
    return [str(resolve_device(name)) for name in options.devices]


def _with_precision(
    settings: GeneratorSettings, options: argparse.Namespace, workers: Sequence[str]
) -> GeneratorSettings:
    """`settings` with "auto" replaced by what it means here, so that every process makes the same masks."""
    if options.engine == "ray":
        if settings.precision == "auto":
            raise UsageError("--precision auto: the machines of a cluster may differ; give fp32, bf16 or fp16")
        return settings
    meant = {resolve_precision(settings.precision, torch.device(device)) for device in workers}
    if len(meant) > 1:
        raise UsageError(f"--precision auto: means {' and '.join(sorted(meant))} on these devices; give one of them")
    return dataclasses.replace(settings, precision=meant.pop())  # type: ignore[arg-type]


def _workers_text(options: argparse.Namespace, workers: Sequence[str]) -> str:
    if options.engine == "ray":
        return f"the Ray cluster {options.ray_address or 'of this machine'}"
    return ", ".join(workers)


def _device_list(text: str) -> list[str]:
    """`text` as names of devices, separated by commas."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of devices such as cuda:0,cuda:1")
    return names


def _part(text: str) -> tuple[int, int]:
    """`text` as (part, parts), from "2/8"."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"'{text}' is not I/N with I from 1 to N, such as 2/8")
    return int(part), int(parts)


def _find_images(options: argparse.Namespace) -> dict[Modality, ImageSet]:
    """The images of each modality asked for. One folder is enough for `--modality ir` or `vi`."""
    dataset_path = options.dataset_path
    if options.ir_dir is None and options.vi_dir is None:
        dataset_path = common.find_shipped(options.dataset_path)
    elif dataset_path is not None:
        raise UsageError(f"--dataset_path {dataset_path} is given beside --ir_dir or --vi_dir; give one or the other")
    wanted = MODALITIES if options.modality == "both" else (options.modality,)
    return {
        modality: find_images(dataset_path, ir_dir=options.ir_dir, vi_dir=options.vi_dir, modality=modality)
        for modality in wanted
    }


def _mention_lonely(images: Mapping[Modality, ImageSet]) -> None:
    """Warn of images without a partner: they get masks, but no pair can use them."""
    if len(images) < len(MODALITIES):
        return
    ir, vi = images["ir"].images, images["vi"].images
    lonely = [path for name, path in (*ir.items(), *vi.items()) if not (name in ir and name in vi)]
    if lonely:
        log.warning(
            "images without a partner in the other modality: %d, such as %s; they get masks, but train.py and test.py "
            "refuse them without --skip_bad",
            len(lonely),
            lonely[0],
        )


def _settings(options: argparse.Namespace, defaults: GeneratorSettings) -> GeneratorSettings:
    """`defaults` with the settings given on the command line. Raises UsageError."""
    return dataclasses.replace(defaults, **_given_settings(options))


def _given_settings(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in SETTINGS_HELP if (value := getattr(options, name)) is not None}


def _defaults_text(name: str) -> str:
    """For example "32; vit_nano 24": the setting's default, and the model types that have another."""
    common_value = getattr(GeneratorSettings(), name)
    values = {key: getattr(kind.defaults, name) for key, kind in MODEL_TYPES.items()}
    others = [f"{key} {_short(value)}" for key, value in values.items() if value != common_value]
    return "; ".join([_short(common_value), *others])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _signature(sam: ResolvedSam, settings: GeneratorSettings, from_embeddings: bool) -> Signature:
    """What the masks depend on, with `settings.precision` resolved."""
    generator: dict[str, float | int | None] = dict(settings.signature())
    if from_embeddings:
        generator["from_embeddings"] = 1  # they are rounded, so the masks differ a little
    return dataclasses.replace(_embedding_signature(sam, settings), generator=generator)


def _embedding_signature(sam: ResolvedSam, settings: GeneratorSettings) -> Signature:
    """What image embeddings depend on."""
    return Signature(
        model_type=sam.model_type,
        checkpoint_sha256=sam.sha256,
        generator={},
        package_version=thfuse_sam.__version__,
        precision=settings.precision,
    )


def _preview_dir(options: argparse.Namespace) -> Path:
    # Beside ir/ and vi/, where neither a reader of masks nor --verify looks.
    return Path(options.preview_dir or options.output_dir / "preview")


def _entries(jobs: Sequence[Job]) -> list[tuple[Modality, str, Path]]:
    return [(job.modality, job.name, job.image) for job in jobs]


def _write_report(
    options: argparse.Namespace, images: Mapping[Modality, ImageSet], workers: Sequence[str], given: Sequence[str]
) -> Path:
    """The report of the whole tree, also after a part of it was made; returns the path of its page."""
    facts = run_facts(
        "precompute_masks.py",
        given,
        torch.device(workers[0] if workers else "cpu"),  # of a cluster, this machine is described
        {"masks": mask_signature(options.output_dir)},
    )
    return write_precompute_report(
        options.output_dir, {modality: found.images for modality, found in images.items()}, facts
    )


def _how_far(plan: Plan, summary: RunSummary) -> str:
    return (
        f"{plan.finished + summary.written} of {len(plan.jobs)} masks are done and valid; "
        "the same command (without --overwrite) goes on from there"
    )


def _report(plan: Plan, summary: RunSummary, seconds: float) -> int:
    """Log what was done, then one line for each failure; the exit status."""
    log.info(
        "masks made: %d in %.1f s (%.2f images/s), of these without a segment: %d, kept: %d, failed: %d; in %s",
        summary.written,
        seconds,
        summary.written / max(seconds, 1e-9),
        summary.empty,
        plan.finished,
        len(summary.failures),
        plan.root,
    )
    for job, reason in summary.failures.items():
        log.error("failed: %s: %s", job, reason)
    return 1 if summary.failures else 0


def _plan_text(
    options: argparse.Namespace, plan: Plan, sam: ResolvedSam, settings: GeneratorSettings, workers: Sequence[str]
) -> str:
    counts = ", ".join(f"{sum(job.modality == modality for job in plan.jobs)} {modality}" for modality in MODALITIES)
    lines = {
        "images": f"{len(plan.jobs)} ({counts})",
        "to make": f"{len(plan.todo)}{' (overwriting)' if options.overwrite else ''}",
        "finished": plan.finished,
        "output_dir": options.output_dir,
        "model type": sam.model_type,
        "checkpoint": f"{sam.checkpoint} (SHA-256 {sam.sha256})",
        "processes on": _workers_text(options, workers),
        "store": plan.store,
        "num_workers": options.num_workers,
        "save_instances": options.save_instances,
        "save_embeddings": options.save_embeddings,
        "embeddings from": options.embeddings or "the encoder",
        "preview": f"{options.preview} masks in {_preview_dir(options)}" if options.preview else "none",
        "report": options.report,
        **dataclasses.asdict(settings),
    }
    return "\n".join(["dry run, nothing is written", *(f"  {name}: {value}" for name, value in lines.items())])


def _verify(options: argparse.Namespace, images: Mapping[Modality, ImageSet]) -> int:
    if options.shard is not None:
        raise UsageError("--verify looks at the whole tree; leave --shard out")
    asked = _given_settings(options)
    asked.pop("points_per_batch", None)
    if asked.get("precision") == "auto":
        del asked["precision"]
    if options.sam_model_type != AUTO:
        asked["model_type"] = options.sam_model_type
    if options.sam_checkpoint is not None:
        asked["checkpoint_sha256"] = checkpoint_sha256(options.sam_checkpoint)
    found = verify_tree(
        open_masks(options.output_dir),
        {modality: images_found.images for modality, images_found in images.items()},
        folders={modality: images_found.folder for modality, images_found in images.items()},
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
