"""Filling a mask tree: `plan_precompute` looks and refuses, `precompute` writes; a command can stop between them."""

import contextlib
import itertools
import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import joblib
import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from thfuse_sam.errors import ImageReadError, ManifestError, MaskReadError, OutputError
from thfuse_sam.files import make_directory
from thfuse_sam.images import MODALITIES, Modality, image_size, read_for_sam
from thfuse_sam.masks.format import label_map, mask_shape
from thfuse_sam.masks.instances import InstanceLike, write_instances
from thfuse_sam.masks.manifest import MANIFEST_NAME, Manifest, Signature, foreign_source, require_same_signature
from thfuse_sam.masks.tree import MaskTree

log = logging.getLogger(__name__)

# Always images per second, also below one, where tqdm would turn the ratio round.
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class MaskGenerator(Protocol):
    """What `precompute` needs of a generator; `thfuse_sam.sam.generator.AutomaticMaskGenerator` has it."""

    def generate(self, image: npt.NDArray[np.uint8]) -> Sequence[InstanceLike]:
        """The segments of `image` (uint8 HxWx3, RGB)."""


@dataclass(frozen=True)
class Job:
    """One image whose mask belongs in the tree."""

    modality: Modality
    name: str  # relative path without suffix, "a/0001"
    image: Path

    def __str__(self) -> str:
        return f"{self.modality} {self.name}"


@dataclass(frozen=True)
class Plan:
    """What a run will do. Nothing has been written yet."""

    tree: MaskTree
    manifest: Manifest  # as it is written before the first mask
    jobs: list[Job]  # every image of the run
    todo: list[Job]  # those without a finished mask, or all of them to overwrite
    save_instances: bool  # also write the overlapping instance masks
    overwrite: bool  # remove what exists of `todo` before the first mask is made

    @property
    def finished(self) -> int:
        """Number of images whose masks exist and stay."""
        return len(self.jobs) - len(self.todo)


@dataclass
class Outcome:
    """What a run did; filled while it goes on, so that it is right after an interruption too."""

    written: int = 0  # masks
    empty: int = 0  # of those, masks without a segment
    failures: dict[Job, str] = field(default_factory=dict)  # reason, one line


def list_jobs(images: Mapping[Modality, Mapping[str, Path]]) -> list[Job]:
    """One job for every image, both modalities of a name next to each other: whole pairs are ready early."""
    jobs = [Job(modality, name, path) for modality, found in images.items() for name, path in found.items()]
    return sorted(jobs, key=lambda job: (job.name, job.modality))


# Planning


def plan_precompute(
    root: Path,
    jobs: Sequence[Job],
    image_dirs: Mapping[Modality, Path],
    signature: Signature,
    *,
    overwrite: bool = False,
    save_instances: bool = False,
) -> Plan:
    """Decide what a run into the tree at `root` has to make; reads headers only and writes nothing.

    A mask is finished when its size is the image's and, with `save_instances`, its instance file exists.

    Args:
        image_dirs: the folder of each modality of the run, for the manifest.
        overwrite: make every mask anew. Where that replaces the whole tree, other settings and other images are fine.

    Raises:
        ManifestError: the tree has masks of other settings, of unknown settings, or of other images of the same names.
    """
    tree = MaskTree(root)
    present = {modality: set(tree.names(modality)) for modality in MODALITIES}
    existing = [job for job in jobs if job.name in present[job.modality]]
    others = sum(map(len, present.values())) - len(existing)
    manifest = Manifest(signature)
    replaces_all = overwrite and not others
    if not replaces_all and (root / MANIFEST_NAME).is_file():
        manifest = Manifest.load(root)
        remedy = f"choose another --output_dir than {root}, or pass --overwrite"
        if overwrite:
            remedy = f"--overwrite would leave {others} masks of those in {root}; choose another --output_dir"
        require_same_signature(manifest, signature, remedy)
        for job in existing:
            _require_own_mask(manifest, job, image_dirs[job.modality], root)
    elif not replaces_all and (existing or others):
        raise ManifestError(
            f"--output_dir {root} holds masks but no {MANIFEST_NAME}, so nobody knows what made them; "
            "choose another --output_dir or delete them"
        )
    source: dict[str, str] = {modality: str(folder.resolve()) for modality, folder in image_dirs.items()}
    if source not in manifest.sources:
        manifest = replace(manifest, sources=[*manifest.sources, source])
    unfinished = set(jobs) if overwrite else set(jobs).difference(_finished(tree, existing, save_instances))
    todo = [job for job in jobs if job in unfinished]
    return Plan(tree, manifest, list(jobs), todo, save_instances, overwrite)


def _require_own_mask(manifest: Manifest, job: Job, folder: Path, root: Path) -> None:
    other = foreign_source(manifest, job.modality, job.name, folder)
    if other is not None:
        raise ManifestError(
            f"--output_dir {root} may hold the mask of {other} under the name of {job.image}, another image; "
            "choose another --output_dir for this data set"
        )


def _finished(tree: MaskTree, existing: Sequence[Job], save_instances: bool) -> Iterator[Job]:
    for job in existing:
        if save_instances and not tree.instances_path(job.modality, job.name).is_file():
            continue
        with contextlib.suppress(ImageReadError, MaskReadError):
            if mask_shape(tree.path(job.modality, job.name)) == image_size(job.image):
                yield job


# Writing


def precompute(plan: Plan, generator: MaskGenerator, outcome: Outcome, *, num_workers: int = 0) -> None:
    """Make the masks of `plan.todo`.

    An image that cannot be read or segmented is noted in `outcome.failures` and the rest is done. Whatever stops the
    run early (Ctrl-C, a full disk), masks that are written stay valid and the manifest says what there is.

    Args:
        generator: runs in the calling thread, one image at a time.
        outcome: filled while the run goes on.
        num_workers: threads that read images ahead of the generator and write masks behind it, at most this many
            images each; 0 does everything in line.

    Raises:
        OutputError: the tree cannot be written; nothing partial is left behind.
    """
    tree = plan.tree
    make_directory(tree.root)
    if plan.overwrite:
        # First, so that an interrupted run can go on as a plain one: what exists then is new.
        _remove_masks(plan)
    save_manifest(plan, outcome)
    run = _Run(plan, generator, outcome)
    try:
        if num_workers == 0:
            run.in_line()
        else:
            run.with_workers(num_workers)
    except OutputError:
        raise
    except BaseException:
        run.write_waiting()
        raise
    finally:
        run.close()
        save_manifest(plan, outcome)


@dataclass
class _Decoded:
    job: Job
    image: npt.NDArray[np.uint8] | None  # HxWx3, RGB; None: unreadable
    reason: str = ""


class _Run:
    """The state of one `precompute` call: results that wait to be written, and the progress bar."""

    def __init__(self, plan: Plan, generator: MaskGenerator, outcome: Outcome) -> None:
        self._plan = plan
        self._generator = generator
        self._outcome = outcome
        # Instances by job. One result is written at a time: an interruption then waits for at most one file.
        self._waiting: dict[Job, tuple[tuple[int, int], Sequence[InstanceLike]]] = {}
        self._writing = threading.Lock()
        self._bar = tqdm(
            total=len(plan.todo),
            desc="masks",
            unit=" images",
            bar_format=_BAR,
            mininterval=0.1 if sys.stderr.isatty() else 5.0,
        )

    def in_line(self) -> None:
        for job in self._plan.todo:
            if self._segment(_decode(job)):
                self._write(job)

    def with_workers(self, num_workers: int) -> None:
        """Read and write in threads, window by window: while the generator works on one window of `num_workers`
        images, the threads write the window before it and read the one after it."""
        todo = iter(self._plan.todo)
        windows = iter(lambda: list(itertools.islice(todo, num_workers)), [])
        finished: list[Job] = []
        with joblib.Parallel(
            n_jobs=num_workers, backend="threading", return_as="generator", batch_size=1, pre_dispatch="all"
        ) as parallel:
            ahead = parallel(joblib.delayed(_decode)(job) for job in next(windows, []))
            try:
                while window := [decoded for decoded in ahead if decoded is not None]:
                    tasks = [joblib.delayed(self._write)(job) for job in finished]
                    tasks += [joblib.delayed(_decode)(job) for job in next(windows, [])]
                    ahead = parallel(tasks)
                    finished = [decoded.job for decoded in window if self._segment(decoded)]
            finally:
                # joblib complains on stderr about tasks that nobody waits for.
                for _ in ahead:
                    pass
        self.write_waiting()

    def _segment(self, decoded: _Decoded) -> bool:
        """Run the generator; True where there is a result to write."""
        if decoded.image is None:
            self._fail(decoded.job, decoded.reason)
            return False
        try:
            instances = self._generator.generate(decoded.image)
        except (MemoryError, torch.OutOfMemoryError):
            self._fail(decoded.job, "out of memory; use a lower --points_per_batch or --device cpu")
            return False
        except Exception as error:
            # One image must not cost the run: the reason goes into the manifest and the exit status.
            log.debug("%s", decoded.job, exc_info=True)
            self._fail(decoded.job, " ".join(f"{type(error).__name__}: {error}".split()))
            return False
        height, width = decoded.image.shape[:2]
        self._waiting[decoded.job] = ((height, width), instances)
        return True

    def _write(self, job: Job) -> None:
        """Write the result of `job`, unless that is done already; from any thread. Raises OutputError."""
        with self._writing:
            if job not in self._waiting:
                return
            shape, instances = self._waiting[job]
            tree = self._plan.tree
            beside = tree.instances_path(job.modality, job.name)
            # Instances first: where the label map exists, everything that was asked for does.
            if self._plan.save_instances:
                write_instances(beside, instances, shape)
            else:
                beside.unlink(missing_ok=True)
            tree.write(job.modality, job.name, label_map((instance.mask for instance in instances), shape))
            del self._waiting[job]
            self._outcome.written += 1
            self._outcome.empty += not instances
            self._bar.update()

    def _fail(self, job: Job, reason: str) -> None:
        self._outcome.failures[job] = reason
        self._bar.set_postfix(failed=len(self._outcome.failures), refresh=False)
        self._bar.update()

    def write_waiting(self) -> None:
        """Write every result that is not written yet. Raises OutputError."""
        for job in list(self._waiting):
            self._write(job)

    def close(self) -> None:
        """End the bar; threads that come late find nothing to write."""
        with self._writing:
            self._waiting.clear()
        self._bar.close()


def _decode(job: Job) -> _Decoded:
    try:
        return _Decoded(job, read_for_sam(job.image, job.modality))
    except ImageReadError as error:
        return _Decoded(job, None, str(error))


def _remove_masks(plan: Plan) -> None:
    for job in plan.todo:
        for path in (plan.tree.path(job.modality, job.name), plan.tree.instances_path(job.modality, job.name)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"cannot remove {path}: {error.strerror or error}; check permissions") from error


def save_manifest(plan: Plan, outcome: Outcome) -> None:
    """Write the manifest with the present counts; a failure is forgotten once its mask exists."""
    present = {(modality, name) for modality in MODALITIES for name in plan.tree.names(modality)}
    failed_now = {(job.modality, job.name) for job in outcome.failures}
    earlier = [
        failure
        for failure in plan.manifest.failures
        if (failure["modality"], failure["name"]) not in present | failed_now
    ]
    new = [
        {"modality": job.modality, "name": job.name, "path": str(job.image.absolute()), "reason": reason}
        for job, reason in outcome.failures.items()
    ]
    counts: dict[str, int] = {key: sum(modality == key for modality, _ in present) for key in MODALITIES}
    replace(plan.manifest, counts=counts, failures=earlier + new).save(plan.tree.root)
