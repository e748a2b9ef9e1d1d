"""The wheel and the source archive hold everything, and work outside of the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import thfuse_sam

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it there

ROOT = Path(__file__).resolve().parents[2]
TAR_FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.3 lacks it
PARTS = (
    "thfuse_sam", "tools", "models", "datasets/sample", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md",
    "LICENSE",
)  # fmt: skip

# Run outside of the checkout: a dry run, and where test.py looks for its network.
INSTALLED = """
import sys, thfuse_sam
from thfuse_sam.cli.commands import precompute
from thfuse_sam.commands.fuse import open_network
from thfuse_sam.options.fuse import FuseOptions
assert thfuse_sam.__file__.startswith(sys.argv[1]), thfuse_sam.__file__
assert open_network(FuseOptions())[0].is_file()
sys.exit(precompute.main(["--dry_run", "--sam_model_type", "vit_nano"]))
"""


def build(kind: str, source: Path, target: Path) -> None:
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=source, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and a source archive, made from a copy of the checkout."""
    copy, target = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "*.pth"))
        else:
            shutil.copy(ROOT / part, copy / part)
    for kind in ("wheel", "sdist"):
        build(kind, copy, target)
    return target


@pytest.mark.slow
def test_the_wheel_holds_what_ships(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"thfuse_sam/py.typed", "thfuse_sam/report/static/fusion.js", "thfuse_sam/commands/app.css"} <= names
    assert not any(name.startswith(("tools/", "benchmarks/", "tests/")) for name in names)
    for pattern in ("models/*.safetensors", "datasets/sample/**/*.jpg", "datasets/sample/**/*.png"):
        shipped = {f"thfuse_sam/shipped/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob(pattern)}
        assert shipped and shipped <= names
    scripts = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert {"thfuse", "thfuse-precompute", "thfuse-train", "thfuse-test"} <= set(
        re.findall(r"thfuse(?:-\w+)?", scripts)
    )


@pytest.mark.slow
def test_the_source_archive_makes_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (archive,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, **TAR_FILTER)
    (unpacked,) = tmp_path.iterdir()
    assert (unpacked / "tools" / "scenes" / "scene.py").is_file()
    build("wheel", unpacked, tmp_path)
    (again,) = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_an_installed_wheel_finds_its_weights_and_samples(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()
    env = {**os.environ, "PYTHONPATH": str(site), "THFUSE_OFFLINE": "1", "SAM_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", INSTALLED, str(site)]
    done = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "images: 48 (24 ir, 24 vi)" in done.stdout and str(site) in done.stdout
    assert list(empty.iterdir()) == []
    command = [sys.executable, "-m", "thfuse_sam", "fuse", "--device", "cpu", "--no-report"]
    done = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((empty / "results").iterdir())) == 8 and str(site) in done.stderr


def test_the_recipe_for_conda_forge_is_of_this_version_and_needs_the_same() -> None:
    recipe = yaml.safe_load((ROOT / "packaging" / "conda-forge" / "recipe.yaml").read_text("utf-8"))
    assert recipe["context"]["version"] == thfuse_sam.__version__
    there = {re.split(r"[ >]", text)[0]: text.partition(" ")[2] for text in recipe["requirements"]["run"]}
    other_names = {
        "torch": "pytorch", "opencv-python-headless": "py-opencv", "segment-anything-py": "segment-anything",
        "lightning-fabric": "lightning",
    }  # fmt: skip
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [Requirement(text) for text in project["dependencies"]]
    for requirement in needed:
        found = there[other_names.get(requirement.name, requirement.name)]
        assert found == str(requirement.specifier) or requirement.name == "segment-anything-py"
    assert len(there) == len(needed) + 1  # Python
    scripts = [f"{name} = {target}" for name, target in project["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts


def requirements() -> list[Requirement]:
    """Of `pyproject.toml`, those of tests and so of nearly all extras among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *(text for name in extras for text in extras[name] if name != "nano")]
    return [found for text in texts if (found := Requirement(text)).name != project["name"]]


def test_the_lock_file_holds_every_requirement() -> None:
    locked: dict[str, list[str]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)==([^ ;\n]+)", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE
    ):
        locked.setdefault(name, []).append(version)
    for requirement in requirements():
        versions = locked.get(requirement.name.lower(), [])
        assert versions and all(version in requirement.specifier for version in versions), requirement


def test_the_licences_of_all_requirements_are_listed() -> None:
    listed = re.findall(r"^\| ([\w.-]+) \| ", (ROOT / "docs" / "licences.md").read_text("utf-8"), re.MULTILINE)
    assert {requirement.name.lower() for requirement in requirements()} <= set(listed)
