"""Writing masks into their tree as `plan.plan_precompute` has planned it, and keeping the tree's manifest.

The results to write are made in this process (`worker`), in several of one machine (`processes`) or on a Ray cluster
(`ray`); in each case this process alone writes. Several such processes may fill one tree at the same time.
"""

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from thfuse_sam.arrays import Size
from thfuse_sam.errors import ImageReadError, ManifestError, OutputError
from thfuse_sam.files import as_output_error, make_directory, remove_abandoned
from thfuse_sam.images import MODALITIES, Modality, image_size
from thfuse_sam.masks.embeddings import EMBEDDINGS_FOLDER, EmbeddingFiles
from thfuse_sam.masks.image_records import RECORDS_NAME, ImageRecords
from thfuse_sam.masks.manifest import Manifest, Signature, manifest_lock, require_same_signature
from thfuse_sam.masks.shards import SHARDS_FOLDER, MaskShards, ShardWriter
from thfuse_sam.masks.store import MaskStore, open_masks
from thfuse_sam.masks.tree import INSTANCES_SUFFIX, MaskFiles
from thfuse_sam.precompute.jobs import Job
from thfuse_sam.precompute.plan import Plan, store_kind
from thfuse_sam.precompute.worker import Result
from thfuse_sam.progress import progress_bar

# Always images per second; below one, tqdm itself would show seconds per image.
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


@dataclass
class RunSummary:
    """What a run did; updated during the run, so that it is right after an interruption too."""

    written: int = 0  # masks
    empty: int = 0  # those written masks that have no segment
    # Those of visible images for which the infrared image was without use, as it has another size.
    without_infrared: int = 0
    failures: dict[Job, str] = field(default_factory=dict)  # why an image has no mask, in one line
    records: ImageRecords = field(default_factory=ImageRecords, repr=False)  # of the images whose masks were written


def write_masks(plan: Plan, results: Iterable[Result], summary: RunSummary, *, num_workers: int = 0) -> None:
    """Write what is made of `plan.todo`.

    An image that could not be read or segmented is noted in `summary.failures` and the rest is done. Whatever stops
    the run early (Ctrl-C, a full disk), masks that are written stay valid and the manifest says what there is.

    Args:
        results: an iterator that makes masks when they are asked for.
        summary: updated during the run.
        num_workers: threads that paint and write, one result each; with 0 the calling thread writes.

    Raises:
        OutputError: the tree cannot be written; nothing partial is left behind.
        ManifestError: meanwhile another process has begun to fill the tree with other settings.
    """
    _begin(plan)
    shards = ShardWriter(plan.root, plan.shard_size) if plan.store == "shards" else None
    writer = _ResultWriter(plan, shards or MaskFiles(plan.root), summary, num_workers)
    try:
        for result in results:
            writer.add(result)
        writer.finish()
        if shards is not None:
            shards.close()
        save_manifest(plan, summary)
    except BaseException as error:
        if hasattr(results, "close"):
            results.close()
        # Masks that are already made are kept if possible; only the first error is reported.
        with contextlib.suppress(OutputError):
            writer.finish(discard=isinstance(error, OutputError))
        if shards is not None:
            with contextlib.suppress(OutputError):
                shards.close()
            summary.written -= shards.lost
        with contextlib.suppress(OutputError, ManifestError):
            save_manifest(plan, summary)
        raise
    finally:
        writer.close()


class _ResultWriter:
    """Writes results in `num_workers` threads (0: in the calling thread) and counts them."""

    def __init__(self, plan: Plan, masks: MaskFiles | ShardWriter, summary: RunSummary, num_workers: int) -> None:
        self._masks = masks
        self._embeddings = EmbeddingFiles(plan.root / EMBEDDINGS_FOLDER)
        self._summary = summary
        self._num_workers = num_workers
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="write") if num_workers else None
        self._waiting: deque[Future[None]] = deque()
        self._counting = threading.Lock()
        self._bar = progress_bar(
            total=len(plan.todo),
            desc="masks",
            unit=" images",
            bar_format=_BAR,
            mininterval=0.1 if sys.stderr.isatty() else 5.0,
            leave=True,
            disable=False,
        )

    def add(self, result: Result) -> None:
        """Write `result` soon. Raises OutputError, also for a result that was added before."""
        if self._threads is None:
            self._write(result)
            return
        self._waiting.append(self._threads.submit(self._write, result))
        # A result is removed after it is waited for, so that an interruption here forgets none.
        while len(self._waiting) > self._num_workers or (self._waiting and self._waiting[0].done()):
            self._waiting[0].result()
            self._waiting.popleft()

    def finish(self, discard: bool = False) -> None:
        """Wait until everything is written; `discard` drops results that no thread has begun. Raises OutputError."""
        if discard:
            for future in self._waiting:
                future.cancel()
        first: OutputError | None = None
        while self._waiting:
            future = self._waiting[0]
            if not future.cancelled():
                try:
                    future.result()
                except OutputError as error:
                    first = first or error
            self._waiting.popleft()
        if first is not None:
            raise first

    def close(self) -> None:
        """End the threads and the bar."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        self._bar.close()

    def _write(self, result: Result) -> None:
        mask = result.finish()
        if mask.label_map is not None:
            modality, name = mask.job.modality, mask.job.name
            # The label map last: if it exists, so does everything else that was asked for.
            if mask.embedding is not None:
                self._embeddings.write(modality, name, mask.embedding)
            self._masks.write(modality, name, mask.label_map, mask.instances)
        without_infrared = mask.label_map is not None and _has_other_infrared_size(mask.job, mask.label_map.shape)
        with self._counting:
            if mask.label_map is None:
                self._summary.failures[mask.job] = mask.reason
                self._bar.set_postfix(failed=len(self._summary.failures), refresh=False)
            else:
                self._summary.written += 1
                self._summary.empty += not mask.segments
                self._summary.without_infrared += without_infrared
                if mask.record is not None:
                    self._summary.records.set(mask.job.modality, mask.job.name, mask.record)
            self._bar.update()


def _has_other_infrared_size(job: Job, size: Size) -> bool:
    """Whether the infrared image that gives prompts at warm places has another (height, width) than `size`."""
    with contextlib.suppress(ImageReadError):
        return job.other_infrared is not None and image_size(job.other_infrared) != size
    return False


def _begin(plan: Plan) -> None:
    """Make the folders, note the run in the manifest, and remove what is to be overwritten."""
    make_directory(plan.root)
    remove_abandoned(plan.root)
    with manifest_lock(plan.root):
        store_kind(plan.root, plan.store, any(map(open_masks(plan.root).names, MODALITIES)))
        manifest = _current_manifest(plan, plan.root, plan.signature)
        if plan.overwrite:
            # Before any mask is made, so that every mask that exists later is new and an interrupted run can be
            # continued without `overwrite`.
            _remove(plan)
        _save_records(plan.root, plan.records)
        manifest.save(plan.root)
        if plan.store == "shards":
            make_directory(plan.root / SHARDS_FOLDER)
        if plan.embedding_signature is not None:
            folder = make_directory(plan.root / EMBEDDINGS_FOLDER)
            _current_manifest(plan, folder, plan.embedding_signature).save(folder)


def _current_manifest(plan: Plan, folder: Path, signature: Signature) -> Manifest:
    """The manifest in `folder`, of masks or embeddings, with the run's source; a new one if no existing mask stays.

    Raises ManifestError if another process has begun to fill the tree with other settings after this run was planned.
    """
    manifest = None if plan.replaces_all else Manifest.find(folder)
    if manifest is None:
        manifest = Manifest(signature)
    require_same_signature(manifest, signature)
    return manifest.with_source(plan.source)


def _remove(plan: Plan) -> None:
    """Remove the files of the images to do, and all shards: a plan overwrites shards only as a whole."""
    masks, embeddings = MaskFiles(plan.root), EmbeddingFiles(plan.root / EMBEDDINGS_FOLDER)
    for job in plan.todo:
        masks.remove(job.modality, job.name)
        masks.remove(job.modality, job.name, INSTANCES_SUFFIX)
        embeddings.remove(job.modality, job.name)
    if plan.replaces_all:
        with as_output_error(plan.root):
            (plan.root / RECORDS_NAME).unlink(missing_ok=True)
        if isinstance(shards := open_masks(plan.root), MaskShards):
            shards.remove_all()


def save_manifest(plan: Plan, summary: RunSummary) -> None:
    """Bring counts and failures in the manifest up to date; a failure is forgotten once its mask exists.

    Raises OutputError, ManifestError.
    """
    if not plan.root.is_dir():
        make_directory(plan.root)
    with manifest_lock(plan.root):
        manifest = Manifest.find(plan.root) or Manifest(plan.signature)
        masks = open_masks(plan.root)
        failed_now = {(job.modality, job.name) for job in summary.failures}
        earlier = [entry for entry in manifest.failures if _still_failed(entry, masks, failed_now)]
        new = [
            {"modality": job.modality, "name": job.name, "path": str(job.image.absolute()), "reason": reason}
            for job, reason in summary.failures.items()
        ]
        counts: dict[str, int] = {modality: len(masks.names(modality)) for modality in MODALITIES}
        replace(manifest.with_source(plan.source), counts=counts, failures=earlier + new).save(plan.root)
        plan.records.update(summary.records)
        _save_records(plan.root, plan.records)
        if plan.embedding_signature is not None and (plan.root / EMBEDDINGS_FOLDER).is_dir():
            _save_records(plan.root / EMBEDDINGS_FOLDER, summary.records)


def _save_records(folder: Path, new: ImageRecords) -> None:
    """Add `new` to the records in `folder`; the caller holds the lock."""
    if new:
        records = ImageRecords.load(folder)
        records.update(new)
        records.save(folder)


def _still_failed(entry: Mapping[str, str], store: MaskStore, failed_now: set[tuple[Modality, str]]) -> bool:
    """Whether a failure in the manifest is still one after a run in which `failed_now` have failed."""
    name = entry.get("name", "")
    return any(
        modality == entry.get("modality") and (modality, name) not in failed_now and not store.has(modality, name)
        for modality in MODALITIES
    )
