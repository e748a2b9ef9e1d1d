"""Progress of long work: a bar in a terminal or a notebook, or calls of a function that a Python caller gives."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

Progress = Callable[[int, int | None], object]  # takes what is done and what there is in all (None: not known)

_listener: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextlib.contextmanager
def reporting_to(progress: Progress | None) -> Iterator[None]:
    """Inside, `progress` is called in place of showing bars; None: bars are shown."""
    token = _listener.set(progress)
    try:
        yield
    finally:
        _listener.reset(token)


def is_watched() -> bool:
    """Whether somebody can see a bar move: in a terminal or a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def progress_bar(*arguments: Any, **options: Any) -> "tqdm[Any]":
    """A bar of tqdm with these arguments; where a caller listens, what behaves like one and shows nothing.

    Unless the arguments say otherwise, it is shown in terminals and notebooks alone, and goes when the work is done.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a notebook has no ipywidgets: the bar is text then
        from tqdm.auto import tqdm  # slow beside what a command's help needs

    options = {"leave": False, "disable": not is_watched()} | options
    listener = _listener.get()
    if listener is None:
        return tqdm(*arguments, **options)
    report = listener  # as a function that is certainly there

    class Reporter(tqdm):
        """Calls the listener as it is moved on. Disabled, so that it draws nothing."""

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            report(int(self.n), None if self.total is None else int(self.total))

        def __iter__(self) -> Iterator[Any]:
            for item in self.iterable:
                yield item
                self.update()

    return Reporter(*arguments, **(options | {"disable": True}))
