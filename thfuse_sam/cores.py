"""The cores and the memory that this process may use, how OpenMP's threads wait, what of freed memory is kept, and
work spread over processes.

PyTorch computes with OpenMP, whose threads by default spin while they wait for each other. Where another program has
one of the cores, or a quota stops a thread, the others burn their time in that loop: work takes many times as long.
"""

import contextlib
import ctypes
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from thfuse_sam.errors import WorkerError
from thfuse_sam.interrupts import ignore_interrupts

# Whoever sets one of these has chosen how threads wait. libgomp (PyTorch on Linux) reads the first two, LLVM's and
# Intel's libomp (macOS, Windows) all but the second.
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
_CONTROL_GROUPS, _PROC = Path("/sys/fs/cgroup"), Path("/proc")
_SPINS = 5000  # of libgomp, by default 300,000: lost time where others come later stays bounded
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # M_TRIM_THRESHOLD and so on of malloc.h
_KEPT_BYTES = 2**28
_KEPT_BY_OLD_GLIBC = 2**25  # up to 2.34, which refuses more
_IDLE_SECONDS = 300  # after which a process without work ends, also where its parent was killed

_Item = TypeVar("_Item")


def prepare_openmp() -> None:
    """Let OpenMP's threads spin only briefly while they wait, or not at all where others compute; and be no more than
    `usable_cores`. What the user has set stays.

    OpenMP reads these environment variables when torch is loaded; child processes inherit them.
    """
    if not any(name in os.environ for name in WAIT_VARIABLES):
        if _others_compute():
            os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        else:  # to sleep and to wake takes longer than most waits: a quarter to a half of all time
            os.environ["GOMP_SPINCOUNT"] = str(_SPINS)
    # Only where the affinity does not say it: by itself, torch counts cores and leaves their second threads alone.
    if "OMP_NUM_THREADS" not in os.environ and usable_cores() < _affinity():
        os.environ["OMP_NUM_THREADS"] = str(usable_cores())


def keep_freed_memory() -> None:
    """Let this process keep what its next images need as well, up to 256 MiB. Only glibc (Linux) can be told.

    By default it gives large blocks back as soon as they are free, and to get them again, page by page, takes a quarter
    of the time in which an image is fused.
    """
    set_option = _mallopt()
    sizes = _KEPT_BYTES, _KEPT_BY_OLD_GLIBC
    if set_option is not None and any(set_option(_MMAP_THRESHOLD, size) for size in sizes):
        set_option(_TRIM_THRESHOLD, _KEPT_BYTES)  # alone, it would stop glibc from adapting the other one


def share_one_heap() -> None:
    """Let all threads take memory from one heap, unless the user has chosen. Call it before a second one begins.

    A heap of each one's own keeps what another could use: 50 to 150 MB while two threads make masks.
    """
    set_option = _mallopt()
    if set_option is not None and "MALLOC_ARENA_MAX" not in os.environ:
        set_option(_ARENA_MAX, 1)


def usable_cores() -> int:
    """How many cores this process may use: the least of what its affinity, the CPU quota of its control groups (cgroup
    v1 and v2), SLURM_CPUS_PER_TASK and OMP_NUM_THREADS allow. Processes that torchrun starts share the cores.
    """
    processes = _count("LOCAL_WORLD_SIZE") or 1
    limits: list[float] = [_affinity(), min(map(_quota, _control_groups("cpu")), default=math.inf)]
    # torchrun sets OMP_NUM_THREADS to 1, whatever the cores.
    limits += filter(None, [_count("SLURM_CPUS_PER_TASK"), _count("OMP_NUM_THREADS") if processes == 1 else None])
    return max(1, int(min(limits)) // processes)


def free_ram() -> float:
    """Bytes of memory that this process may still take, of the machine's and of its control groups'; 0: not known."""
    lines = _read(_PROC / "meminfo").splitlines()
    available = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
    return max(0, min([available, *map(_memory_left, _control_groups("memory"))]))


def with_results(
    items: Iterable[_Item], function: Callable[..., Any], arguments: Callable[[_Item], tuple[Any, ...]], processes: int
) -> Iterator[tuple[_Item, Any]]:
    """Each of `items` in their order, with `function(*arguments(item))`, which is computed in other processes.

    Args:
        items: up to `2 * processes` of them are taken before the first result is asked for.
        function, arguments: the function, the arguments and the results must be picklable.
        processes: number of processes; with fewer than 2, the calling one computes.

    Raises WorkerError where a process dies.
    """
    if processes < 2:
        yield from ((item, function(*arguments(item))) for item in items)
        return
    from joblib.externals.loky import ProcessPoolExecutor
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    one_thread = {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    executor = ProcessPoolExecutor(processes, timeout=_IDLE_SECONDS, initializer=ignore_interrupts, env=one_thread)
    waiting: deque[tuple[_Item, Future[Any]]] = deque()
    try:
        for item in items:
            waiting.append((item, executor.submit(function, *arguments(item))))
            while len(waiting) > 2 * processes or (waiting and waiting[0][1].done()):
                first, future = waiting.popleft()
                yield first, future.result()
        yield from ((item, future.result()) for item, future in waiting)
    except TerminatedWorkerError as error:
        reason = " ".join(str(error).split())[:200]
        raise WorkerError(f"a process of this run died ({reason}); is there enough memory?") from None
    finally:
        executor.shutdown(wait=True, kill_workers=True)


def _mallopt() -> Callable[[int, int], int] | None:
    """The C library's own; None where it has none (macOS, Windows, musl)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        function: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
        return function
    return None


def _others_compute() -> bool:
    """Whether other programs run on the cores that this process may use, now and for a while; True if not known."""
    fields = _read(_PROC / "loadavg").split()  # means over 1, 5 and 15 minutes, running/all threads, the last process
    if len(fields) < 4:
        return True
    others = int(fields[3].partition("/")[0]) - 1
    spare = max(0, (os.cpu_count() or 1) - usable_cores())
    return others > spare and float(fields[0]) > 0.3


def _affinity() -> int:
    """Cores on which the system lets this process run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count(variable: str) -> int | None:
    """The whole number above 0 in an environment variable; None where there is none."""
    text = os.environ.get(variable, "").partition(",")[0].strip()  # OMP_NUM_THREADS may have one for each level
    return int(text) or None if text.isdecimal() else None


def _control_groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups of this process, its own and all above it, that may limit `controller`."""
    for line in _read(_PROC / "self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        group = Path(path.lstrip("/"))
        if not controllers:  # cgroup v2
            yield from (_CONTROL_GROUPS / folder for folder in (group, *group.parents))
        elif controller in controllers.split(","):
            yield from (_CONTROL_GROUPS / controller / folder for folder in (group, *group.parents))


def _quota(group: Path) -> float:
    """CPUs that a control group grants; infinite without a quota."""
    quota, _, period = _read(group / "cpu.max").partition(" ")
    if not quota:
        quota, period = (_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdecimal() else math.inf  # "max" or -1: no quota


def _memory_left(group: Path) -> float:
    """Bytes until a control group's limit; infinite without a limit."""
    for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        texts = [_read(group / name).strip() for name in (limit, usage)]
        if all(text.isdecimal() for text in texts):
            return int(texts[0]) - int(texts[1])
    return math.inf


def _read(path: Path) -> str:
    """The text of a file of the system; "" where it does not exist or may not be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
