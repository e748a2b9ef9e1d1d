"""Sphinx: a site of the project's documents, which stay where they are (`make docs`)."""

import posixpath
import re
from pathlib import Path
from typing import Any

project = "TH-Fuse-SAM"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["*.md", "*/README.md", "docs/*.md", "docs/*.rst", "benchmarks/results/*.md"]
exclude_patterns = [".venv", "site"]
suppress_warnings = ["toc.not_included"]  # the menu holds what the first page links to
default_role = "code"
smartquotes = False  # what is quoted can be copied
add_module_names = False
autodoc_typehints = "none"  # the signatures in words: docstrings say types, shapes and ranges
myst_heading_anchors = 4  # levels of headings that links may name
html_theme = "furo"
html_title = project
html_show_copyright = False
html_copy_source = False


def add_menu(app: Any, page: str, source: list[str]) -> None:
    """The menu at the side: what the index of the documents links to, in its two parts."""
    if page == root_doc:
        parts = (Path(app.srcdir) / "docs" / "README.md").read_text(encoding="utf-8").split("\nTo judge")
        for caption, part in zip(("Guides", "To judge and to change it"), parts, strict=False):
            links = re.findall(r"\]\(([^)]+)\.(?:md|rst)\)", part)
            pages = dict.fromkeys(posixpath.normpath(f"docs/{link}") for link in links)
            source[0] += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```\n"])


def add_index(app: Any, error: Exception | None) -> None:
    """What a server shows for the folder leads to the first page."""
    if error is None:
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html">'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Any) -> None:
    app.connect("source-read", add_menu)
    app.connect("build-finished", add_index)
