"""Sphinx: a site of the project's documents, which stay where they are (`make docs`)."""

import json
import os
import posixpath
import re
import subprocess
from pathlib import Path
from typing import Any

project = "TH-Fuse-SAM"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["*.md", "*/README.md", "docs/*.md", "docs/*.rst", "docs/notebooks/*", "benchmarks/results/*.md"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown", ".ipynb": "markdown"}  # see `show_notebook`
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
            links = re.findall(r"\]\(([^)]+)\.(?:md|rst|ipynb)\)", part)
            pages = dict.fromkeys(posixpath.normpath(f"docs/{link}") for link in links)
            source[0] += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```\n"])


def show_notebook(app: Any, page: str, source: list[str]) -> None:
    """A notebook as a page; where the site knows its repository, with a link that opens it in Colab."""
    name = f"{page}.ipynb"
    if (Path(app.srcdir) / name).is_file():
        address = github_address()
        link = address and f"https://colab.research.google.com/github/{address[0]}/blob/{address[1]}/{name}"
        source[0] = notebook_as_markdown(source[0], link)


def notebook_as_markdown(content: str, colab: str | None) -> str:
    """The cells of a notebook and what they have shown; below its heading the link to Colab, if there is one."""
    parts = []
    for cell in json.loads(content)["cells"]:
        text = "".join(cell["source"])
        language = "text" if text.startswith("%") else "python"
        parts.append(text if cell["cell_type"] == "markdown" else f"```{language}\n{text}\n```")
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/jpeg"):
                parts.append(f"![what the cell shows](data:image/jpeg;base64,{''.join(picture.split())})")
            elif "text" in output:
                parts.append(f"```text\n{''.join(output['text'])}\n```")
    heading, _, rest = parts[0].partition("\n")
    parts[0] = f"{heading}\n\n[Open in Colab]({colab})\n{rest}" if colab else parts[0]
    return "\n\n".join(parts)


def github_address() -> tuple[str, str] | None:
    """OWNER/NAME and the branch or tag of the repository that the site is built from; None: it is not on GitHub."""
    if repository := os.environ.get("GITHUB_REPOSITORY"):
        return repository, os.environ["GITHUB_REF_NAME"]
    found = re.search(r"github\.com[:/]([^/]+/[^/]+?)(?:\.git)?/?$", git("remote", "get-url", "origin"))
    return (found[1], git("branch", "--show-current") or git("rev-parse", "HEAD")) if found else None


def git(*words: str) -> str:
    """What git says of this checkout; "" where there is no git, or none knows."""
    try:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def add_index(app: Any, error: Exception | None) -> None:
    """What a server shows for the folder leads to the first page."""
    if error is None:
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html">'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Any) -> None:
    app.connect("source-read", add_menu)
    app.connect("source-read", show_notebook)
    app.connect("build-finished", add_index)
