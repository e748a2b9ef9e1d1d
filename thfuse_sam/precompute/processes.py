"""Making masks in several processes of one machine: one for each device, or CPU processes that share the cores."""

import contextlib
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import filelock
import torch
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from thfuse_sam.cores import usable_cores
from thfuse_sam.errors import WorkerError
from thfuse_sam.interrupts import ignore_interrupts
from thfuse_sam.precompute.jobs import Job, JobSettings
from thfuse_sam.precompute.worker import MaskResult, make_masks
from thfuse_sam.sam.generator import AutomaticMaskGenerator

# Images that a worker gets at once: on a GPU enough to read ahead, on a CPU so few that little is lost with a worker.
_BLOCK_GPU = 16
_BLOCK_CPU = 1
_WATCH_SECONDS = 2.0  # between two checks whether the parent process still lives
_CLAIM_SECONDS, _CLAIM_TRIES = 0.1, 600  # a device may be taken by a process that is about to end
_IDLE_SECONDS = 300  # after which a process without work ends
_DIED = "the process that worked on it died, twice; is there enough memory?"


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker process makes masks with. Everything in it can be pickled."""

    make_generator: Callable[[str], AutomaticMaskGenerator]  # takes the name of a device: "cpu", "cuda:0", ...
    options: JobSettings


def block_size(device: str) -> int:
    """Images that a worker on `device` gets at once."""
    return _BLOCK_CPU if device == "cpu" else _BLOCK_GPU


def make_in_processes(jobs: Sequence[Job], settings: WorkerSettings, devices: Sequence[str]) -> Iterator[MaskResult]:
    """Make the masks of `jobs` in one process for each entry of `devices`; results come in no fixed order.

    CPU processes divide the cores among themselves. If a worker dies, the images that it may have worked on are made
    again, one at a time; an image whose worker then dies again counts as failed. Raises WorkerError: workers die
    whatever image they are given.
    """
    todo = list(jobs)
    claims = Path(tempfile.mkdtemp(prefix="thfuse-devices-"))
    try:
        while todo:
            begun: list[Job] = []
            done: set[Job] = set()
            try:
                for result in _side_by_side(_Pool(settings, tuple(devices), claims), todo, begun):
                    done.add(result.job)
                    yield result
                return
            except TerminatedWorkerError as error:
                suspects = [job for job in begun if job not in done]
                retried = list(_one_by_one(_Pool(settings, tuple(devices[:1]), claims), suspects))
                if not done and all(result.reason == _DIED for result in retried):
                    reason = " ".join(str(error).split())[:200]
                    raise WorkerError(
                        f"the worker processes die, whatever they work on ({reason}); use fewer processes"
                    ) from None
                yield from retried
                settled = done.union(suspects)
                todo = [job for job in todo if job not in settled]
    finally:
        shutil.rmtree(claims, ignore_errors=True)


@dataclass(frozen=True)
class _Pool:
    """How to start worker processes, one for each device."""

    settings: WorkerSettings
    devices: tuple[str, ...]
    claims: Path  # a folder with a lock for each device that is taken

    @contextlib.contextmanager
    def start(self) -> Iterator[Callable[[Sequence[Job]], "Future[list[MaskResult]]"]]:
        """Yields a function that gives a block of images to a process. At the end all processes are killed, which is
        safe because they write nothing.
        """
        threads = max(1, usable_cores() // len(self.devices))
        # joblib's executor itself, because `joblib.Parallel` gives out work faster than results are taken.
        executor = ProcessPoolExecutor(
            max_workers=len(self.devices), timeout=_IDLE_SECONDS, env={"OMP_NUM_THREADS": str(threads)}
        )
        try:
            yield lambda block: executor.submit(_make_block, self.settings, self.devices, self.claims, threads, block)
        finally:
            executor.shutdown(wait=True, kill_workers=True)


def _side_by_side(pool: _Pool, jobs: Sequence[Job], begun: list[Job]) -> Iterator[MaskResult]:
    """The masks of `jobs`, in blocks that go to whichever process is free.

    `begun`: filled with the images that were given to a process.

    Raises TerminatedWorkerError if a process dies.
    """
    size = max(map(block_size, pool.devices))
    blocks = (jobs[first : first + size] for first in range(0, len(jobs), size))
    pending: set[Future[list[MaskResult]]] = set()
    with pool.start() as submit:
        while True:
            # For each process one block in work and one waiting, so that results do not pile up if the disk is slow.
            for block in itertools.islice(blocks, 2 * len(pool.devices) - len(pending)):
                begun.extend(block)
                pending.add(submit(block))
            if not pending:
                return
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                yield from future.result()


def _one_by_one(pool: _Pool, jobs: Sequence[Job]) -> Iterator[MaskResult]:
    """The masks of `jobs`, one image at a time; an image whose process dies has failed."""
    remaining = deque(jobs)
    while remaining:
        try:
            with pool.start() as submit:
                while remaining:
                    yield from submit([remaining[0]]).result()
                    remaining.popleft()
        except TerminatedWorkerError:
            yield MaskResult(remaining.popleft(), None, reason=_DIED)


@dataclass(frozen=True)
class _Worker:
    """What a worker process keeps from one block to the next."""

    generator: AutomaticMaskGenerator
    options: JobSettings  # those of the first block: what they have read of a mask tree is read once
    device: str
    claim: filelock.FileLock  # on the device; held for as long as the process lives


_worker: _Worker | None = None


def _make_block(
    settings: WorkerSettings, devices: tuple[str, ...], claims: Path, threads: int, block: Sequence[Job]
) -> list[MaskResult]:
    """The masks of a block of images, made in a worker process. Its first block builds the generator for all."""
    global _worker
    if _worker is None:
        ignore_interrupts()
        threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()
        device, claim = _claim_device(devices, claims)
        if device == "cpu":
            torch.set_num_threads(threads)
        _worker = _Worker(settings.make_generator(device), settings.options, device, claim)
    num_workers = 0 if len(block) == 1 else 1
    ahead = _worker.device != "cpu"
    results = make_masks(block, _worker.generator, _worker.options, num_workers, ahead=ahead)
    with ThreadPoolExecutor(1, thread_name_prefix="finish") as finisher:  # while the next image is segmented
        return [future.result() for future in [finisher.submit(result.finish) for result in results]]


def _end_after(parent: int) -> None:
    """End this process soon after its parent, which may have been killed."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _claim_device(devices: tuple[str, ...], claims: Path) -> tuple[str, filelock.FileLock]:
    """A device that no other process of this run has. The system releases the claim of a process that dies."""
    for _ in range(_CLAIM_TRIES):
        for number, device in enumerate(devices):
            lock = filelock.FileLock(claims / str(number), timeout=0, is_singleton=False)
            with contextlib.suppress(filelock.Timeout):
                lock.acquire()
                return device, lock
        time.sleep(_CLAIM_SECONDS)
    raise WorkerError(f"process {os.getpid()} found no free device of {', '.join(devices)}; end other runs")
