"""From a dataclass of options to a command line: the parser, option files, and errors of usage in one line."""

import argparse
import contextlib
import dataclasses
import re
import shlex
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from thfuse_sam.errors import OptionError, UsageError, did_you_mean, first_of
from thfuse_sam.options.fields import REFUSALS, OptionInfo, Options, accept, info_of, option_groups, wanted
from thfuse_sam.plain_yaml import read_yaml

_T = TypeVar("_T", bound=Options)
_Field = dataclasses.Field[Any]

_OPTION_NAME = re.compile(r"`([a-z][a-z0-9_]*(?:\.\.\.)?)`")
_COMMAND_NAME = re.compile(r"`([a-z]+)\(\)`(?P<options> `)?")
_SCRIPTS = {
    "precompute": "precompute_masks.py", "train": "train.py", "fuse": "test.py", "prepare": "prepare_data.py",
    "finetune": "finetune.py", "predict": "predict.py",
}  # fmt: skip
_INPUTS = ("dataset_path", "data_dir", "input")  # options that name what a command reads
_OWNERS: dict[type[Options], str] = {}  # the options of each command -> what a message calls it


def register(program: str, options: type[Options]) -> None:
    """Remember which command has which options, for those that are given to another one; tools are no commands."""
    functions = {script: name for name, script in _SCRIPTS.items()}
    if program in functions or program.startswith("thfuse-"):
        _OWNERS[options] = f"`{functions.get(program, program.removeprefix('thfuse-'))}()`"


def spell_options(message: str) -> str:
    """`message` as the user can type what it names: `lr` becomes --lr, and `train()` train.py, or thfuse train where no
    script was called, as an installed package has none.
    """
    called = Path(sys.argv[0])
    installed = called.name.startswith("thfuse") or called.parent.name == "thfuse_sam"  # `python -m thfuse_sam`

    def command(found: re.Match[str]) -> str:
        name, options = found[1], found["options"] or ""
        if installed or name not in _SCRIPTS:
            return f"thfuse {'masks' if name == 'precompute' else name}{options}"
        return f"{'python ' if options else ''}{_SCRIPTS[name]}{options}"

    return _OPTION_NAME.sub(r"--\1", _COMMAND_NAME.sub(command, message))


@dataclasses.dataclass(frozen=True)
class CommandLine(Generic[_T]):
    """A parsed command line."""

    options: _T
    program: str
    arguments: tuple[str, ...]  # as they were typed
    dry_run: bool = False
    debug: bool = False

    @property
    def text(self) -> str:
        """The command as it can be typed again."""
        launcher = ["python"] if self.program.endswith(".py") else []
        return shlex.join([*launcher, *self.program.split(), *self.arguments])


class CommandParser(argparse.ArgumentParser, Generic[_T]):
    """A parser made from a class of options, which also reads `--config FILE.yaml`; arguments as in `run.Command`."""

    def __init__(
        self, prog: str, description: str, options: type[_T], *, dry_run: str | None = None, usage: str | None = None
    ) -> None:
        super().__init__(
            prog=prog,
            usage=usage or f"{prog} [options]",
            description=spell_options(description),
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=_HelpFormatter,
        )
        self._options = options
        self._takes_words = usage is not None
        self._fields = {field.name: field for field in dataclasses.fields(options)}
        # What most people do not need stands in groups that refer to a page: they come last.
        for title, fields in sorted(option_groups(options).items(), key=lambda group: ": see " in group[0]):
            group = self.add_argument_group(title)
            for field in fields:
                group.add_argument(*_flags(field), **_argument(field))
        group = self.add_argument_group("this command")
        group.add_argument(
            "--config",
            "-c",
            metavar="FILE.yaml",
            help="options from a file; an option on the command line overrides the file",
        )
        if dry_run is not None:
            group.add_argument("--dry_run", action="store_true", help=dry_run)
        group.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        if found := re.match(r"argument (--\w+)\S*: (expected .*)", message):
            action = self._option_string_actions[found[1]]
            wanted = self._get_formatter()._format_args(action, action.dest.upper())
            message = f"{found[1]}: {found[2]}, as in {found[1]} {wanted}"
        advice = self._advice(message)
        raise UsageError(f"{message}; {advice}{'See' if advice else 'see'} {self.prog} --help")

    def _advice(self, message: str) -> str:
        """What was probably meant, if `message` is about an unknown option or a stray word; "" otherwise."""
        if not message.startswith("unrecognized arguments:"):
            return ""
        flags = [word.partition("=")[0] for word in message.split() if re.match("-.", word)]
        known = [name for action in self._actions for name in action.option_strings]
        if not flags:
            example = next((f", such as --{name}" for name in _INPUTS if name in self._fields), "")
            return f"write {self.usage}. " if self._takes_words else f"write an option before each{example}. "
        return did_you_mean(flags[0], known, 0.8) or _owners(flags[0]) or did_you_mean(flags[0], known)

    def parse_command(self, argv: Sequence[str]) -> CommandLine[_T]:
        """Parse `argv`; its options override those of the `--config` file. Raises UsageError."""
        given = vars(self.parse_args([self._with_underscores(word) for word in argv]))
        flags = {name: given.pop(name) for name in ("dry_run", "debug") if name in given}
        config = given.pop("config", None)
        try:
            values = self._values(given)
        except OptionError as error:
            self.error(str(error))
        if config is not None:
            try:
                raw = self._read(Path(config))
                flags = {name: raw.pop(name) for name in ("dry_run", "debug") if name in raw} | flags
                values = self._values(raw) | values
            except UsageError as error:
                raise UsageError(f"`config` {config}: {error}") from None
        for field in self._fields.values():
            if field.default is dataclasses.MISSING is field.default_factory and field.name not in values:
                self.error(f"`{field.name}` is required")
        return CommandLine(self._options(**values), self.prog, tuple(argv), **flags)

    def _with_underscores(self, word: str) -> str:
        """The option `--model-type`, as other projects spell it, as `--model_type`; any other word as it is."""
        name, equals, value = word.partition("=")
        spelled = f"--{name[2:].replace('-', '_')}"
        known = self._option_string_actions
        is_other = name.startswith("--") and name not in known and spelled in known
        return spelled + equals + value if is_other else word

    def _values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Convert what was given for each option, by its name, into its value. Raises OptionError."""
        fields = [(self._fields[name], raw) for name, raw in given.items()]
        return {field.name: _value(field.name, _without_none(field.type), raw, info_of(field)) for field, raw in fields}

    def _read(self, path: Path) -> dict[str, Any]:
        """The options in a YAML file by name, in the form in which argparse collects them. Raises UsageError."""
        try:
            content = read_yaml(path) or {}
        except OSError as error:
            raise UsageError(f"{error.strerror}; name a readable YAML file") from None
        except ValueError as error:
            raise UsageError(f"not YAML ({error}); write one `option: value` per line") from None
        if not isinstance(content, Mapping):
            raise UsageError("not a mapping; write one `option: value` per line")
        actions = {flag.removeprefix("--"): action for action in self._actions for flag in action.option_strings}
        # An entry that another option's file would hold makes this file that option's file too.
        own = {key: value for key, value in content.items() if key not in self._options.sections}
        content = {option: str(path) for key, option in self._options.sections.items() if key in content} | own
        raw = {}
        for key, value in content.items():
            if key not in actions or actions[key].dest in ("help", "config"):
                names = sorted({action.dest for action in self._actions} - {"help", "config"})
                nearest = did_you_mean(str(key), names)
                advice = f"{nearest}{'The' if nearest else 'the'} known options are {', '.join(names)}"
                raise UsageError(f"unknown option '{key}'; {advice}")
            if value is not None:
                raw[actions[key].dest] = _collected(actions[key], value)
        return raw


class _HelpFormatter(argparse.HelpFormatter):
    """Shows the placeholder of a value once, after all names of the option."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        default = self._get_default_metavar_for_optional(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, default)}"


def _flags(field: _Field) -> list[str]:
    aliases = info_of(field).aliases
    return [f"--{field.name}", *(alias if alias.startswith("-") else f"--{alias}" for alias in aliases)]


def _argument(field: _Field) -> dict[str, Any]:
    """Keyword arguments of `add_argument` for an option."""
    info, kind = info_of(field), _without_none(field.type)
    argument: dict[str, Any] = {"dest": field.name, "help": _help(field)}
    if kind is bool:
        return {**argument, "action": "store_true" if field.default is False else argparse.BooleanOptionalAction}
    choices = info.choices or (get_args(kind) if get_origin(kind) is Literal else ())
    if info.metavar is not None or (choices and get_origin(kind) is not Mapping):
        argument["metavar"] = info.metavar or f"{{{','.join(choices)}}}"
    if info.bare is not None:
        return {**argument, "nargs": "?", "const": info.bare}
    if get_origin(kind) is Mapping:
        return {**argument, "nargs": "+", "action": "extend", "metavar": info.metavar or "NAME=VALUE"}
    if get_origin(kind) is tuple and info.separator is None:
        items = get_args(kind)
        if items[-1] is not Ellipsis:
            return {**argument, "nargs": len(items)}
        return {**argument, "nargs": "+", "action": "append" if get_origin(items[0]) is tuple else "extend"}
    return argument


def _help(field: _Field) -> str:
    info, default = info_of(field), field.default
    text = info.default_text
    is_shown = default not in (None, (), dataclasses.MISSING) and default is not False
    if text is None and is_shown:
        items = default if isinstance(default, tuple) else ("on" if default is True else default,)
        text = " ".join(str(item) for item in items)
    shown = f"{info.help} (default: {text})" if text is not None else info.help
    return spell_options(shown).replace("%", "%%")


def _without_none(kind: Any) -> Any:
    """The type `X` of an option of type `X | None`."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    arms = tuple(arm for arm in get_args(kind) if arm is not type(None))
    return arms[0] if len(arms) == 1 else Union[arms]  # noqa: UP007  # made at run time


def _collected(action: argparse.Action, value: Any) -> Any:
    """The value of an option in a file in the form in which argparse collects texts for it. Raises OptionError."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise OptionError(action.dest, value, "must be true or false")
        return value
    if value in ([], {}):
        raise OptionError(action.dest, value, "must be at least one value; leave the line out for the default")
    if action.nargs is None or action.nargs == "?":
        if isinstance(value, (list, dict)):
            raise OptionError(action.dest, value, "must be one value")
        if value is True and action.const:
            return action.const
        if isinstance(value, bool):
            raise OptionError(action.dest, str(value).lower(), "means true or false in YAML; put it in quotes")
        return value
    if isinstance(value, Mapping):
        return [f"{name}={item}" for name, item in value.items()]
    items = value if isinstance(value, list) else [value]
    if isinstance(action, argparse._AppendAction) and not isinstance(action, argparse._ExtendAction):
        return [item if isinstance(item, list) else [item] for item in items]
    return items


def _value(name: str, kind: Any, raw: Any, info: OptionInfo) -> Any:
    """Convert what was collected for an option, texts or the values of a file, into its value. Raises OptionError."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Mapping:
        return {key: value for item in raw for key, value in _value_of(name, kind, item, info).items()}
    if origin is not tuple:
        return _value_of(name, kind, raw, info)
    items = raw if info.separator is None else str(raw).split(info.separator)
    kinds = arguments[:1] * len(items) if arguments[-1] is Ellipsis else arguments
    if len(items) != len(kinds) or "" in items:
        raise OptionError(name, raw, f"must be {wanted(kind, info)}")
    return tuple(_value(name, one, item, info) for one, item in zip(kinds, items, strict=True))


def _value_of(name: str, kind: Any, given: Any, info: OptionInfo) -> Any:
    """Convert one text, or one value of a file, into its value. Raises OptionError."""
    for arm in get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,):
        with contextlib.suppress(*REFUSALS):
            return accept(arm, _parse(arm, given), info)
    raise OptionError(name, given, f"must be {wanted(kind, info)}")


def _parse(kind: Any, given: Any) -> Any:
    """Convert a text to the type `kind` without checking its range; a file's numbers stay as they are.

    Raises one of REFUSALS.
    """
    if get_origin(kind) is Mapping:
        name, _, value = str(given).partition("=")
        value_type = get_args(kind)[1]
        return {name: _parse(value_type, value)}
    if kind in (bool, int, float):
        return kind(given) if isinstance(given, str) else given
    return kind.parse(str(given)) if hasattr(kind, "parse") else str(given)


def _owners(flag: str) -> str:
    """Which other commands have an option, as the beginning of advice; "" if none has."""
    known = _OWNERS.items()
    owners = sorted(name for kind, name in known for field in dataclasses.fields(kind) if flag in _flags(field))
    return f"{flag} belongs to {first_of(owners, 3)}. " if owners else ""
