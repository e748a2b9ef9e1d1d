"""Ctrl-C and SIGTERM: the only module that sets signal handlers.

A command runs in `stop_on_interrupts`; a training loop asks a `StopRequest` after each step; a read that must not be
cut in two waits in `delay_interrupts`; processes that a command starts call `ignore_interrupts`.
"""

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C."""


def ignore_interrupts(worker: int = 0) -> None:
    """Ignore Ctrl-C in this process from now on.

    A terminal sends Ctrl-C to every process of a command; the one that the user started decides and ends the others.
    `worker`: not used; the number that a `DataLoader` passes to its `worker_init_fn`.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def stop_on_interrupts() -> Iterator[None]:
    """Inside, SIGTERM stops the work as cleanly as Ctrl-C does: it raises `Terminated`.

    Python prints an exception that is raised in a destructor and goes on. If that exception is an interrupt, it is sent
    once more. After an interrupt, other exceptions in destructors are not printed: they come from objects that the
    interrupt left half-built.
    """
    interrupted = False
    timers: list[threading.Timer] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def send_again(number: int) -> None:
        # Not at once, because the hook that calls this still runs inside the destructor.
        timers.append(threading.Timer(0.05, _interrupt_main_thread, [number]))
        try:
            timers[-1].start()
        except KeyboardInterrupt:  # on a busy machine it may come while the thread starts, and the hook would drop it
            send_again(number)

    def handle_unraisable(error: "sys.UnraisableHookArgs") -> None:
        if isinstance(error.exc_value, KeyboardInterrupt):
            send_again(signal.SIGTERM if isinstance(error.exc_value, Terminated) else signal.SIGINT)
        elif not interrupted:
            former_hook(error)

    # Where Ctrl-C is ignored it stays so, for example in a command that a script started in the background.
    ctrl_c_interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    former_hook = sys.unraisablehook
    with _handled_by(interrupt, _SIGNALS if ctrl_c_interrupts else [signal.SIGTERM]):
        sys.unraisablehook = handle_unraisable
        try:
            yield
        finally:
            sys.unraisablehook = former_hook
            for timer in timers:
                timer.cancel()


@contextlib.contextmanager
def delay_interrupts() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM wait until the end.

    For short calls of extension modules that mistake an interrupt for an error of their own: safetensors reports it as
    a damaged file.
    """
    waiting: list[int] = []
    try:
        with _handled_by(lambda number, frame: waiting.append(number), _SIGNALS):
            yield
    finally:
        if waiting:
            signal.raise_signal(waiting[0])


class StopRequest:
    """In its `with` block the first Ctrl-C or SIGTERM sets `asked`, so that a loop can stop after the current step.

    The second one raises KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self._handlers = contextlib.ExitStack()

    def __enter__(self) -> "StopRequest":
        self._handlers.enter_context(_handled_by(self._ask, _SIGNALS))
        return self

    def __exit__(self, *error: object) -> None:
        self._handlers.close()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], object], numbers: Sequence[int]) -> Iterator[None]:
    """Inside, `handler` receives the signals `numbers`.

    Outside of the main thread, which alone receives signals, nothing is changed.
    """
    former = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                if signal.getsignal(number) is not None:  # None: not set by Python, so it could not be restored
                    former[number] = signal.signal(number, handler)
        yield
    finally:
        for number, former_handler in former.items():
            signal.signal(number, former_handler)


def _interrupt_main_thread(number: int) -> None:
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    else:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, number)  # wakes it from a wait, too
