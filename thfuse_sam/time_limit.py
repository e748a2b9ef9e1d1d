"""Giving up on what may never answer: a disk or a network."""

import threading
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
    ended = (
        threading.Event()
    )  # an interrupted `Thread.join` of older Pythons takes a thread that runs for one that ended

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    # A daemon thread does not keep the process from ending.
    thread = threading.Thread(target=work, name="within a time limit", daemon=True)
    try:
        thread.start()
        ended.wait(seconds)
    except RuntimeError as error:
        raise MemoryError(str(error)) from error
    except BaseException:
        # An interrupt: a library at work while the process ends around it may turn that into an abort.
        ended.wait(_LAST_SECONDS)
        raise
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]
