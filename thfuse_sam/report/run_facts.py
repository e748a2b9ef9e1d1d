"""What was run, on what, by which code: the facts at the top of every report."""

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch

import thfuse_sam
from thfuse_sam.masks.manifest import Manifest

Facts = list[tuple[str, str]]  # (label, value) in the order in which they are shown


def run_facts(command: str, device: torch.device, details: Mapping[str, str]) -> Facts:
    """The command as it was typed ("": it is left out), the caller's `details`, then code, machine and time.

    The machine is described but not named, because reports are passed on to others.
    """
    return [
        *([("command", command)] if command else []),
        *details.items(),
        ("code", code_version()),
        ("machine", machine(device)),
        ("time", datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")),
    ]


def headline(facts: Facts) -> list[str]:
    """The facts that fit into one line: network, masks, code and time, as far as they are known."""
    values = dict(facts)
    starts = {label: text.partition(";")[0] for label, text in values.items()}
    if "masks" in starts:
        starts["masks"] = f"masks: {starts['masks']}"
    return [starts[label] for label in ("network", "masks", "code", "time") if label in starts]


def code_version() -> str:
    """The package's version and, in a git checkout, its commit; "with changes" where files differ from it."""
    version = f"thfuse_sam {thfuse_sam.__version__}"
    root = Path(thfuse_sam.__file__).resolve().parents[1]
    commit = _git(root, "rev-parse --short=10 HEAD") if (root / ".git").exists() else ""
    if not commit:
        return version
    changed = _git(root, "status --porcelain --untracked-files=no")
    return f"{version}, commit {commit}{' with changes' if changed else ''}"


def machine(device: torch.device) -> str:
    """The device that did the work, the processor, and the versions that decide results."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_processor()}, {os.cpu_count()} cores"
    return f"{name}; {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"


def mask_signature(root: Path) -> str:
    """The SAM and the settings that made the mask tree at `root`, in one line.

    Raises ManifestError if its manifest is unreadable.
    """
    manifest = Manifest.find(root)
    if manifest is None:
        return f"{root}, no manifest"
    signature = manifest.signature
    settings = ", ".join(f"{name} {value}" for name, value in signature.generator.items())
    return f"{root}: {signature.model_type}, checkpoint {signature.checkpoint_sha256[:12]}; {settings}"


def _processor() -> str:
    """The name of the processor's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _git(root: Path, command: str) -> str:
    """Output of a git command in `root`; empty if git is missing or refuses."""
    try:
        completed = subprocess.run(
            ["git", "-C", str(root), *command.split()], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return completed.stdout.strip()
