"""What the documents say is so: commands parse, the runnable ones run, links lead somewhere, named tests exist."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "datasets/*.md", "models/*.md", "precomputed_masks/*.md")
    for path in ROOT.glob(pattern)
)
MODULES = {
    "precompute_masks.py": "precompute", "train.py": "train", "test.py": "test", "prepare_data.py": "prepare",
    "finetune.py": "finetune", "predict.py": "predict", "thfuse-precompute": "precompute", "thfuse-train": "train",
    "thfuse-test": "test", "thfuse-prepare": "prepare", "thfuse-finetune": "finetune", "thfuse-predict": "predict",
    "thfuse-figure": "figure", "thfuse-app": "app",
}  # fmt: skip

# The command's name with at least one word behind it, up to what ends it: a quote, a table's bar, a comment.
COMMAND = re.compile(r"(?:python (?P<script>\w+\.py)|(?P<installed>thfuse-\w+))(?P<options>(?: +(?![#|&>])[^\s`'|]+)*)")


def commands(path: Path) -> list[tuple[str, list[str]]]:
    """The project's commands in a document: (name, options)."""
    found = []
    for match in COMMAND.finditer(path.read_text(encoding="utf-8")):
        name = match["script"] or match["installed"]
        options = shlex.split(re.sub(r"\$\w+", "1", match["options"]))
        if name in MODULES and options and options[0].startswith("-"):
            found.append((name, options))
    return found


ALL = [(path, name, options) for path in DOCUMENTS for name, options in commands(path)]


def test_there_are_commands() -> None:
    assert len(ALL) > 30


@pytest.mark.parametrize(
    ("path", "name", "options"),
    ALL,
    ids=[f"{path.relative_to(ROOT)} {name} {i}" for i, (path, name, _) in enumerate(ALL)],
)
def test_commands_parse(path: Path, name: str, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    parser = importlib.import_module(f"thfuse_sam.cli.{MODULES[name]}").build_parser()
    if "..." not in options and "--help" not in options:
        parser.parse_command(options)


def runnable(path: Path) -> list[tuple[str, list[str]]]:
    """The commands in the block after a line `<!-- runnable -->`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if line == "<!-- runnable -->"]
    found = []
    for start in starts:
        for line in lines[start + 1 :]:
            if not line.startswith("    "):
                break
            words = shlex.split(line, comments=True)
            assert words[0] == "python", line
            found.append((words[1], words[2:]))
    return found


RUNNABLE = [path for path in DOCUMENTS if runnable(path)]


@pytest.mark.slow
@pytest.mark.parametrize("path", RUNNABLE, ids=[path.name for path in RUNNABLE])
def test_runnable_commands_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, options in runnable(path):
        assert importlib.import_module(f"thfuse_sam.cli.{MODULES[name]}").main(options) == 0, (name, options)


def test_start_is_runnable() -> None:
    assert ROOT / "docs" / "start.md" in RUNNABLE


@pytest.mark.parametrize("path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"`[^`]*`", "", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target) and not target.startswith("#"):
            assert (path.parent / target.partition("#")[0]).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_named_scripts_exist(path: Path) -> None:
    for name in re.findall(
        r"(?:python |`)((?:benchmarks|docs|configs|tests)/[\w/]+\.(?:py|yaml))", path.read_text("utf-8")
    ):
        assert (ROOT / name).is_file(), f"{path.name}: {name}"


def test_each_promise_names_a_test() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 30
    for file, test in named:
        functions = [
            node.name
            for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
            if isinstance(node, ast.FunctionDef)
        ]
        assert test in functions, f"{file}::{test}"
    for row in re.findall(r"^\| .*", text.partition("## Promises")[2].partition("\n## ")[0], re.MULTILINE)[2:]:
        assert "tests/" in row or row.startswith("| **"), row
