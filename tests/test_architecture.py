"""Imports run downwards only, and importing the package does no work."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from thfuse_sam.cli.main import ENTRIES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "thfuse_sam"

# Rooms from the top down. A room imports from its own line and from those below it, and no two rooms import each other.
LAYERS = (
    ("cli", "api"),
    ("commands",),
    ("report", "video"),
    ("precompute", "fusion", "finetune"),
    ("training",),
    ("datasets", "sam"),
    ("align", "masks", "losses", "metrics", "models"),
    ("options",),
    ("",),  # the modules of the package itself: errors, files, images, devices
)
DEPTHS = {room: depth for depth, rooms in enumerate(LAYERS) for room in rooms}


def room(parts: tuple[str, ...]) -> str:
    """The room of a dotted name without the leading `thfuse_sam`."""
    return parts[0] if parts and parts[0] in DEPTHS else ""


def room_of(path: Path) -> str:
    """The room of a file; the package's own module lists what `api/` defines, and __main__.py starts `cli/`."""
    top = {"__init__.py": "api", "__main__.py": "cli"}
    return room(path.relative_to(PACKAGE).parts[:-1]) or (top.get(path.name, "") if path.parent == PACKAGE else "")


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
    own = room_of(path)
    for name in imported_names(path):
        other = room(name)
        assert DEPTHS[other] >= DEPTHS[own], (
            f"{path.relative_to(PACKAGE)} imports thfuse_sam.{'.'.join(name)} from a room above its own"
        )


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(PACKAGE)) for path in MODULES])
def test_only_cli_spells_commands(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    scripts = "precompute_masks|train|test|prepare_data|finetune|predict"
    spelled = re.compile(rf"\b({scripts})\.py\b|\bthfuse[ -]({'|'.join(ENTRIES)})\b(?!-)")
    found = [text for text in texts - docstrings if spelled.search(text)]
    assert room_of(path) == "cli" or not found, "name the command's function, such as `train()`"


def test_no_two_rooms_import_each_other() -> None:
    needs: dict[str, set[str]] = {name: set() for name in DEPTHS}
    for path in MODULES:
        own = room_of(path)
        needs[own] |= {room(name) for name in imported_names(path)} - {own}
    tuple(graphlib.TopologicalSorter(needs).static_order())  # raises CycleError, which names the rooms


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(PACKAGE)) for path in MODULES])
def test_the_package_does_without_tools(path: Path) -> None:
    assert not re.search(r"^\s*(from|import) tools\b", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_folder_is_a_room() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name not in ("__pycache__", "shipped")}
    assert folders == set(DEPTHS) - {""}


@pytest.mark.parametrize("folder", ["models", "datasets"])
def test_root_folders_are_no_packages(folder: str) -> None:
    assert not list((ROOT / folder).rglob("__init__.py"))


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_scripts_are_thin(script: str) -> None:
    assert len((ROOT / script).read_text(encoding="utf-8").splitlines()) <= 100


def test_masks_and_datasets_do_without_segment_anything() -> None:
    code = (
        "import sys; sys.modules['segment_anything'] = None\n"
        "import thfuse_sam.masks.source, thfuse_sam.datasets.fusion, thfuse_sam.models, thfuse_sam.fusion.fusing"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
