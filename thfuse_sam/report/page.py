"""Writing a report: one folder of plain files that opens from the disk, without a network and without a server.

::

    report/
      index.html      the page of one kind of report
      data.js         all that the page shows, `window.REPORT = {...}`
      report.css, *.js
      pictures/       numbered, so that no image's name becomes part of an address

`data.js` is a script and not a JSON file because browsers refuse to fetch files from pages on the disk.
"""

import contextlib
import importlib.resources
import json
import math
import os
import shutil
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from thfuse_sam.errors import OutputError
from thfuse_sam.files import make_directory, mark_being_written, partial_path, write_atomically, write_text
from thfuse_sam.report.run_facts import Facts, headline

ReportKind = Literal["fusion", "training", "precompute", "finetune"]

REPORT_FOLDER = "report"  # name of the folder, beside the other outputs of a command
INDEX = "index.html"
DATA = "data.js"


# Of each kind of page: its title, its heading, and what it has besides `KIND.html` and `KIND.js` of `static/`.
_PAGES: dict[ReportKind, tuple[str, str, str]] = {
    "fusion": ("Fused images", "Infrared + visible → fused", "viewer.js"),
    "training": ("Training", "Training", "curves.html"),
    "precompute": ("Masks", "Masks", ""),
    "finetune": ("Fine-tuning", "Fine-tuning", "curves.html"),
}


def require_replaceable(folder: Path) -> None:
    """Raise OutputError if `folder` is a file, or holds something that is not an earlier report."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / DATA).is_file():
        raise OutputError(f"{folder}: holds other files than a report; move them or make no report")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: a file is where the report's folder is needed; move it")


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which it replaces at the end. After an error the earlier report stays.

    Raises OutputError.
    """
    require_replaceable(folder)
    staging, former = partial_path(folder), partial_path(folder)
    make_directory(staging)
    descriptor = os.open(staging, os.O_RDONLY) if os.name != "nt" else None  # Windows cannot open folders
    try:
        if descriptor is not None:
            mark_being_written(descriptor)
        yield staging
        try:
            if folder.exists():
                folder.rename(former)
            staging.rename(folder)
        except OSError as error:
            if former.exists() and not folder.exists():
                former.rename(folder)
            raise OutputError(f"{folder}: cannot be written ({error.strerror or error}); close what uses it") from error
    finally:
        if descriptor is not None:
            os.close(descriptor)
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def write_page(folder: Path, kind: ReportKind, facts: Facts, data: Mapping[str, Any]) -> Path:
    """Write the page of `kind` into `folder`.

    Args:
        facts: what was run, shown at the top.
        data: what the page's script reads, JSON-able. Floats are rounded to six significant digits; those that are
            not finite become null.

    Returns the path of index.html. Raises OutputError.
    """
    static = importlib.resources.files("thfuse_sam.report") / "static"

    def content(name: str) -> str:
        return (static / name).read_text(encoding="utf-8")

    title, heading, other = _PAGES[kind]
    scripts = [name for name in ("ui.js", "charts.js", other, f"{kind}.js") if name.endswith(".js")]
    parts = [name for name in (f"{kind}.html", other) if name.endswith(".html")]
    write_text(folder / DATA, data_script({"kind": kind, "facts": facts, "headline": headline(facts), **data}))
    for name in ("report.css", *scripts):
        write_text(folder / name, content(name))
    html = string.Template(content("frame.html")).substitute(
        title=title,
        heading=heading,
        main="".join(content(name) for name in parts),
        scripts="\n".join(f'<script src="{name}"></script>' for name in (DATA, *scripts)),
    )
    write_text(folder / INDEX, html)  # last, so that whoever finds the page finds everything that it shows
    return folder / INDEX


def data_script(data: Mapping[str, Any]) -> str:
    """`data` as a script that is safe whatever its strings hold, even if it is pasted into a page."""
    text = json.dumps(_json_able(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # "</script>" and "<!--" would end a script in a page; the two line separators end a line of older JavaScript.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f"window.REPORT = {text};\n"


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content atomically. Raises OutputError."""
    with source.open("rb") as content:
        write_atomically(target, lambda file: shutil.copyfileobj(content, file))


def _json_able(value: Any) -> Any:
    """`value` with text keys, lists for tuples and rounded floats; None for those that are not finite."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _json_able(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_able(item) for item in value]
    return value
