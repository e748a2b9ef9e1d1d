"""What the commands that train have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from thfuse_sam.devices import resolve_device
from thfuse_sam.files import require_writable
from thfuse_sam.options.shared import RunOutputOptions
from thfuse_sam.report.page import require_replaceable
from thfuse_sam.training.distributed import own_device
from thfuse_sam.training.resuming import checkpoint_to_resume, require_own_folders
from thfuse_sam.training.task import TrainingTask
from thfuse_sam.training.trainer import Trainer


def run_device(name: str) -> torch.device:
    """The device of this process, of several that `torchrun` started each its own. Raises DeviceError."""
    return resolve_device(own_device(resolve_device(name)))


def find_checkpoint(options: RunOutputOptions, chosen_by: str = "output_dir") -> Path | None:
    """The checkpoint that a run goes on from, if any; `chosen_by` is the option that gives another run a folder.

    Raises OutputError and OptionError where it cannot write.
    """
    require_writable("output_dir", options.run_dir)
    if options.log_dir is not None:
        require_writable("log_dir", options.log_dir)
    if options.report:
        require_replaceable(options.report_dir)
    resume = checkpoint_to_resume(options.resume, options.run_dir)
    require_own_folders(options.run_dir, options.log_dir, resume, overwrite=options.overwrite, chosen_by=chosen_by)
    return resume


def build_trainer(
    task: TrainingTask, device: torch.device, options: RunOutputOptions, record: Mapping[str, Any], resume: Path | None
) -> Trainer:
    """The trainer of a task, which goes on from the checkpoint `resume`; `record` is kept in checkpoints."""
    trainer = Trainer(task, device=device, output_dir=options.run_dir, log_dir=options.log_dir, options=record)
    if resume is not None:
        trainer.resume(resume)
    return trainer
