"""The documents as a site, see `make docs`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
ROOT = Path(__file__).resolve().parents[1]
COMMAND = re.search(r"^\t\$\(RUN\) (-m sphinx .*) site$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Run the command of `make docs` for the documents in `source`."""
    assert COMMAND
    command = [sys.executable, *COMMAND[1].split(), str(site)]
    return subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere_and_hold_the_docstrings(tmp_path: Path) -> None:
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
