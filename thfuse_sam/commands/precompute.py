"""Planning and making mask trees according to `PrecomputeOptions`."""

import contextlib
import copy
import dataclasses
import functools
import gc
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import thfuse_sam
from thfuse_sam.arrays import ImageArray
from thfuse_sam.commands.infrared import infrared_reading, range_of_tree
from thfuse_sam.commands.inputs import require_no_input_in
from thfuse_sam.commands.precompute_images import data_sets, find_infrared, images_by_modality, mention_unpaired
from thfuse_sam.cores import free_ram, usable_cores
from thfuse_sam.datasets.pairs import ImageSet
from thfuse_sam.devices import resolve_device
from thfuse_sam.errors import (
    ImageReadError,
    MaskReadError,
    OptionError,
    OutputError,
    UsageError,
    WorkerError,
    counted,
    naming,
)
from thfuse_sam.files import remove_abandoned, require_writable
from thfuse_sam.folder_patterns import parse_folder
from thfuse_sam.images import MODALITIES, Modality, read_infrared
from thfuse_sam.masks.embeddings import EmbeddingFiles
from thfuse_sam.masks.format import LabelMap
from thfuse_sam.masks.manifest import MANIFEST_NAME, Manifest, Signature
from thfuse_sam.masks.store import open_masks
from thfuse_sam.options.fields import AUTO
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.options.precompute import PrecomputeOptions
from thfuse_sam.precompute.jobs import Job, JobSettings, list_jobs, take_part
from thfuse_sam.precompute.plan import Plan, plan_precompute, require_embeddings
from thfuse_sam.precompute.polarity import dark_segments
from thfuse_sam.precompute.processes import WorkerSettings, make_in_processes
from thfuse_sam.precompute.ray import RaySettings, make_on_ray, require_ray
from thfuse_sam.precompute.worker import Result, make_masks
from thfuse_sam.precompute.writing import RunSummary, save_manifest, write_masks
from thfuse_sam.report.contact_sheet import write_contact_sheets
from thfuse_sam.report.page import REPORT_FOLDER, require_replaceable
from thfuse_sam.report.precompute import write_precompute_report
from thfuse_sam.report.run_facts import mask_signature, run_facts
from thfuse_sam.sam.checkpoints import ResolvedSam, resolve_sam, type_with_weights
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.loading import load_sam
from thfuse_sam.sam.precision import resolve_precision
from thfuse_sam.sam.registry import generator_defaults
from thfuse_sam.thermal import AS_STORED, BLACK_HOT, InfraredReading

_PROCESS_BYTES = 2**30  # of memory that a process takes beside twice its model
_IMAGES_PER_PROCESS = 16  # that make up for the time in which another process starts

_IMAGES_FOR_POLARITY = 40  # at most, that are looked at for what is warm but dark
_MANY_IMAGES = 300  # for a GPU: from here on compiling takes less time than it saves

log = logging.getLogger(__name__)


def precompute_masks(
    options: PrecomputeOptions, command: str = "", *, generator: AutomaticMaskGenerator | None = None
) -> list[RunSummary]:
    """Make the masks that are missing. Returns a summary for each data set, up to the first that has failures.

    Args:
        options: which masks to make; if they name no images, the sample sets are used.
        command: the typed command line, for the report.
        generator: one with the settings and weights of `options`, which makes the masks of a run in this process;
            None: it is built.

    Raises:
        ThFuseError: of any kind; masks that are already written stay valid.
        KeyboardInterrupt: masks that are already written stay valid; the message says how many there are.
    """
    summaries = []
    for one in data_sets(options):
        run = _prepare(one, fetch=True)
        log.info("%s, %d with a mask in %s", counted(len(run.plan.jobs), "image"), run.plan.finished, run.plan.root)
        if run.plan.changed:
            log.warning("changed since its mask was made, which is made again: %s", counted(run.plan.changed, "image"))
        summaries.append(_run(run, command, generator))
        if summaries[-1].failures:
            break
    return summaries


def plan_masks(options: PrecomputeOptions) -> list[dict[str, Any]]:
    """What `precompute_masks` would do, for each data set; nothing is written or downloaded. Raises ThFuseError."""
    return [_plan_facts(_prepare(one, fetch=False)) for one in data_sets(options)]


# From options to a run


@dataclass(frozen=True)
class _PreparedRun:
    """Everything that making the masks of one data set needs, checked before anything is written."""

    options: PrecomputeOptions
    images: Mapping[Modality, ImageSet]
    reading: InfraredReading
    sam: ResolvedSam
    settings: GeneratorSettings
    devices: Sequence[str]  # one for each process of this machine
    plan: Plan

    @property
    def place(self) -> str:
        """Where masks are made, for people."""
        if self.options.engine == "ray":
            return f"the Ray cluster {self.options.ray_address or 'of this machine'}"
        return ", ".join(self.devices)

    def progress(self, summary: RunSummary) -> str:
        """How many masks are done and how to continue, for a message."""
        return (
            f"{self.plan.finished + summary.written} of {len(self.plan.jobs)} masks are done and valid; "
            "the same command (without `overwrite`) goes on from there"
        )


def _preview_dir(options: PrecomputeOptions) -> Path:
    # Beside ir/ and vi/, where neither a reader of masks nor `verify` looks.
    return options.preview_dir or options.output_dir / "preview"


def _prepare(options: PrecomputeOptions, *, fetch: bool) -> _PreparedRun:
    """Check everything and decide what is to be made; `fetch`: weights may be downloaded. Raises ThFuseError."""
    with _no_garbage_collection():
        images = images_by_modality(options)
    devices = _devices(options)
    require_writable("output_dir", options.output_dir)
    # Beside images, instance files would take the place of annotations in JSON.
    roots = (parse_folder(found.folder).root for found in images.values())
    require_no_input_in(options.output_dir, MODALITIES, roots)
    if options.preview:
        require_writable("preview_dir", _preview_dir(options))
    elif options.preview_dir is not None:
        raise OptionError("preview_dir", options.preview_dir, "give `preview` with it")
    if options.report:
        require_replaceable(options.output_dir / REPORT_FOLDER)
    sam = _resolve_sam(options, fetch)
    settings = options.generator_settings(generator_defaults(sam.model_type, sam.checkpoint))
    settings = _with_precision(settings, options, devices)
    with _no_garbage_collection():
        infrared = find_infrared(options, images) if settings.max_warm_places else {}
        seen = list(images["ir"].images.values() if "ir" in images else infrared.values())
        # A tree goes on with the reading that it was begun with, unless all its masks are made anew.
        tree = None if options.overwrite and options.modality != "vi" else options.output_dir
        kept = {f"as in {tree}": range_of_tree(tree)}
        reading = infrared_reading(options, seen, kept, tree) if seen else None
        jobs = list_jobs({modality: found.images for modality, found in images.items()}, infrared)
        if options.shard is not None:
            jobs = take_part(jobs, options.shard.number, options.shard.total)
        plan = _plan(options, images, jobs, sam, settings, reading)
    if plan.store != "shards" and options.shard_size != PrecomputeOptions.shard_size:
        raise OptionError("shard_size", options.shard_size, "is for `store` shards; give that, too, or leave it out")
    mention_unpaired(images)
    devices = _share_cores(options, devices, len(plan.todo), sam.size)
    return _PreparedRun(options, images, plan.options.reading, sam, settings, devices, plan)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Switch garbage collection off: a large tree makes many objects that all stay, and looking at them takes long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _devices(options: PrecomputeOptions) -> list[str]:
    """The device of each process on this machine; none on a cluster, whose actors choose. Raises UsageError."""
    if options.engine == "ray":
        require_ray()
        if options.devices is not None:
            raise UsageError("`devices` is for this machine; with `engine` ray give `n_jobs`, the number of workers")
        return []
    if options.ray_address is not None:
        raise OptionError("ray_address", options.ray_address, "give `engine` ray with it")
    if options.devices is None:
        return [str(resolve_device(options.device))] * (options.n_jobs if isinstance(options.n_jobs, int) else 1)
    for name in ("device", "n_jobs"):
        if (value := getattr(options, name)) != AUTO:
            raise UsageError(f"`{name}` {value} and `devices` {','.join(options.devices)}: give one of the two")
    return [str(resolve_device(name)) for name in options.devices]


def _share_cores(options: PrecomputeOptions, devices: list[str], images: int, sam_bytes: int) -> list[str]:
    """With `n_jobs` auto on a CPU a process for each core, as far as there are images and memory for them: processes
    of one thread are faster than as many threads, which wait for each other.
    """
    is_free = options.n_jobs == AUTO and options.devices is None and devices == ["cpu"]
    if not is_free or not sam_bytes:
        return devices
    memory = _PROCESS_BYTES + 2 * sam_bytes
    return ["cpu"] * max(1, min(usable_cores(), images // _IMAGES_PER_PROCESS, int(free_ram() / memory)))


def _resolve_sam(options: PrecomputeOptions, fetch: bool) -> ResolvedSam:
    """The SAM asked for; by default the one that made the tree, so that a run goes on with it wherever it started."""
    model_type = options.sam_model_type
    tree = options.output_dir
    unnamed = model_type == AUTO and options.sam_checkpoint is None
    if unnamed and not options.overwrite and (tree / MANIFEST_NAME).is_file():
        model_type = type_with_weights(Manifest.load(tree).signature.checkpoint_sha256) or AUTO
    with naming("sam_checkpoint", options.sam_checkpoint):
        return resolve_sam(model_type, options.sam_checkpoint, fetch=fetch)


def _with_precision(
    settings: GeneratorSettings, options: PrecomputeOptions, devices: Sequence[str]
) -> GeneratorSettings:
    """`settings` with "auto" replaced by what it means here, so that every process makes the same masks."""
    if options.engine == "ray":
        if settings.precision == AUTO:
            raise OptionError("precision", AUTO, "the machines of a cluster may differ; give fp32, bf16 or fp16")
        return settings
    meant = {resolve_precision(settings.precision, torch.device(device)) for device in devices}
    if len(meant) > 1:
        raise OptionError("precision", AUTO, f"means {' and '.join(sorted(meant))} on these devices; give one of them")
    return dataclasses.replace(settings, precision=meant.pop())


def _plan(
    options: PrecomputeOptions,
    images: Mapping[Modality, ImageSet],
    jobs: Sequence[Job],
    sam: ResolvedSam,
    settings: GeneratorSettings,
    reading: InfraredReading | None,
) -> Plan:
    """What is to be done; `reading` is None where no infrared image is read. Raises UsageError and ManifestError."""
    folders = {modality: found.folder for modality, found in images.items()}
    infrared: dict[str, float | int | str | None] = {} if reading is None else reading.settings()
    manifest = Manifest.find(options.output_dir)
    if reading is None and manifest is not None:  # how infrared images were read is none of this run's business
        infrared = {key: value for key, value in manifest.signature.generator.items() if key.startswith("ir_")}
    encoder = Signature(
        model_type=sam.model_type,
        checkpoint_sha256=sam.sha256,
        generator=infrared,
        package_version=thfuse_sam.__version__,
        precision=settings.precision,
    )
    generator: dict[str, float | int | str | None] = {**settings.signature(), **infrared}
    if options.embeddings is not None:
        require_embeddings(options.embeddings, encoder, jobs, folders)
        generator["from_embeddings"] = 1  # kept embeddings are rounded, so the masks differ a little
    if settings.crop_n_layers and (options.save_embeddings or options.embeddings is not None):
        name = "save_embeddings" if options.save_embeddings else "embeddings"
        raise UsageError(
            f"`{name}`: embeddings are of whole images; leave `crop_n_layers` {settings.crop_n_layers} out"
        )
    return plan_precompute(
        options.output_dir,
        jobs,
        folders,
        dataclasses.replace(encoder, generator=generator),
        overwrite=options.overwrite,
        options=JobSettings(
            save_instances=options.save_instances,
            save_embeddings=options.save_embeddings,
            embeddings=EmbeddingFiles(options.embeddings) if options.embeddings is not None else None,
            reading=reading or AS_STORED,
        ),
        embedding_signature=encoder,
        store=options.store,
        shard_size=options.shard_size,
    )


def _plan_facts(run: _PreparedRun) -> dict[str, Any]:
    options, plan = run.options, run.plan
    counts = ", ".join(f"{sum(job.modality == modality for job in plan.jobs)} {modality}" for modality in MODALITIES)
    return {
        "images": f"{len(plan.jobs)} ({counts})",
        "to make": f"{len(plan.todo)}{' (overwriting)' if options.overwrite else ''}",
        "changed since": plan.changed,
        "finished": plan.finished,
        "output_dir": options.output_dir,
        "model type": run.sam.model_type,
        "checkpoint": f"{run.sam.checkpoint} (SHA-256 {run.sam.sha256})",
        "processes on": run.place,
        "store": plan.store,
        "num_workers": options.num_workers,
        "save_instances": options.save_instances,
        "save_embeddings": options.save_embeddings,
        "embeddings from": options.embeddings or "the encoder",
        "preview": f"{options.preview} masks in {_preview_dir(options)}" if options.preview else "none",
        "report": options.report,
        **run.reading.settings(),
        **dataclasses.asdict(run.settings),
    }


# The run


def _run(run: _PreparedRun, command: str, generator: AutomaticMaskGenerator | None) -> RunSummary:
    summary = RunSummary()
    started = time.monotonic()
    try:
        if run.plan.todo:
            log.info("%s from %s on %s", run.sam.model_type, run.sam.checkpoint, run.place)
            write_masks(run.plan, _results(run, generator), summary, num_workers=run.options.num_workers)
        else:
            remove_abandoned(run.plan.root)
            save_manifest(run.plan, summary)
        _write_pictures(run, command)
        if summary.written:
            _hint_polarity(run)
    except KeyboardInterrupt as stop:
        raise type(stop)(run.progress(summary)) from stop
    except (OutputError, WorkerError) as error:
        raise type(error)(f"{error}; {run.progress(summary)}") from error
    _log_summary(run.plan, summary, time.monotonic() - started)
    return summary


def _results(run: _PreparedRun, generator: AutomaticMaskGenerator | None) -> Iterator[Result]:
    """The masks of the plan, each made when it is asked for: here, in other processes or on other machines."""
    options, plan = run.options, run.plan
    many = len(plan.todo) >= _MANY_IMAGES * max(1, len(run.devices))
    compiled = options.compile == "on" or (options.compile == AUTO and many)
    sam = dataclasses.replace(run.sam, checkpoint=run.sam.checkpoint.absolute())
    build = functools.partial(_build_generator, sam, run.settings, compiled)
    workers = WorkerSettings(build, plan.options)
    if options.engine == "ray":
        use_gpu = None if options.device == AUTO else options.device != "cpu"
        number = options.n_jobs if isinstance(options.n_jobs, int) else None
        cluster = RaySettings(options.ray_address, number, use_gpu)
        return make_on_ray(plan.todo, workers, cluster)
    if len(run.devices) > 1:
        return make_in_processes(plan.todo, workers, run.devices)
    [device] = run.devices
    return make_masks(plan.todo, build(device, generator), plan.options, options.num_workers, ahead=device != "cpu")


def _build_generator(
    sam: ResolvedSam,
    settings: GeneratorSettings,
    compiled: bool,
    device: str,
    given: AutomaticMaskGenerator | None = None,
) -> AutomaticMaskGenerator:
    """The mask generator on `device`, like `given`, or built; compiled only on a GPU. Worker processes call it too."""
    if given is None:
        generator = AutomaticMaskGenerator(load_sam(sam, device), settings, owns_sam=True)
    else:
        generator = copy.copy(given)  # which compiling changes
    if compiled and device != "cpu":
        generator.compile()
    return generator


def _write_pictures(run: _PreparedRun, command: str) -> None:
    """Write the contact sheet and the report. They show the whole tree, even if this run made only a part of it."""
    options = run.options
    if options.preview:
        entries = [(job.modality, job.name, job.image) for job in run.plan.jobs]
        store = open_masks(run.plan.root)
        for path in write_contact_sheets(_preview_dir(options), entries, store, options.preview, run.reading):
            log.info("preview: %s", path)
    if options.report:
        # For a cluster, the facts are those of this machine.
        device = torch.device(run.devices[0] if run.devices else "cpu")
        facts = run_facts(command, device, {"masks": mask_signature(options.output_dir)})
        images = {modality: found.images for modality, found in run.images.items()}
        page = write_precompute_report(options.output_dir, images, facts, reading=run.reading)
        log.info("report: open %s in a browser", page)


def _hint_polarity(run: _PreparedRun) -> None:
    """Say so if warm things seem to be dark."""
    if run.reading.polarity == BLACK_HOT:
        return
    jobs, store = [job for job in run.plan.jobs if job.modality == "ir"], open_masks(run.plan.root)

    def images() -> Iterator[tuple[LabelMap, ImageArray]]:
        for job in jobs[:: 1 + len(jobs) // _IMAGES_FOR_POLARITY]:
            with contextlib.suppress(ImageReadError, MaskReadError):
                yield store.read("ir", job.name, None), read_infrared(job.image, run.reading)

    found = dark_segments(images())
    if found is not None:
        log.warning(
            "%d of %d upright things in infrared images are darker than what is around them; if what is warm is dark "
            "there, make the masks anew with `ir_polarity` black-hot",
            *found,
        )


def _log_summary(plan: Plan, summary: RunSummary, seconds: float) -> None:
    """Log the counts of the run, then one line for each failure."""
    if not summary.written and not summary.failures:
        log.info("masks made: 0, kept: %d; all are in %s already", plan.finished, plan.root)
        return
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
    if summary.without_infrared:
        log.warning(
            "no prompts at warm places (`thermal_points`): %s, whose infrared images have another size; bring both to "
            "one size with `align()`",
            counted(summary.without_infrared, "visible image"),
        )
    for job, reason in summary.failures.items():
        log.error("failed: %s: %s", job, reason)
