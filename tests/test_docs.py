"""What the documents say is so: commands parse, the runnable ones run, links lead somewhere, named files exist."""

import ast
import importlib
import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest

from thfuse_sam.cli import commands as cli_commands
from thfuse_sam.cli.main import ENTRIES
from tools.vit_nano import __main__ as vit_nano_command

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "datasets/*.md", "models/*.md", "precomputed_masks/*.md", "benchmarks/**/*.md")
    for path in ROOT.glob(pattern)
)
INDEX = ROOT / "docs" / "README.md"
SCRIPTS = {
    "precompute_masks.py": "precompute", "train.py": "train", "test.py": "test", "prepare_data.py": "prepare",
    "finetune.py": "finetune", "predict.py": "predict", "thfuse-precompute": "precompute", "thfuse-train": "train",
    "thfuse-test": "test", "thfuse-prepare": "prepare", "thfuse-finetune": "finetune", "thfuse-predict": "predict",
    "thfuse-compare": "compare", "thfuse-figure": "figure", "thfuse-app": "app", "thfuse-align": "align",
    "thfuse-video": "video",
}  # fmt: skip
COMMANDS = {name: getattr(cli_commands, command) for name, command in SCRIPTS.items()}
COMMANDS["-m tools.vit_nano"] = vit_nano_command.train
COMMANDS |= {f"thfuse {name}": entry.command for name, entry in ENTRIES.items()}

# The command's name with at least one word behind it, up to what ends it: a quote, a table's bar, a comment.
COMMAND = re.compile(
    rf"(?:python (?P<script>\w+\.py|-m tools\.vit_nano)|(?P<installed>thfuse-\w+|thfuse (?:{'|'.join(ENTRIES)})))"
    r"(?P<options>(?: +(?![#|&>])[^\s`'|]+)*)"
)


def joined(path: Path) -> str:
    """A document with commands that are broken by a backslash on one line each."""
    return re.sub(r" *\\\n *", " ", path.read_text(encoding="utf-8"))


def commands(path: Path) -> list[tuple[str, list[str]]]:
    """The project's commands in a document: (name, options)."""
    found = []
    for match in COMMAND.finditer(joined(path)):
        name = match["script"] or match["installed"]
        options = shlex.split(re.sub(r"\$\w+", "1", match["options"]))
        if name in COMMANDS and options and options[0].startswith("-"):
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
    parser = COMMANDS[name].build_parser()
    if "..." not in options and "--help" not in options:
        parser.parse_command(options)


def runnable(path: Path, mark: str = "<!-- runnable -->") -> list[tuple[str, list[str]]]:
    """The commands in the block after a line `mark`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if line == mark]
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
        assert COMMANDS[name].main(options) == 0, (name, options)


def test_the_three_commands_fit_the_sample_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    masks, train, fuse = runnable(ROOT / "README.md", "<!-- sample -->")
    for name, options in (masks, train):
        assert COMMANDS[name].main([*options, "--dry_run"]) == 0, (name, options)
    shutil.copy(ROOT / "models" / "thfuse_lite.safetensors", tmp_path)  # in place of what training would write
    assert fuse == ("test.py", ["--model_path", "models/best.pth"])
    assert COMMANDS["test.py"].main(["--model_path", "thfuse_lite.safetensors", "--dry_run"]) == 0


def test_start_is_runnable() -> None:
    assert ROOT / "docs" / "start.md" in RUNNABLE


def links(path: Path) -> list[str]:
    """Targets of a document's links that lead to files of the project or to headings."""
    text = re.sub(r"`[^`]*`", "", path.read_text(encoding="utf-8"))
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", target)]


def anchors(path: Path) -> set[str]:
    """The anchors that a reader on the web finds in a document: its headings in small letters, with hyphens."""
    headings = re.findall(r"^#+ (.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


EACH_DOCUMENT = pytest.mark.parametrize("path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])


@EACH_DOCUMENT
def test_links_lead_somewhere(path: Path) -> None:
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), f"{path.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{path.name}: {link}"


def test_every_page_is_reachable() -> None:
    reached, waiting = {INDEX}, [INDEX]
    while waiting:
        path = waiting.pop()
        targets = {(path.parent / link.partition("#")[0]).resolve() for link in links(path)}
        new = {target for target in targets if target.suffix == ".md"} - reached
        reached |= new
        waiting += new
    assert set(DOCUMENTS) - reached <= {ROOT / "README.md"}, "pages that no link from docs/README.md leads to"
    assert INDEX in {(ROOT / link).resolve() for link in links(ROOT / "README.md")}


@EACH_DOCUMENT
def test_named_files_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    folders = "benchmarks|configs|tests|thfuse_sam|tools"
    for name in re.findall(rf"(?:python |`)((?:{folders})/[\w/.]+)`?", text):
        assert (ROOT / name).exists(), f"{path.name}: {name}"
    for module in re.findall(r"python -m ((?:benchmarks|tools)[\w.]*)", text):
        assert importlib.util.find_spec(module), f"{path.name}: {module}"


def test_the_readme_has_a_line_for_each_file_and_room() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What is where")[2]
    lines = re.findall(r"^ {4}( *)(\S+)  +\S", tree, re.MULTILINE)
    named = {("thfuse_sam/" if indent else "") + name.rstrip("/") for indent, name in lines}
    assert len(named) == len(lines) > 20
    for name in named:
        assert (ROOT / name).exists(), name
    rooms = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "thfuse_sam").iterdir()
        if (path / "__init__.py").is_file()
    }
    scripts = {path.name for path in ROOT.glob("*.py")} - {"setup.py"}
    assert rooms | scripts <= named


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_a_guide_has_one_table_at_most(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum(bool(re.fullmatch(r"[|:\- ]+", line)) and "|" in line for line in lines) <= 1 + (
        path.name == "architecture.md"
    )


MEASURED = sorted(path for path in (ROOT / "benchmarks" / "results").glob("*.md") if path.name != "README.md")


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.name)
def test_figures_have_machine_and_date(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.search(r"AMD\s+EPYC|Python\s+3", text)
    dates = re.findall(r"^## .*?(\d{4}-\d\d-\d\d)", text, re.MULTILINE)
    assert dates


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
