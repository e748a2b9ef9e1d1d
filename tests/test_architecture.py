"""Imports run downwards only, and importing the package does no work."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "thfuse_sam"

# A module may import from its own layer and from those below it (smaller numbers).
LAYERS = {
    "": 0,  # errors, files, images, devices
    "sam": 1,
    "masks": 1,
    "losses": 1,
    "metrics": 1,
    "models": 2,
    "datasets": 2,
    "engine": 3,
    "report": 3,
    "cli": 4,
}


def layer(parts: tuple[str, ...]) -> int:
    """Layer of a dotted name without the leading `thfuse_sam`."""
    return LAYERS.get(parts[0], 0) if parts else 0


def imported_names(path: Path) -> list[tuple[str, ...]]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            names.append(node.module or "")
    return [tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == "thfuse_sam"]


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(PACKAGE)) for path in MODULES])
def test_imports_run_downwards(path: Path) -> None:
    own = layer(path.relative_to(PACKAGE).parts[:-1])
    for name in imported_names(path):
        assert layer(name) <= own, f"{path.name} imports thfuse_sam.{'.'.join(name)} from a layer above its own"


def test_every_folder_has_a_layer() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(LAYERS) - {""}


@pytest.mark.parametrize("folder", ["models", "datasets"])
def test_root_folders_are_no_packages(folder: str) -> None:
    assert not list((ROOT / folder).rglob("__init__.py"))


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_scripts_are_thin(script: str) -> None:
    assert len((ROOT / script).read_text(encoding="utf-8").splitlines()) <= 100


def test_masks_and_datasets_do_without_segment_anything() -> None:
    code = (
        "import sys; sys.modules['segment_anything'] = None\n"
        "import thfuse_sam.masks.source, thfuse_sam.datasets.fusion, thfuse_sam.models.registry, thfuse_sam.engine.fuse"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
