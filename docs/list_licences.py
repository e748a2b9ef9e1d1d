"""Writes docs/licences.md: the licence of every package that th-fuse-sam, with all its extras, brings.

python docs/list_licences.py
"""

import importlib.metadata as metadata
import re
from pathlib import Path

from packaging.requirements import Requirement

TARGET = Path(__file__).with_name("licences.md")
# Packages whose metadata say nothing short, read from the licence files that they carry.
BY_HAND = {"cuda-toolkit": "NVIDIA Proprietary Software", "faster-coco-eval": "Apache-2.0"}


def needed(name: str, extras: tuple[str, ...], found: dict[str, str]) -> None:
    """Add `name` and what it needs here to `found`: name -> version."""
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return  # for another system or Python
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in found and not extras:
        return
    found[key] = package.version
    for text in package.requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            needed(requirement.name, tuple(requirement.extras), found)


def licence(name: str) -> str:
    """In a few words, from the package's metadata."""
    if name in BY_HAND:
        return BY_HAND[name]
    content = metadata.metadata(name)
    expression = content.get("License-Expression")
    classifiers = [text.rpartition(" :: ")[2] for text in content.get_all("Classifier") or [] if "License ::" in text]
    short = (content.get("License") or "").strip().splitlines()
    return str(expression or ", ".join(classifiers) or (short[0][:60] if short else "see the package"))


def main() -> None:
    own = metadata.metadata("th-fuse-sam").get_all("Provides-Extra") or []
    found: dict[str, str] = {}
    needed("th-fuse-sam", tuple(own), found)
    found.pop("th-fuse-sam")
    lines = [
        "# Licences of dependencies",
        "",
        "th-fuse-sam itself: MIT. With all extras, tests included, it brings (written by `docs/list_licences.py`):",
        "",
        "| package | version | licence |",
        "|---|---|---|",
        *(f"| {name} | {version} | {licence(name)} |" for name, version in sorted(found.items())),
        "",
        "Nothing of them is part of this repository or of its wheel.",
    ]
    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
