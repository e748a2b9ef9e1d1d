import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from thfuse_sam.errors import UsageError
from thfuse_sam.masks.tree import INSTANCES_SUFFIX, MaskFiles, partial_files

MASK = np.ones((2, 3), dtype=np.uint8)


def test_paths_mirror_the_names(tmp_path: Path) -> None:
    tree = MaskFiles(tmp_path)
    assert tree.path("ir", "a/0001") == tmp_path / "ir" / "a" / "0001.npy"
    assert tree.path("vi", "a/0001", INSTANCES_SUFFIX) == tmp_path / "vi" / "a" / "0001.json"


def test_dots_in_names_are_kept(tmp_path: Path) -> None:
    tree = MaskFiles(tmp_path)
    names = ["night/scene.v2", "scene.v2", "scene.v3", "夜.a"]
    for name in names:
        tree.write("ir", name, MASK)
    assert tree.path("ir", "scene.v2").name == "scene.v2.npy"
    assert tree.names("ir") == sorted(names)
    assert tree.names("vi") == []


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/a", "", ".", "..", "a//b", "a/", "a/./b", "a\0b"])
def test_names_cannot_leave_the_tree(tmp_path: Path, name: str) -> None:
    tree = MaskFiles(tmp_path)
    for path in (tree.path, tree.location, tree.has):
        with pytest.raises(UsageError, match="would leave the mask tree"):
            path("ir", name)
    with pytest.raises(UsageError):
        tree.write("ir", name, MASK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "nt", reason="only Windows takes these for separators and drives")
@pytest.mark.parametrize("name", ["..\\a", "C:a", "C:\\a"])
def test_windows_names_cannot_leave_the_tree(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        MaskFiles(tmp_path).path("ir", name)


def test_partial_and_hidden_files_are_no_masks(tmp_path: Path) -> None:
    tree = MaskFiles(tmp_path)
    tree.write("ir", "a/0001", MASK)
    partial = tmp_path / "ir" / "a" / ".0002.npy.123.partial"
    partial.write_bytes(b"half")
    (tmp_path / "ir" / "a" / "._0003.npy").write_bytes(b"")
    assert tree.names("ir") == ["a/0001"]
    assert partial_files(tmp_path) == [partial]
    assert not tree.has("ir", "a/0002")


def test_has_and_read(tmp_path: Path) -> None:
    tree = pickle.loads(pickle.dumps(MaskFiles(tmp_path)))  # noqa: S301
    assert not tree.has("vi", "a")
    tree.write("vi", "a", MASK)
    assert tree.has("vi", "a")
    np.testing.assert_array_equal(tree.read("vi", "a", (2, 3)), MASK)


def test_instance_files_are_listed_apart(tmp_path: Path) -> None:
    tree = MaskFiles(tmp_path)
    tree.write("ir", "a", MASK)
    tree.path("ir", "b", INSTANCES_SUFFIX).write_text("{}", encoding="utf-8")
    assert tree.names("ir") == ["a"]
    assert tree.names("ir", INSTANCES_SUFFIX) == ["b"]
