"""How options are written: as fields of a dataclass, each with its default, its range and its help.

The parser of a command, its option files and the Python interface are all made from these fields, and all of them check
values here: when an object of the class is made.
"""

import contextlib
import dataclasses
import math
import operator
import os
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from thfuse_sam.errors import OptionError

AUTO = "auto"  # a value that means: choose according to device, files or memory

_KEY = "option"
_T = TypeVar("_T", bound=type)


@dataclasses.dataclass(frozen=True)
class OptionInfo:
    """The description of an option, besides its name, its type and its default.

    Attributes:
        help: one line that says what the option sets.
        low, high, above, below: limits of the number, or of each of several numbers; `low` and `high` themselves are
            allowed values, `above` and `below` are not.
        choices: the allowed texts, or the allowed names of a mapping.
        aliases: other names, and short forms such as "-e".
        default_text: the default as help shows it; None: help shows the value itself.
        metavar: the placeholder of the value in help.
        separator: separates several values in one word; None: each value is a word of its own.
        bare: the value if the option is given without one; None: the option needs a value.
    """

    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    default_text: str | None = None
    metavar: str | tuple[str, ...] | None = None
    separator: str | None = None
    bare: str | None = None


def option(default: Any, help: str, **info: Any) -> Any:
    """A field of an `Options` class; `info` are attributes of `OptionInfo`. A required option has `default` MISSING."""
    metadata = {_KEY: OptionInfo(help, **info)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def redefault(owner: type["Options"], name: str, default: Any, **changes: Any) -> Any:
    """The option `name` of `owner` with another default, for a subclass, or for a class with a similar option."""
    info = dataclasses.replace(info_of(owner.__dataclass_fields__[name]), **changes)
    return option(default, **{field.name: getattr(info, field.name) for field in dataclasses.fields(info)})


def info_of(field: "dataclasses.Field[Any]") -> OptionInfo:
    """The description that `option` attached to a field."""
    info: OptionInfo = field.metadata[_KEY]
    return info


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all options. Values are checked and converted to the fields' types. Raises OptionError."""

    group = "options"  # title, in a command's help, of the options that the class declares
    # Top-level entries of an option file that belong to the file of another option, and that option's name.
    sections = MappingProxyType[str, str]({})

    def __init_subclass__(cls, group: str = "options") -> None:
        cls.group = group

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, info = getattr(self, field.name), info_of(field)
            try:
                # Converted values, so that equal options are also saved as equal text.
                object.__setattr__(self, field.name, accept(field.type, value, info))
            except REFUSALS:
                raise OptionError(field.name, value, f"must be {wanted(field.type, info)}") from None

    def plain(self) -> dict[str, Any]:
        """The options by name, as JSON can hold them: paths as text, tuples as lists."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def part(self, kind: type["_Part"]) -> "_Part":
        """The options that belong to `kind`, which is a base class or has fields of the same names."""
        return kind(**{field.name: getattr(self, field.name) for field in dataclasses.fields(kind)})


_Part = TypeVar("_Part", bound=Options)


def option_groups(owner: type[Options]) -> dict[str, list["dataclasses.Field[Any]"]]:
    """The options of a class by the title of their group; those of its bases come first."""
    groups: dict[str, list[dataclasses.Field[Any]]] = {}
    placed: set[str] = set()
    for kind in _bases_first(owner):
        own = [field.name for field in dataclasses.fields(kind) if field.name not in placed]
        groups.setdefault(kind.group, []).extend(owner.__dataclass_fields__[name] for name in own)
        placed.update(own)
    return {title: fields for title, fields in groups.items() if fields}


def _bases_first(kind: type[Options]) -> Iterator[type[Options]]:
    for base in kind.__bases__:
        if issubclass(base, Options):
            yield from _bases_first(base)
    yield kind


REFUSALS = (TypeError, ValueError, OverflowError)  # the exceptions that `accept` raises


def accept(kind: Any, value: Any, info: OptionInfo) -> Any:
    """Convert `value` to the type `kind` of an option. Raises one of REFUSALS; `wanted` says what is allowed."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if isinstance(value, (list, tuple)) and not value:
            raise ValueError(value)  # not given is None; an empty list is a mistake
        for arm in arguments:
            with contextlib.suppress(*REFUSALS):
                return accept(arm, value, info)
    elif origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
    elif kind in (int, float):
        return _number(kind, value, info)
    elif kind is Path:  # the shell expands ~ on command lines only, and not behind "="
        return Path(os.path.expanduser(value))  # noqa: PTH111 - Path's method raises for the home of nobody
    elif origin is tuple:
        if not isinstance(value, (str, bytes)):
            items = list(value)
            kinds = arguments[:1] * len(items) if arguments[-1] is Ellipsis else arguments
            return tuple(accept(one, item, info) for one, item in zip(kinds, items, strict=True))
    elif origin is Mapping:
        if isinstance(value, Mapping) and all(name in info.choices for name in value):
            return {name: accept(arguments[1], item, info) for name, item in value.items()}
    elif isinstance(value, kind) and (value is None or not info.choices or value in info.choices):
        return value
    raise ValueError(value)


def _number(kind: type, value: Any, info: OptionInfo) -> Any:
    if isinstance(value, (bool, str)):
        raise TypeError(value)
    number = operator.index(value) if kind is int else float(value)
    is_inside = (
        (kind is int or math.isfinite(number))
        and (info.low is None or number >= info.low)
        and (info.high is None or number <= info.high)
        and (info.above is None or number > info.above)
        and (info.below is None or number < info.below)
    )
    if not is_inside:
        raise ValueError(value)
    return number


def wanted(kind: Any, info: OptionInfo) -> str:
    """What values an option of type `kind` allows, in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(wanted(arm, info) for arm in arguments if arm is not type(None))
    if origin is Literal:
        return arguments[0] if len(arguments) == 1 else f"one of {', '.join(arguments)}"
    if info.separator is not None:
        return f"values separated by '{info.separator}', such as {info.metavar}"
    if kind is bool:
        return "true or false"
    if kind in (int, float):
        return ("a whole number" if kind is int else "a number") + _limits(info)
    if kind is Path:
        return "a path"
    if origin is tuple:
        return " and ".join(wanted(arm, info) for arm in dict.fromkeys(arguments) if arm is not Ellipsis)
    if origin is Mapping:
        return f"NAME=VALUE, NAME one of {', '.join(info.choices)}, VALUE {wanted(arguments[1], info)}"
    if info.choices:
        return f"one of {', '.join(info.choices)}"
    return getattr(kind, "WANTED", "text")


def _limits(info: OptionInfo) -> str:
    """For example " from 0 to below 1"."""
    if info.above is not None:
        return f" above {_short(info.above)}"
    if info.low is None:
        return "" if info.high is None else f" of at most {_short(info.high)}"
    if info.high is not None:
        return f" from {_short(info.low)} to {_short(info.high)}"
    if info.below is not None:
        return f" from {_short(info.low)} to below {_short(info.below)}"
    return f" of at least {_short(info.low)}"


def _short(number: float) -> str:
    return f"{number:.10g}"


def weights_text(weights: Mapping[str, float]) -> str:
    """Weights above 0 as they are typed: "box=1 point=0.5"."""
    return " ".join(f"{name}={weight:g}" for name, weight in weights.items() if weight > 0)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
