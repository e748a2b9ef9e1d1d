"""Sphinx: a site of the project's documents, which stay where they are (`make docs`)."""

import re
from pathlib import Path
from typing import Any

project = "TH-Fuse-SAM"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/README"
include_patterns = ["*.md", "*/README.md", "docs/*.md", "docs/*.rst", "benchmarks/results/*.md"]
exclude_patterns = [".venv", "site"]
suppress_warnings = ["toc.not_included"]  # the menu holds what the first page links to
default_role = "code"
add_module_names = False
autodoc_typehints = "none"  # the signatures in words: docstrings say types, shapes and ranges
myst_heading_anchors = 4  # levels of headings that links may name
html_theme = "furo"
html_title = project
html_show_copyright = False
html_copy_source = False


def add_menu(app: Any, page: str, source: list[str]) -> None:
    """The menu at the side: the first page's links."""
    if page == root_doc:
        pages = dict.fromkeys(re.findall(r"\]\(([^)]+)\.(?:md|rst)\)", source[0]))
        source[0] += "\n".join(["\n```{toctree}", ":hidden:", "", *pages, "```\n"])


def add_index(app: Any, error: Exception | None) -> None:
    """What a server shows for the folder leads to the first page."""
    if error is None:
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html">'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Any) -> None:
    app.connect("source-read", add_menu)
    app.connect("build-finished", add_index)
