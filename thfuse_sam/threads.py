"""Threads that share PyTorch's threads among them.

Where threads share each operation, they wait for each other after every one, and all of them for the core that another
program has. Where each computes items of its own, none waits.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from thfuse_sam.interrupts import delay_interrupts

_START_SECONDS = 60.0  # within which threads begin

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextlib.contextmanager
def worker_threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """`number` threads, each with its share of PyTorch's threads. Gradients and autocast are as a new thread has them:
    the first are computed, the second is off.
    """
    threads = torch.get_num_threads()
    shares = iter([(threads + index) // number for index in range(number)])
    started = threading.Barrier(number + 1, timeout=_START_SECONDS)

    def start() -> None:
        torch.get_num_threads()  # a thread's first question sets its number to that of the process
        torch.set_num_threads(next(shares))  # of this thread, and of the process
        started.wait()

    with ThreadPoolExecutor(number, initializer=start) as pool:
        with delay_interrupts():
            try:
                for _ in range(number):
                    pool.submit(int)  # each begins a thread, because those before it wait for all
                started.wait()
            except RuntimeError:  # memory does not suffice for a thread
                started.abort()
                raise
            finally:
                torch.set_num_threads(threads)
        yield pool


def map_in_threads(function: Callable[[_Item], _Result], items: Sequence[_Item], most: int) -> list[_Result]:
    """`function` of each of `items`, in their order, by up to `most` threads; by the calling one if it has no more."""
    number = min(torch.get_num_threads(), most, len(items))
    if number < 2:
        return [function(item) for item in items]
    with worker_threads(number) as pool:
        try:
            return list(pool.map(function, items))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # of what is left after an error or Ctrl-C
