"""What the commands share: the parser, one-line errors, option files, paths, and the choice of a mask source.

A command is `main(argv) -> exit status`: it makes a `CommandParser` and hands it with its work to `run`.
"""

import argparse
import dataclasses
import difflib
import logging
import math
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch
from tqdm import tqdm

import thfuse_sam
from thfuse_sam.datasets.fusion import count_missing_masks
from thfuse_sam.datasets.pairs import ImagePair, PairSet, looks_swapped
from thfuse_sam.devices import is_out_of_memory
from thfuse_sam.errors import OutputError, ThFuseError, UsageError
from thfuse_sam.interrupts import Terminated, stop_on_interrupts
from thfuse_sam.masks.manifest import MANIFEST_NAME, Manifest
from thfuse_sam.masks.source import LiveMasks, MaskSource, NoMasks, PrecomputedMasks
from thfuse_sam.masks.store import has_masks
from thfuse_sam.plain_yaml import read_yaml
from thfuse_sam.shipped import shipped_root

if TYPE_CHECKING:  # importing it imports segment_anything
    from thfuse_sam.sam.generator import AutomaticMaskGenerator

INTERRUPTED = 130  # exit status after Ctrl-C, as shells report it
TERMINATED = 143  # after SIGTERM
LONGEST_LINE = 2000  # characters of an error
DEFAULT_MASKS_DIR = Path("precomputed_masks")
AUTO = "auto"  # value of --resume: the newest checkpoint, where there is one
SWITCHED_OFF = "none"  # value of --precomputed_masks_dir that means: no mask tree, even where one lies

_OPTION_NAME = re.compile(r"`([a-z][a-z0-9_]*(?:\.\.\.)?)`")

log = logging.getLogger(__name__)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but for options whose help says what None means and for switches."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


class CommandParser(argparse.ArgumentParser):
    """An argument parser that reports a wrong option in one line and reads `--config FILE.yaml`."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
        )
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; {self._similar(message)}see {self.prog} --help")

    def _similar(self, message: str) -> str:
        """The option that was meant, where one is misspelt."""
        if not message.startswith("unrecognized arguments:"):
            return ""
        words = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        known = [name for action in self._actions for name in action.option_strings]
        found = difflib.get_close_matches(words[0], known, 1) if words else []
        return f"did you mean {found[0]}? or " if found else ""

    def with_option(self, message: str, options: argparse.Namespace | None) -> str:
        """`message`, with the option before it whose value, a path, it begins with."""
        for action in self._actions:
            values = getattr(options, action.dest, None)
            for value in values if isinstance(values, list) else [values]:
                if isinstance(value, Path) and message.startswith(f"{value}: "):
                    return f"{action.option_strings[0]} {message}"
        return message

    def add_config_option(self) -> None:
        self.add_argument(
            "--config", type=Path, metavar="FILE.yaml", help="options from a file; the command line goes before it"
        )

    def parse_command(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse `argv` on top of the options in its `--config` file, if it names one. Raises UsageError."""
        options = self.parse_args(argv)
        if getattr(options, "config", None) is None:
            return options
        try:
            arguments = self._arguments_of(options.config, argv)
            self.parse_args(arguments)
        except UsageError as error:
            raise UsageError(f"--config {options.config}: {error}") from None
        return self.parse_args([*arguments, *argv])

    def _arguments_of(self, path: Path, argv: Sequence[str]) -> list[str]:
        """The content of a YAML option file as command line arguments, so that argparse checks both alike.

        Options that may be repeated are left out where `argv` has them: theirs would be added to, not replaced.
        """
        try:
            values = read_yaml(path) or {}
        except OSError as error:
            raise UsageError(f"{error.strerror}; name a readable YAML file") from None
        except ValueError as error:
            raise UsageError(f"not YAML ({error}); write one `option: value` a line") from None
        if not isinstance(values, Mapping):
            raise UsageError("not a mapping; write one `option: value` a line")
        known = {action.dest: action for action in self._actions if action.option_strings}
        arguments: list[str] = []
        for key, value in values.items():
            if key not in known or key in ("help", "config"):
                names = ", ".join(sorted(set(known) - {"help", "config"}))
                raise UsageError(f"unknown option '{key}'; known are {names}")
            adds_up = isinstance(known[key], argparse._ExtendAction)
            if not (adds_up and any(text.partition("=")[0] in known[key].option_strings for text in argv)):
                arguments += _as_arguments(known[key], value)
        return arguments


def _as_arguments(action: argparse.Action, value: Any) -> list[str]:
    name = action.option_strings[0]
    if value is None:
        return []
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UsageError(f"{name[2:]}: {value!r} is not true or false; write one of these")
        if isinstance(action, argparse.BooleanOptionalAction):
            return [action.option_strings[0 if value else 1]]
        return [name] if value else []
    if isinstance(value, Mapping):
        return [name, *(f"{key}={item}" for key, item in value.items())]
    # With `=`, a value that starts with a dash is still a value.
    return [name, *(str(item) for item in value)] if isinstance(value, list) else [f"{name}={value}"]


def run(parser: CommandParser, work: Callable[[argparse.Namespace], int], argv: Sequence[str] | None) -> int:
    """Parse `argv` (None: the process's own), do `work`, and return the exit status.

    A mistake of the user and what the machine lacks (memory, disk, other processes) become one line
    `PROG: error: ...` on stderr (2 usage, 1 failure); `--debug` shows the traceback instead. Ctrl-C gives 130, SIGTERM
    143, both after everything under way was left as after an error.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_log_lines()
    try:
        with stop_on_interrupts():
            return _run(parser, work, arguments)
    except KeyboardInterrupt as stop:  # in the last moment, the work was done
        return _report_interrupt(parser, stop)


def _run(parser: CommandParser, work: Callable[[argparse.Namespace], int], arguments: Sequence[str]) -> int:
    options: argparse.Namespace | None = None
    try:
        options = parser.parse_command(arguments)
        return work(options)
    except SystemExit as stop:  # argparse after --help
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt as stop:
        return _report_interrupt(parser, stop)
    except (ThFuseError, OSError, MemoryError, RuntimeError, SystemError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        if "--debug" in arguments:
            traceback.print_exc()
        return _report(
            parser, parser.with_option(reason, options), error.exit_status if isinstance(error, ThFuseError) else 1
        )


def _report_interrupt(parser: CommandParser, stop: KeyboardInterrupt) -> int:
    terminated = isinstance(stop, Terminated)
    message = f"{'terminated' if terminated else 'interrupted'}; the files that are there are whole"
    return _report(parser, message, TERMINATED if terminated else INTERRUPTED)


def spell_options(message: str) -> str:
    """`message` with the options that it names in backticks spelled as they are typed: `lr` becomes --lr."""
    return _OPTION_NAME.sub(r"--\1", message)


def _report(parser: CommandParser, message: str, status: int) -> int:
    line = " ".join(spell_options(message).split())
    print(f"{parser.prog}: error: {line[:LONGEST_LINE]}{'...' * (len(line) > LONGEST_LINE)}", file=sys.stderr)
    return status


def _reason(error: Exception) -> str | None:
    """One line for an error that is no mistake in the program; None for any other."""
    if isinstance(error, ThFuseError):
        return str(error)
    if is_out_of_memory(error):
        where = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
        return f"out of {where}; use a smaller --batch_size or smaller images"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}; check the path, its permissions and the free space"
    text = str(error)
    # PyTorch has no class of its own for this, nor for all of the next.
    if "DataLoader worker" in text:
        return f"a process that makes samples died ({text.splitlines()[0]}); use fewer --num_workers"
    if isinstance(error, torch.distributed.DistError) or "gloo" in text:
        return "another process of this run is lost; look at its messages, then start all of them again with --resume"
    return None


class _BesideProgressBars(logging.Handler):
    """Writes log lines to stderr above any progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(spell_options(self.format(record)), file=sys.stderr)


def show_log_lines() -> None:
    """Show the package's log lines on stderr. Calling it again changes nothing."""
    logger = logging.getLogger(thfuse_sam.__name__)
    logger.setLevel(logging.INFO)
    tqdm.get_lock()  # made at first use, and useless for good where an interrupt comes into that
    if not any(isinstance(handler, _BesideProgressBars) for handler in logger.handlers):
        logger.addHandler(_BesideProgressBars())


# Option values


def positive_int(text: str) -> int:
    """`text` as an integer of at least 1."""
    return _number(text, int, lambda value: value >= 1, "an integer of at least 1")


def natural_int(text: str) -> int:
    """`text` as an integer of at least 0."""
    return _number(text, int, lambda value: value >= 0, "an integer of at least 0")


def positive_float(text: str) -> float:
    """`text` as a finite number above 0."""
    return _number(text, float, lambda value: 0 < value < math.inf, "a number above 0")


def not_negative_float(text: str) -> float:
    """`text` as a finite number of at least 0."""
    return _number(text, float, lambda value: 0 <= value < math.inf, "a number of at least 0")


def fraction(text: str) -> float:
    """`text` as a number in [0, 1)."""
    return _number(text, float, lambda value: 0 <= value < 1, "a number from 0 to below 1")


def _number(text: str, kind: Callable[[str], Any], accept: Callable[[Any], bool], wanted: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not accept(value):
        raise argparse.ArgumentTypeError(f"'{text}' is not {wanted}")
    return value


def checkout_root() -> Path:
    """The folder where `models/` and `datasets/` lie; see `shipped_root`."""
    return shipped_root()


def find_shipped(path: Path) -> Path:
    """`path` where it exists, else the one of that name below the checkout, if any: samples work from any folder."""
    shipped = checkout_root() / path
    return path if path.exists() or not shipped.exists() else shipped


def resolve_dataset_path(options: argparse.Namespace, sample: str) -> Path | None:
    """The folder to look for pairs in: `--dataset_path`, else none beside `--ir_dir` or `--vi_dir`, else `sample`."""
    if options.dataset_path is not None:
        return find_shipped(options.dataset_path)
    return None if options.ir_dir or options.vi_dir else find_shipped(Path(sample))


def pair_arguments(options: argparse.Namespace, dataset_path: Path | None) -> str:
    """The options that name the images of `options`, as they are typed."""
    if dataset_path is not None:
        return shlex.join(["--dataset_path", str(dataset_path)])
    return shlex.join(["--ir_dir", str(options.ir_dir), "--vi_dir", str(options.vi_dir)])


def checkpoint_to_resume(asked: str | None, latest: Path) -> Path | None:
    """The file that `--resume` means: none, the one that is named, or `latest` where it is there. Raises UsageError."""
    if asked is None:
        return None
    if asked == AUTO:
        if not latest.exists():
            log.info("--resume: no %s yet, so training starts from the beginning", latest)
            return None
        return latest
    if not Path(asked).is_file():
        raise UsageError(f"--resume {asked}: no such file; give a {latest.name}, or '{AUTO}' for {latest} if any")
    return Path(asked)


def add_pair_options(parser: argparse.ArgumentParser, sample: str, *, several: bool = False) -> None:
    """`several`: `--dataset_path` takes any number of folders and is a list or None."""
    group = parser.add_argument_group("image pairs")
    many: dict[str, Any] = {"nargs": "+", "action": "extend"} if several else {}
    group.add_argument(
        "--dataset_path", type=Path, help=f"folder of pairs, see datasets/README.md (None: {sample})", **many
    )
    group.add_argument("--ir_dir", type=Path, help="folder of infrared images, in place of --dataset_path")
    group.add_argument("--vi_dir", type=Path, help="folder of visible images, in place of --dataset_path")


def warn_if_swapped(pairs: Sequence[ImagePair]) -> None:
    """Look at the first of `pairs` for folders that stand for each other."""
    if looks_swapped(pairs[0]):
        log.warning(
            "%s has colours and %s has none: are the infrared and the visible folder swapped?", pairs[0].ir, pairs[0].vi
        )


# Output


def require_writable(option: str, folder: Path) -> None:
    """Refuse a folder that cannot be made or written, without making it."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise OutputError(f"{option} {folder}: {existing} is a file, not a folder; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{option} {folder}: {existing} is not writable; choose another folder")


# Masks


def add_mask_options(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """`several`: `--precomputed_masks_dir` takes any number of trees and is a list or None."""
    group = parser.add_argument_group("masks")
    many: dict[str, Any] = {"nargs": "+", "action": "extend"} if several else {}
    group.add_argument(
        "--precomputed_masks_dir",
        type=Path,
        **many,
        help=f"mask tree of precompute_masks.py; '{SWITCHED_OFF}' switches it off "
        f"(None: {DEFAULT_MASKS_DIR} where it holds a manifest and --use_sam is not given)",
    )
    group.add_argument("--use_sam", action="store_true", help="without a mask tree: run SAM on every image (slow)")
    group.add_argument("--sam_checkpoint", type=Path, help="SAM weights for --use_sam; unused with a mask tree")
    group.add_argument("--sam_model_type", default="auto", help="auto, vit_h, vit_l, vit_b, vit_t or vit_nano")


@dataclasses.dataclass(frozen=True)
class MaskPlan:
    """Where masks come from. `reason` says why, for the log."""

    mode: Literal["precomputed", "live", "none"]
    reason: str
    root: Path | None = None  # the mask tree; None in the other modes
    made_by: str | None = None  # the model type that made it, where its manifest says so


def plain_options(options: argparse.Namespace) -> dict[str, object]:
    """The options by name, with paths as text, for JSON."""

    def plain(value: object) -> object:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return {name: plain(value) for name, value in vars(options).items()}


def plan_masks(options: argparse.Namespace) -> MaskPlan:
    """Choose the mask source without building or opening anything but the tree's manifest. Raises UsageError."""
    asked: Path | None = options.precomputed_masks_dir
    switched_off = asked is not None and str(asked).lower() == SWITCHED_OFF
    if asked is None and not options.use_sam and (DEFAULT_MASKS_DIR / MANIFEST_NAME).is_file():
        return _precomputed(DEFAULT_MASKS_DIR, f"found {DEFAULT_MASKS_DIR}", options.sam_model_type)
    if asked is not None and not switched_off:
        if not asked.is_dir():
            raise UsageError(
                f"--precomputed_masks_dir {asked} is no folder; "
                f"make it with precompute_masks.py --output_dir {asked}, or give '{SWITCHED_OFF}'"
            )
        return _precomputed(asked, "as asked", options.sam_model_type)
    if options.use_sam:
        return MaskPlan("live", "--use_sam without a mask tree; precompute_masks.py makes one, which is much faster")
    if switched_off:
        return MaskPlan("none", "switched off")
    return MaskPlan("none", f"no {DEFAULT_MASKS_DIR / MANIFEST_NAME} and no --use_sam")


def _precomputed(root: Path, reason: str, model_type: str) -> MaskPlan:
    made_by = None
    if (root / MANIFEST_NAME).is_file():  # the masks of another program have none
        made_by = Manifest.load(root).signature.model_type
        reason += f", made by {made_by}"
        if model_type not in ("auto", made_by):
            reason += f" although --sam_model_type is {model_type}"
    return MaskPlan("precomputed", reason, root, made_by)


def log_mask_plan(plan: MaskPlan, pairs: Sequence[ImagePair], images: str) -> None:
    """Say where masks come from and how many are missing; `images`: see `pair_arguments`."""
    place = f" from {plan.root}" if plan.root is not None else ""
    log.info("masks: %s%s (%s)", plan.mode, place, plan.reason)
    if plan.root is None:
        return
    missing = count_missing_masks(pairs, plan.root)
    if missing and has_masks(plan.root):
        model_type = f" --sam_model_type {plan.made_by}" if plan.made_by else ""
        log.warning(
            "%d of %d images have no mask in %s and go without guidance; to make them: "
            "python precompute_masks.py %s --output_dir %s%s",
            missing,
            2 * len(pairs),
            plan.root,
            images,
            shlex.quote(str(plan.root)),
            model_type,
        )


def build_mask_source(plan: MaskPlan, options: argparse.Namespace, device: torch.device, pairs: PairSet) -> MaskSource:
    """The mask source of `plan` for `pairs`. SAM is imported, and its checkpoint opened, in live mode only."""
    if plan.mode == "live":
        return LiveMasks(build_generator(options, device).label_map)
    if plan.root is not None:
        return PrecomputedMasks(plan.root, {"ir": pairs.ir_dir, "vi": pairs.vi_dir})
    return NoMasks()


def build_generator(options: argparse.Namespace, device: torch.device) -> "AutomaticMaskGenerator":
    """The mask generator that `--sam_model_type` and `--sam_checkpoint` ask for, with its model type's settings."""
    from thfuse_sam.sam.checkpoints import resolve_sam
    from thfuse_sam.sam.generator import AutomaticMaskGenerator
    from thfuse_sam.sam.registry import MODEL_TYPES, build_sam

    resolved = resolve_sam(options.sam_model_type, options.sam_checkpoint)
    sam = build_sam(resolved.model_type, resolved.checkpoint, device)
    return AutomaticMaskGenerator(sam, MODEL_TYPES[resolved.model_type].defaults)
