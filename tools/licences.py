"""Write docs/licences.md, the licences of all packages that th-fuse-sam with all its extras installs.

python -m tools.licences
"""

import importlib.metadata as metadata
import re
from pathlib import Path

from packaging.requirements import Requirement

TARGET = Path(__file__).resolve().parents[1] / "docs" / "licences.md"
# Packages whose metadata do not name the licence in a few words; these are from the licence files in them.
BY_HAND = {
    "cuda-toolkit": "NVIDIA Proprietary Software",
    "docutils": "Public Domain, BSD-2-Clause",  # its wheel lacks the one file under the GPL
    "faster-coco-eval": "Apache-2.0",
}

AV = """\
av (the extra `video`) is a wrapper; its wheels bring FFmpeg, which is under the LGPL 3, and with it the encoders
x264 and x265, which are under the GPL 2. Whoever must do without these builds av with an FFmpeg of their own:
`pip install --no-binary av av`. `thfuse-video` then takes another encoder by itself.""".splitlines()


def add_needed(name: str, extras: tuple[str, ...], versions: dict[str, str]) -> None:
    """Add the package `name`, and the packages that it needs on this system, to `versions` (name -> version)."""
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return  # not installed: needed on another system or by another Python only
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in versions and not extras:
        return
    versions[key] = package.version
    for text in package.requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            add_needed(requirement.name, tuple(requirement.extras), versions)


def licence(name: str) -> str:
    """The licence of an installed package in a few words, from its metadata."""
    if name in BY_HAND:
        return BY_HAND[name]
    content = metadata.metadata(name).json
    classifiers = [text.rpartition(" :: ")[2] for text in content.get("classifier", []) if "License ::" in text]
    first_line = str(content.get("license", "")).strip().partition("\n")[0][:60]
    return str(content.get("license_expression") or ", ".join(classifiers) or first_line or "see the package")


def main() -> None:
    own = metadata.metadata("th-fuse-sam").get_all("Provides-Extra") or []
    versions: dict[str, str] = {}
    add_needed("th-fuse-sam", tuple(own), versions)
    versions.pop("th-fuse-sam")
    lines = [
        "# Licences of dependencies",
        "",
        "th-fuse-sam itself: MIT. With all extras, tests included, it brings (written by `python -m tools.licences`):",
        "",
        "| package | version | licence |",
        "|---|---|---|",
        *(f"| {name} | {version} | {licence(name)} |" for name, version in sorted(versions.items())),
        "",
        "Nothing of them is part of this repository or of its wheel.",
        "",
        *AV,
    ]
    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
