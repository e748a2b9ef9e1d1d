"""Resuming a run: which checkpoint `resume` means, and whether its run can go on with the options of this command.

A recorded option belongs to one of three classes: it must match, because it decides which samples a step sees; it may
differ silently, because it changes only where, how fast or how long the run computes; or it may differ with a warning,
because the result then differs from that of an uninterrupted run. The last class holds every option that is in neither
of the sets below, nor in those of the task (`TrainingTask.must_match`, `TrainingTask.may_differ`).
"""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from thfuse_sam.errors import OptionError, UsageError, first_of
from thfuse_sam.files import as_output_error, make_directory, remove_abandoned
from thfuse_sam.options.fields import AUTO
from thfuse_sam.training.checkpoint import Checkpoint
from thfuse_sam.training.distributed import run_processes
from thfuse_sam.training.epoch_log import LOG_NAME, event_files
from thfuse_sam.training.task import TrainingTask

LATEST = "latest.pth"  # the checkpoint that `resume` auto continues from
MUST_MATCH = ("processes", "seed")
MAY_DIFFER = frozenset((
    "device", "log_dir", "num_workers", "output_dir", "overwrite", "report", "resume", "skip_bad",  # where, and what
    "compile", "early_stopping", "log_every", "max_steps", "save_interval",  # how fast and how long
))  # fmt: skip
# The weights that runs write, of every task, by their suffix. What ships in `models/` has other names.
_RUN_FILES = {".pth": ("best", "latest", "model_epoch*"), ".safetensors": ("best", "latest", "epoch*")}
EVALUATION = "evaluation.json"  # results of the best weights, of tasks that evaluate them in full
# Facts that are recorded beside the options; no option has such a name, so messages must not show them as options.
_FACTS = frozenset(("checkpoint_sha256", "mask_trees", "masks", "processes"))

log = logging.getLogger(__name__)


def checkpoint_to_resume(asked: Path | None, output_dir: Path) -> Path | None:
    """The file that `resume` means: none, the named one, the latest in a named folder, or that of `output_dir`, if any.

    Raises OptionError.
    """
    latest = output_dir / LATEST
    if asked is None:
        return None
    if str(asked) == AUTO:
        if not latest.exists():
            log.info("`resume`: no %s yet, so training starts from the beginning", latest)
            return None
        return latest
    if asked.is_dir():
        asked /= LATEST
    if not asked.is_file():
        raise OptionError("resume", asked, f"no such file; give a {LATEST}, or '{AUTO}' for {latest} if any")
    return asked


def require_own_folders(
    output_dir: Path, log_dir: Path | None, resume: Path | None, *, overwrite: bool, chosen_by: str
) -> None:
    """Refuse folders that hold another run than the one that `resume` continues, or its log, so that nothing is lost
    and two runs never lie side by side. `overwrite` allows it, see `open_run_folder`; the option `chosen_by` gives
    another output folder. Raises OptionError.
    """
    continues = resume is not None and resume.resolve().parent == output_dir.resolve()
    if continues and overwrite:
        raise OptionError(
            "overwrite", "true", f"would remove the run that `resume` {resume} continues; give one of both"
        )
    if continues or overwrite:
        return
    if found := [path.name for path in _run_files(output_dir)]:
        other = "" if resume is None else f" and not that of `resume` {resume}"
        own = "" if resume is None or chosen_by != "output_dir" else f", such as {resume.parent}"
        raise OptionError(
            "output_dir",
            output_dir,
            f"holds an earlier run ({first_of(found, 3)}){other}; continue it with `resume` and one of these, replace "
            f"it with `overwrite`, or give another `{chosen_by}`{own}",
        )
    if log_dir is not None and (log_dir / LOG_NAME).exists():
        raise OptionError(
            "log_dir",
            log_dir,
            f"holds the {LOG_NAME} of an earlier run; replace it with `overwrite`, give another `log_dir`, or continue "
            "that run with `resume` in its own output folder",
        )


def open_run_folder(output_dir: Path, log_dir: Path | None, resume: Path | None, *, overwrite: bool) -> None:
    """Make the folder; remove what crashed runs left, with `overwrite` an earlier run's weights and their evaluation.

    What TensorBoard shows of the run that logged to `log_dir` goes, too, unless it is the run that `resume` continues.
    Raises OutputError.
    """
    make_directory(output_dir)
    remove_abandoned(output_dir)
    if overwrite and run_processes().is_main:
        logs = log_dir or output_dir
        events = event_files(logs) if resume is None and (logs / LOG_NAME).is_file() else []
        for path in (*_run_files(output_dir), *output_dir.glob(EVALUATION), *events):
            with as_output_error(path):
                path.unlink()


def _run_files(output_dir: Path) -> list[Path]:
    patterns = [f"{name}{suffix}" for suffix, names in _RUN_FILES.items() for name in names]
    return sorted(path for pattern in patterns for path in output_dir.glob(pattern))


def check_resumable(path: Path, saved: Checkpoint, task: TrainingTask, options: Mapping[str, Any]) -> None:
    """Compare the run in `saved`, read from `path`, with this one: its `task` and its `options` as they are recorded.

    Raises UsageError if that run cannot go on here, and warns of options that change its result.
    """
    if saved.network != task.spec:
        raise UsageError(f"`resume` {path}: {task.describe_other(saved.network)}")
    former = saved.training
    for name in (*MUST_MATCH, *task.must_match):
        # Earlier versions recorded fewer options.
        if former.get(name, options[name]) != options[name]:
            raise UsageError(
                f"`resume` {path}: the run had {_shown(name)} {former[name]}, this command has {options[name]}; "
                f"use {former[name]}, or start without `resume`"
            )
    number = len(task.train_set)
    if former.get(task.sample_noun, number) != number:
        raise UsageError(
            f"`resume` {path}: the run had {former[task.sample_noun]} {task.sample_noun} to train on, this command has "
            f"{number}; use the same data, or start without `resume`"
        )
    for change in changed_options(former, options, MAY_DIFFER | task.may_differ):
        log.warning(
            "`resume` %s: %s; training goes on with the new value, so the result differs from an uninterrupted run",
            path,
            change,
        )


def changed_options(former: Mapping[str, Any], now: Mapping[str, Any], may_differ: Iterable[str]) -> list[str]:
    """One line for each option that has changed and is not named in `may_differ`: '`lr` was 0.001, now it is 0.01'."""
    plain_former, plain_now = (json.loads(json.dumps(options, default=str)) for options in (dict(former), dict(now)))
    changed = [
        name
        for name, value in plain_now.items()
        if name in plain_former
        and name not in may_differ
        and _comparable(name, plain_former[name]) != _comparable(name, value)
    ]
    changes = {name: f"{_shown(name)} was {plain_former[name]}, now it is {plain_now[name]}" for name in changed}
    # Long ones are such as the signatures of mask trees.
    return [change if len(change) <= 400 else f"{_shown(name)} is another" for name, change in changes.items()]


def _comparable(name: str, value: Any) -> Any:
    """`value` in a form in which equal folders are equal, absolute or relative."""
    if name in ("ir_dir", "vi_dir", "data_dir", "val_dir") and isinstance(value, str):
        return [str(Path(folder).resolve()) for folder in value.split(", ")]
    return value


def _shown(name: str) -> str:
    """`name` as messages show it: an option in backticks."""
    return name if name in _FACTS else f"`{name}`"
