"""Making masks on a Ray cluster: Ray Data with a pool of actors, one for each GPU (or CPU core where there is none).

A process of its own (the driver) talks to the cluster: Ray ends a process that has lost the head node, and the process
that writes masks must outlive that. Images (and embeddings to use) are read where the actors run, so every machine of
the cluster must have them under the same paths; masks are sent back and written by the process that the user started.
"""

import math
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from thfuse_sam.errors import ThFuseError, UsageError, WorkerError
from thfuse_sam.interrupts import ignore_interrupts
from thfuse_sam.precompute.jobs import Job
from thfuse_sam.precompute.processes import WorkerSettings, block_size
from thfuse_sam.precompute.worker import MaskResult, make_masks

_RETRIES = 3  # times that a block of images is given to another actor after its own has died
_END_SECONDS = 15.0  # that the driver gets to end what Ray has started
_DIED = f"the worker that had it died {_RETRIES + 1} times; look at Ray's logs, is there enough memory?"
_NO_RAY = "`engine` ray needs Ray, which is not installed; run: pip install 'th-fuse-sam[ray]'"


@dataclass(frozen=True)
class RaySettings:
    """How to reach the cluster and how much of it to use."""

    address: str | None = None  # address of a running cluster; "auto": this machine's; None: start one
    workers: int | None = None  # actors; None: one for each GPU, or core where there is no GPU
    use_gpu: bool | None = None  # None: if the cluster has GPUs
    cores: int | None = None  # cores for a cluster that is started here; None: all of this machine
    timeout_s: float = 60.0  # seconds without an answer after which the head node counts as lost


def require_ray() -> None:
    """Raise UsageError where Ray is not installed. Does not import it."""
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise UsageError(_NO_RAY)


def make_on_ray(jobs: Sequence[Job], settings: WorkerSettings, cluster: RaySettings) -> Iterator[MaskResult]:
    """Make the masks of `jobs` on a Ray cluster; results come in no fixed order.

    If a worker is killed, another one makes its block of images again. Raises WorkerError: the cluster cannot be
    reached, or is lost during the run; results that were yielded before are valid.
    """
    require_ray()
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    descriptor, log_name = tempfile.mkstemp(prefix="thfuse-ray-", suffix=".log")
    os.close(descriptor)
    log_file = Path(log_name)
    driver = context.Process(
        target=_drive, args=(list(jobs), settings, cluster, sending, str(log_file)), name="ray driver"
    )
    unanswered = set(jobs)
    driver.start()
    sending.close()
    try:
        while True:
            try:
                message = receiving.recv()
            except EOFError:
                driver.join()
                raise WorkerError(
                    f"lost the Ray cluster {cluster.address or 'of this machine'} (its head node does not answer; "
                    f"log: {log_file}); start it again and repeat the command"
                ) from None
            if message is None:
                break
            if isinstance(message, ThFuseError):
                raise message
            unanswered.discard(message.job)
            yield message
        driver.join()
        log_file.unlink(missing_ok=True)
        for job in sorted(unanswered, key=str):
            yield MaskResult(job, None, reason=_DIED)
    finally:
        receiving.close()
        if driver.is_alive():
            driver.terminate()  # Ray then ends what it has started on this machine
            driver.join(_END_SECONDS)
            driver.kill()


def _drive(jobs: list[Job], settings: WorkerSettings, cluster: RaySettings, results: Connection, log_file: str) -> None:
    """The process that talks to Ray: sends each `MaskResult`, then None; or the error that ended it."""
    ignore_interrupts()
    # Ray writes to stdout and stderr from C++; the user gets one line from the process that waits.
    descriptor = os.open(log_file, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        for result in _connect_and_make(jobs, settings, cluster):
            results.send(result)
        results.send(None)
    except BrokenPipeError:  # whoever waited has gone
        pass
    except ThFuseError as error:
        results.send(error)
    except BaseException as error:
        traceback.print_exc()
        reason = str(error).strip().splitlines() or [type(error).__name__]
        results.send(WorkerError(f"Ray failed: {reason[-1][:300]} (log: {log_file}); repeat the command to go on"))
    finally:
        sys.stdout.flush()
        results.close()


def _connect_and_make(jobs: Sequence[Job], settings: WorkerSettings, cluster: RaySettings) -> Iterator[MaskResult]:
    """The masks of `jobs`, on the running cluster at `cluster.address` or on one that is started here."""
    # Ray's core reads this variable when it starts.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(math.ceil(cluster.timeout_s)))
    import ray

    try:
        # A running cluster refuses `include_dashboard`.
        if cluster.address is None:
            ray.init(num_cpus=cluster.cores, log_to_driver=False, include_dashboard=False)
        else:
            ray.init(address=cluster.address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise WorkerError(
            f"`ray_address` {cluster.address or '(none)'}: no Ray cluster answers ({reason}); "
            "start one with `ray start --head`, or leave the option out"
        ) from None
    try:
        yield from _make_with_actors(jobs, settings, cluster)
    finally:
        ray.shutdown()


def _make_with_actors(jobs: Sequence[Job], settings: WorkerSettings, cluster: RaySettings) -> Iterator[MaskResult]:
    """The masks of `jobs`, in blocks that Ray Data gives to a pool of actors."""
    import ray
    import ray.data

    resources = ray.cluster_resources()
    gpus, cores = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1)))
    use_gpu = gpus > 0 if cluster.use_gpu is None else cluster.use_gpu
    if use_gpu and gpus == 0:
        raise WorkerError("`device` cuda: the Ray cluster has no GPU; use `device` cpu or auto")
    workers = cluster.workers or (gpus if use_gpu else cores)
    size = block_size("cuda" if use_gpu else "cpu")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A block whose workers die again and again must not stop the others.
    context.max_errored_blocks = -1
    items = [
        {"modality": job.modality, "name": job.name, "image": str(job.image), "infrared": str(job.infrared or "")}
        for job in jobs
    ]
    blocks = ray.data.from_items(items, override_num_blocks=math.ceil(len(items) / size))
    rows = blocks.map_batches(
        _Actor,
        fn_constructor_args=(settings, "cuda" if use_gpu else "cpu"),
        batch_size=size,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=1 if use_gpu else 0,
        num_cpus=1,
        # By default Ray Data retries for ever, also with an image that no worker survives.
        ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": _RETRIES},
    )
    for row in rows.iter_rows():
        yield row["result"]


class _Actor:
    """Makes the masks of one block of images after another, with one generator."""

    def __init__(self, settings: WorkerSettings, device: str) -> None:
        self._options = settings.options
        self._generator = settings.make_generator(device)
        self._ahead = device != "cpu"

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        rows = zip(batch["modality"], batch["name"], batch["image"], batch["infrared"], strict=True)
        jobs = [
            Job(modality, str(name), Path(image), Path(infrared) if infrared else None)
            for modality, name, image, infrared in rows
        ]
        results = make_masks(jobs, self._generator, self._options, num_workers=1, ahead=self._ahead)
        return {"result": [result.finish() for result in results]}
