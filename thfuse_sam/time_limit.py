"""Giving up on what may never answer: a disk or a network."""

import _thread
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

_LAST_SECONDS = 2.0  # that work has to end after an interrupt


def within(seconds: float, function: Callable[[], _T]) -> _T:
    """What `function` returns or raises, or TimeoutError if it takes longer than `seconds`.

    It runs in a thread of its own. When the time is over it goes on there, because a thread cannot be ended from
    outside. Raises MemoryError where no thread can be started.
    """
    results: list[_T] = []
    errors: list[BaseException] = []
    running = _thread.allocate_lock()
    running.acquire()

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)
        finally:
            running.release()

    try:
        # A `threading.Thread` needs memory of its own before and after its work: without any, its start waits forever
        # and its end prints a traceback.
        _thread.start_new_thread(work, ())
        ended = running.acquire(timeout=seconds)
    except RuntimeError as error:
        raise MemoryError(str(error)) from error
    except BaseException:
        # An interrupt: a library at work while the process ends around it may turn that into an abort.
        running.acquire(timeout=_LAST_SECONDS)
        raise
    if not ended:
        raise TimeoutError
    if errors:
        raise errors[0]
    return results[0]
