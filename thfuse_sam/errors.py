"""Errors that a user can act on: one class per kind of mistake, one line each.

A message names the argument or file, its value and the remedy. An option appears in backticks under the name of its
field in the options' classes; the commands show it as the flag that is typed. `exit_status` is what a command returns:
2 for wrong usage, 1 for a failure during the work.
"""

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class ThFuseError(Exception):
    """Base of all errors that are reported as one line instead of a traceback."""

    exit_status = 1
    field: str | None = None  # the option whose value the message begins with; set by `naming`

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.field is None else f"`{self.field}` {message}"


class UsageError(ThFuseError):
    """An option has a value that cannot work."""

    exit_status = 2


class OptionError(UsageError):
    """An option's value has a wrong type, is out of its range, or does not fit another option.

    The message is "`field` value: reason", and the reason says what to give instead.
    """

    def __init__(self, name: str, value: object, reason: str) -> None:
        super().__init__(name, value, reason)
        self.name, self.value, self.reason = name, value, reason

    def __str__(self) -> str:
        return f"`{self.name}` {self.value}: {self.reason}"


class PairError(UsageError):
    """No image found, no pair matches, or two files claim the same name."""


class ImageReadError(ThFuseError):
    """An image file is missing, truncated, too large or not an image."""


class ImageSizeError(ThFuseError):
    """Infrared and visible image of a pair differ in size."""


class MaskReadError(ThFuseError):
    """A mask file is missing, has pickled content, a wrong type or a wrong shape."""


class ManifestError(UsageError):
    """A mask tree was made with settings other than the ones asked for, or its manifest is unreadable."""


class CheckpointError(ThFuseError):
    """A checkpoint is missing, truncated, refused, or belongs to another network or model type."""


class DeviceError(UsageError):
    """A device was asked for that this machine does not have."""


class OutputError(ThFuseError):
    """An output folder or file cannot be written (permissions, disk full)."""


class WorkerError(ThFuseError):
    """The machines or processes that were to do the work cannot be reached, or stopped."""


class TrainingError(ThFuseError):
    """Training cannot go on, for example because the loss is not finite."""


class SampleError(ThFuseError):
    """An annotated image cannot be used: no partner, no object, a polygon outside the image, and so on."""


class DownloadError(ThFuseError):
    """A data set cannot be fetched, or what was fetched is refused."""


@contextlib.contextmanager
def naming(field: str, path: Path | None, *, instead_of: str = "") -> Iterator[None]:
    """Put an option's name before the message of an error that begins with the option's value.

    Args:
        field: the option.
        path: its value; None leaves all errors as they are.
        instead_of: an option that the message may already begin with, because the function that raises it usually
            handles that one; `field` takes its place.
    """
    try:
        yield
    except ThFuseError as error:
        message = str(error).removeprefix(f"`{instead_of}` ")
        if path is not None and message.startswith(f"{path}: "):
            error.args, error.field = (message,), field
        raise


def first_of(texts: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first `most` of `texts` in one line, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def command_text(program: str, **options: Any) -> str:
    """A command line for a message, its options in backticks; those whose value is None are left out."""
    words = [program, *(f"`{name}` {shlex.quote(str(value))}" for name, value in options.items() if value is not None)]
    return " ".join(words)
