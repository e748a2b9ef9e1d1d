"""Ctrl-C and SIGTERM: what they do to a command, and where they have to wait."""

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C."""


@contextlib.contextmanager
def interrupts_stop() -> Iterator[None]:
    """Inside, SIGTERM stops the work as cleanly as Ctrl-C does, and what Python drops in destructors is seen to.

    An interrupt that reaches a destructor, where Python prints exceptions and drops them, comes once more. After an
    interrupt no such print is made: objects that it left half-built have destructors that fail.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    interrupted = False
    timers: list[threading.Timer] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def dropped(error: "sys.UnraisableHookArgs") -> None:
        if isinstance(error.exc_value, KeyboardInterrupt):
            number = signal.SIGTERM if isinstance(error.exc_value, Terminated) else signal.SIGINT
            # Not at once: this hook still belongs to the destructor.
            timers.append(threading.Timer(0.01, _send, [number]))
            timers[-1].start()
        elif not interrupted:
            former_hook(error)

    former_hook, sys.unraisablehook = sys.unraisablehook, dropped
    former = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody wants it otherwise, as nohup does
        former[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        sys.unraisablehook = former_hook
        for timer in timers:
            timer.cancel()


def _send(number: int) -> None:
    """Interrupt the main thread."""
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    else:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, number)  # wakes it from a wait, too


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM wait until the end.

    For short calls of extension modules that take an interrupt in the middle for an error of their own: safetensors
    reports one as a damaged file. Does nothing outside of the main thread, which alone gets interrupts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        waiting.append(number)

    # None: a handler that is not Python's, which could not be put back.
    former = {number: signal.signal(number, wait) for number in _SIGNALS if signal.getsignal(number) is not None}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])
