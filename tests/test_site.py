"""The documents as a site, see `make docs`."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
ROOT = Path(__file__).resolve().parents[1]
COMMAND = re.search(r"^\t\$\(RUN\) (-m sphinx .*) site$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


CONF = runpy.run_path(str(ROOT / "docs" / "conf.py"))
NOTEBOOK = ROOT / "docs" / "notebooks" / "fuse_your_pair.ipynb"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf.py in a repository of its own."""
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    (tmp_path / "docs").mkdir()
    subprocess.run(["git", "init", "-q", "-b", "trunk", str(tmp_path)], check=True)
    return Path(shutil.copy(ROOT / "docs" / "conf.py", tmp_path / "docs"))


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("https://github.com/owner/name.git", ("owner/name", "trunk")),
        ("https://user:word@github.com/owner/na.me/", ("owner/na.me", "trunk")),
        ("git@github.com:owner/name.git", ("owner/name", "trunk")),
        ("https://example.org/owner/name.git", None),
        (None, None),
    ],
)
def test_the_address_is_that_of_origin(elsewhere: Path, origin: str | None, address: tuple[str, str] | None) -> None:
    if origin is not None:
        subprocess.run(["git", "remote", "add", "origin", origin], cwd=elsewhere.parent, check=True)
    assert runpy.run_path(str(elsewhere))["github_address"]() == address


def test_a_workflow_gives_the_address(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    monkeypatch.setenv("GITHUB_REF_NAME", "v1.2")
    assert runpy.run_path(str(elsewhere))["github_address"]() == ("owner/name", "v1.2")


def test_a_notebook_links_to_colab_where_there_is_an_address() -> None:
    content = NOTEBOOK.read_text("utf-8")
    plain = CONF["notebook_as_markdown"](content, None)
    assert plain.startswith("# Fuse your pair\n") and "olab" not in plain
    assert "```text\n%pip install -q th-fuse-sam\n```" in plain and "```python\nfused = th.fuse(ir, vi)\n" in plain
    assert "](data:image/jpeg;base64," in plain
    assert CONF["notebook_as_markdown"](content, "x/y").startswith("# Fuse your pair\n\n[Open in Colab](x/y)\n")


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Run the command of `make docs` for the documents in `source`."""
    assert COMMAND
    command = [sys.executable, *COMMAND[1].split(), str(site)]
    return subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere_and_hold_the_docstrings(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    monkeypatch.setenv("GITHUB_REF_NAME", "v1.2")
    built = build(ROOT, tmp_path)
    assert built.returncode == 0, built.stderr
    first = re.search(r"url=(.*)\"", (tmp_path / "index.html").read_text("utf-8"))
    assert first and (tmp_path / first[1]).is_file()
    loaded = re.compile(r"<(?:link|script|img|iframe|source)[^>]*?(?:src|href)=\"(?:https?:)?//[^\"]*")
    assert [hit for page in tmp_path.rglob("*.html") for hit in loaded.findall(page.read_text("utf-8"))] == []
    styles = [
        path
        for path in tmp_path.rglob("*.css")
        if re.search(r"(?:url\(|@import).{0,2}(https?:)?//", path.read_text("utf-8"))
    ]
    assert styles == []
    assert "The network is kept for the next call" in (tmp_path / "docs" / "reference.html").read_text("utf-8")
    notebook = (tmp_path / "docs" / "notebooks" / "fuse_your_pair.html").read_text("utf-8")
    colab = "https://colab.research.google.com/github/owner/name/blob/v1.2/docs/notebooks/fuse_your_pair.ipynb"
    assert f'href="{colab}"' in notebook and notebook.count('<img alt="what the cell shows"') == 3


@pytest.mark.slow
def test_a_broken_link_fails(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    shutil.copy(ROOT / "docs" / "conf.py", folder)
    (tmp_path / "README.md").write_text("# Project\n\n[documents](docs/README.md)\n", "utf-8")
    (folder / "README.md").write_text("# First\n\n[second](second.md#part)\n", "utf-8")
    (folder / "second.md").write_text("# Second\n\n## Part\n", "utf-8")
    assert build(tmp_path, tmp_path / "site").returncode == 0
    (folder / "second.md").write_text("# Second\n\n## Other\n", "utf-8")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0 and "part" in built.stderr
