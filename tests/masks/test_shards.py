import errno
import json
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thfuse_sam.errors import MaskReadError, OutputError, UsageError
from thfuse_sam.images import write_image
from thfuse_sam.masks.instances import encode_instances
from thfuse_sam.masks.manifest import Manifest, Signature
from thfuse_sam.masks.shards import MaskShards, ShardWriter
from thfuse_sam.masks.source import PrecomputedMasks
from thfuse_sam.masks.store import open_masks
from thfuse_sam.masks.tree import INSTANCES_SUFFIX, MaskFiles, partial_files
from thfuse_sam.masks.verify import verify_tree

SHAPE = (5, 7)
TAR_FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.3 lacks it
LONG = "/".join(["ein sehr langer Ordnername mit Umlauten äöü"] * 5) + "/0001"


def mask(value: int, dtype: type = np.uint8) -> np.ndarray:
    return np.full(SHAPE, value, dtype)


def fill(root: Path, images: int = 2) -> None:
    writer = ShardWriter(root, images)
    for index, name in enumerate(("a/0001", "scene.v2", LONG), 1):
        writer.write("ir", name, mask(index), encode_instances([], SHAPE))
        writer.write("vi", name, mask(1000 + index, np.uint16))
    writer.close()


@pytest.mark.parametrize("indexed", [True, False])
def test_what_was_packed_is_read(tmp_path: Path, indexed: bool) -> None:
    fill(tmp_path)
    shards = sorted((tmp_path / "shards").glob("*.tar"))
    assert len(shards) == 3
    if not indexed:
        for index in (tmp_path / "shards").glob("*.json"):
            index.unlink()
    store = pickle.loads(pickle.dumps(open_masks(tmp_path)))  # noqa: S301
    assert isinstance(store, MaskShards)
    names = sorted(["a/0001", "scene.v2", LONG])
    assert store.names("ir") == store.names("vi") == store.names("ir", INSTANCES_SUFFIX) == names
    assert store.names("vi", INSTANCES_SUFFIX) == []
    for index, name in enumerate(("a/0001", "scene.v2", LONG), 1):
        np.testing.assert_array_equal(store.read("ir", name, SHAPE), mask(index))
        visible_mask = store.read("vi", name, None)
        assert visible_mask.dtype == np.uint16 and (visible_mask == 1000 + index).all()
        assert store.shape_and_time("vi", name)[0] == SHAPE
        assert store.read_instances("ir", name, SHAPE) == []
    assert not store.has("ir", "b")
    with pytest.raises(MaskReadError, match="no such mask"):
        store.read("ir", "b", None)
    with pytest.raises(MaskReadError, match=r"\.tar: ir/a/0001\.npy: has shape"):
        store.read("ir", "a/0001", (7, 5))


def test_members_are_the_files_of_a_tree(tmp_path: Path) -> None:
    fill(tmp_path, images=100)
    (shard,) = (tmp_path / "shards").glob("*.tar")
    with tarfile.open(shard) as tar:
        tar.extractall(tmp_path / "tree", **TAR_FILTER)
    tree = MaskFiles(tmp_path / "tree")
    tree.write("ir", "again", mask(1))
    assert tree.path("ir", "again").read_bytes() == tree.path("ir", "a/0001").read_bytes()
    assert tree.names("ir", INSTANCES_SUFFIX) == sorted(["a/0001", "scene.v2", LONG])


def test_only_finished_shards_are_seen(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 2)
    for name in ("1", "2", "3"):
        writer.write("ir", name, mask(1))
    assert MaskShards(tmp_path).names("ir") == ["1", "2"]
    (partial,) = partial_files(tmp_path)
    assert partial.name.endswith(".partial")
    writer.close()
    assert MaskShards(tmp_path).names("ir") == ["1", "2", "3"]
    assert partial_files(tmp_path) == []


def test_a_later_shard_counts(tmp_path: Path) -> None:
    for value in (1, 2, 3):
        writer = ShardWriter(tmp_path)
        writer.write("ir", "a", mask(value))
        writer.close()
    store = MaskShards(tmp_path)
    assert store.names("ir") == ["a"]
    assert (store.read("ir", "a", SHAPE) == 3).all()


def test_writers_do_not_meet(tmp_path: Path) -> None:
    writers = [ShardWriter(tmp_path, 1), ShardWriter(tmp_path, 1)]
    for index in range(6):
        writers[index % 2].write("ir", str(index), mask(index + 1))
    store = MaskShards(tmp_path)
    assert [int(store.read("ir", str(index), SHAPE)[0, 0]) for index in range(6)] == [1, 2, 3, 4, 5, 6]


def test_an_image_that_does_not_fit_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ShardWriter(tmp_path)
    writer.write("ir", "1", mask(1))
    encode = tarfile.TarFile.addfile

    def full(tar: tarfile.TarFile, header: tarfile.TarInfo, content: object = None) -> None:
        assert tar.fileobj is not None
        tar.fileobj.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(OutputError, match=os.strerror(errno.ENOSPC)):
        writer.write("ir", "2", mask(2))
    monkeypatch.setattr(tarfile.TarFile, "addfile", encode)
    writer.write("ir", "3", mask(3))
    writer.close()
    assert writer.lost == 0
    store = MaskShards(tmp_path)
    assert store.names("ir") == ["1", "3"]
    for index in (tmp_path / "shards").glob("*.json"):
        index.unlink()
    store = MaskShards(tmp_path)
    assert (store.read("ir", "3", SHAPE) == 3).all()


def test_a_shard_that_cannot_be_finished_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = ShardWriter(tmp_path)
    writer.write("ir", "1", mask(1))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError):
        writer.close()
    assert writer.lost == 1
    assert list((tmp_path / "shards").iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(size=1),
        lambda index: index.update(version=2),
        lambda index: index["members"].update({"ir/a/0001.npy": [10**9, 163]}),
        lambda index: index["members"].update({"ir/a/0001.npy": [-1, 163]}),
        lambda index: index["members"].update({"ir/a/0001.npy": "x"}),
        lambda index: index.clear(),
    ],
)
def test_an_index_that_does_not_fit_is_not_used(tmp_path: Path, change: object) -> None:
    fill(tmp_path, images=100)
    (path,) = (tmp_path / "shards").glob("*.json")
    index = json.loads(path.read_text(encoding="utf-8"))
    change(index)  # type: ignore[operator]
    path.write_text(json.dumps(index), encoding="utf-8")
    assert (MaskShards(tmp_path).read("ir", "a/0001", SHAPE) == 1).all()


def test_a_damaged_shard_costs_its_own_masks(tmp_path: Path) -> None:
    fill(tmp_path)
    first, *_ = sorted((tmp_path / "shards").glob("*.tar"))
    first.write_bytes(b"x" * 2000)
    store = MaskShards(tmp_path)
    assert store.names("ir") == sorted(["scene.v2", LONG])
    assert len(store.damaged) == 1 and str(first) in store.damaged[0]
    assert [line for line in verify_tree(store, {}).lines["unreadable"] if str(first) in line]


def test_names_cannot_leave_the_tree(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    for name in ("../a", "/a", "a/../b"):
        with pytest.raises(UsageError, match="would leave"):
            writer.write("ir", name, mask(1))
        with pytest.raises(UsageError, match="would leave"):
            MaskShards(tmp_path).has("ir", name)
    writer.close()


def test_training_reads_shards_as_it_reads_a_tree(tmp_path: Path) -> None:
    fill(tmp_path)
    source = pickle.loads(pickle.dumps(PrecomputedMasks(tmp_path, {})))  # noqa: S301
    read = source.get("ir", "scene.v2", Path("x.png"), SHAPE)
    assert read is not None and (read == 2).all()
    assert source.get("ir", "scene.v2", Path("x.png"), (9, 9)) is None
    assert source.get("ir", "gone", Path("x.png"), SHAPE) is None


def test_verify_reads_shards(tmp_path: Path) -> None:
    fill(tmp_path / "tree")
    images = {name: tmp_path / "ir" / f"{index}.png" for index, name in enumerate(("a/0001", "scene.v2", LONG))}
    for path in images.values():
        write_image(path, np.zeros(SHAPE, np.uint8))
    Manifest(Signature("vit_b", "00", {}, "1.0")).save(tmp_path / "tree")
    report = verify_tree(MaskShards(tmp_path / "tree"), {"ir": images}, require_instances=True)
    assert report.problems() == [] and report.sound == 3
    write_image(images["scene.v2"], np.zeros((3, 3), np.uint8))
    images["new"] = images.pop("a/0001")
    report = verify_tree(MaskShards(tmp_path / "tree"), {"ir": images})
    assert len(report.lines["missing"]) == len(report.lines["left over"]) == len(report.lines["wrong size"]) == 1
