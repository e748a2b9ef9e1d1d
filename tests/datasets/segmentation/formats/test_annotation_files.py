"""Finding the images that annotation files name."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thfuse_sam.datasets.segmentation.formats.annotation_files import ImageFinder, base_name
from thfuse_sam.errors import SampleError

PARTS = st.sampled_from(
    ["..", ".", "a", "A", "images", "secret.png", "1.png", "u\u0308.png", "\u00fc.png", "", "C:", "~"]
)


@settings(max_examples=60)
@given(st.lists(PARTS, max_size=6), st.sampled_from(["/", "\\"]), st.booleans())
def test_nothing_outside_of_the_root_is_found(parts: list[str], separator: str, absolute: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        outside, root = Path(folder).resolve(), Path(folder).resolve() / "root"
        for path in (outside / "secret.png", outside / "1.png", root / "images/1.png", root / "a/u\u0308.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (root / "images/secret.png").symlink_to(outside / "secret.png")
        (root / "A").symlink_to(outside)
        name = separator.join([str(outside) if absolute else "", *parts] if absolute else parts)
        try:
            found = ImageFinder(root).find(name, [root, root / "images", root / "a"], root / "file.json")
        except SampleError as error:
            assert "file.json" in str(error)
        else:
            assert found is None or found.resolve().is_relative_to(root)


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("a/b.png", "b.png"),
        ("C:\\a\\b.png", "b.png"),
        ("/data/local-files/?d=x/b%20c.png", "b c.png"),
        ("https://host/a/b.png", "b.png"),
        ("..%2Fb.png", "..b.png"),
        ("100%.png", "100%.png"),
    ],
)
def test_last_part_of_a_path_or_address(name: str, last: str) -> None:
    assert base_name(name) == last


def test_names_that_differ_in_case_alone_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "A.png").touch()
    finder = ImageFinder(tmp_path)
    assert finder.find("A.png", [tmp_path], tmp_path) == tmp_path / "A.png"
    assert finder.find("a.PNG", [tmp_path], tmp_path) is None
