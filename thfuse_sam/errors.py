"""Errors that a user can act on: one class per kind of mistake, one line each.

A message names the argument or file, its value and the remedy. An option appears in backticks under the name of its
field in the options' classes, a command as its function, such as `precompute()`; `cli/` shows both as they are typed.
`exit_status` is what a command returns:
2 for wrong usage, 1 for a failure during the work.
"""

import contextlib
import difflib
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


class ThFuseError(Exception):
    """Base of all errors that are reported as one line instead of a traceback."""

    exit_status = 1
    field: str | None = None  # name of the option whose value begins the message; set by `naming`

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
        return f"`{self.name}` {shown(self.value)}: {self.reason}"


class PairError(UsageError):
    """No image found, no pair matches, or two files claim the same name."""


class ImageReadError(ThFuseError):
    """An image file is missing, truncated, too large or not an image."""


class ImageKindError(ImageReadError):
    """An image file is sound, but of a kind that is not read, or only if an option says how."""


class ImageSizeError(ThFuseError):
    """Infrared and visible image of a pair differ in size."""


class MaskReadError(ThFuseError):
    """A mask file is missing, has pickled content, a wrong type or a wrong shape."""


class ManifestError(UsageError):
    """A mask tree was made with other settings than those asked for, or its manifest is unreadable."""


class CheckpointError(ThFuseError):
    """A checkpoint is missing, truncated, refused, or belongs to another network or model type."""


class DeviceError(UsageError):
    """A device was asked for that this machine does not have."""


class OutputError(ThFuseError):
    """An output folder or file cannot be written (permissions, disk full)."""


class WorkerError(ThFuseError):
    """A machine or process that should do the work cannot be reached, or has stopped."""


class TrainingError(ThFuseError):
    """Training cannot go on, for example because the loss is not finite."""


class SampleError(ThFuseError):
    """An annotated image cannot be used: no partner, no object, a polygon outside the image, and so on."""


class VideoError(ThFuseError):
    """A video cannot be read or written, or two videos have nothing in common."""


class DownloadError(ThFuseError):
    """A data set cannot be downloaded, or the downloaded file is refused."""


@contextlib.contextmanager
def naming(field: str, path: Path | None, *, instead_of: str = "") -> Iterator[None]:
    """Put an option's name before the message of an error that begins with the option's value.

    `path` is the value; None: errors stay as they are. `instead_of` names an option with which the message may already
    begin, because the function that raises the error usually handles that one; `field` replaces it.
    """
    try:
        yield
    except OptionError as error:
        if path is not None and error.name == instead_of:
            error.name = field
        raise
    except ThFuseError as error:
        message = str(error).removeprefix(f"`{instead_of}` ")
        if path is not None and message.startswith(f"{path}: "):
            error.args, error.field = (message,), field
        raise


@contextlib.contextmanager
def renaming(phrases: Mapping[str, str] | None = None, /, **names: str) -> Iterator[None]:
    """In errors, give options the names that they have as arguments of a Python function: option="argument".

    `phrases` are replaced before, such as options of a command that is another one than this function.
    """
    options = {f"`{option}`": f"`{argument}`" for option, argument in names.items()}

    def renamed(text: str) -> str:
        for old, new in {**(phrases or {}), **options}.items():
            text = text.replace(old, new)
        return text

    try:
        yield
    except OptionError as error:
        error.name, error.reason = names.get(error.name, error.name), renamed(error.reason)
        raise
    except ThFuseError as error:
        error.args, error.field = (renamed(str(error)),), None
        raise


def shown(value: object) -> str:
    """A value as a message shows it, in one line of bounded length."""
    text = " ".join(str(value).split()) or repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def first_of(texts: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first `most` of `texts` in one line, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def counted(number: int, noun: str) -> str:
    """A number of things: "1 pair", "2 pairs"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def did_you_mean(word: str, known: Collection[str], similarity: float = 0.6) -> str:
    """A question for the one of `known` that was probably meant, as the beginning of advice; "" if none is similar."""
    longer = [name for name in known if word and name.startswith(word)]
    similar = longer or difflib.get_close_matches(word, known, 1, similarity)
    return f"did you mean {similar[0]}? " if similar else ""


def command_text(command: str, **options: Any) -> str:
    """A command with its options for a message; those whose value is None are left out, those of True have none."""
    texts = [option_text(name, value) for name, value in options.items() if value is not None]
    return " ".join([f"`{command}()`", *texts])


def option_text(name: str, value: Any) -> str:
    """An option with its value for a message; several values are as many words, and True is none."""
    values = () if value is True else value if isinstance(value, tuple) else (value,)
    words = [f"{one:.10g}" if isinstance(one, float) else shlex.quote(str(one)) for one in values]
    return " ".join([f"`{name}`", *words])
