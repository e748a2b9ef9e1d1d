import os
from pathlib import Path

import pytest

from tests.masks.file_times import wait_for_another_time
from thfuse_sam.errors import ImageReadError, ManifestError
from thfuse_sam.masks.image_records import RECORDS_NAME, ImageRecords, record_image


def test_a_record_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    first = record_image(path)
    assert record_image(path, first) is first
    wait_for_another_time(path)
    os.utime(path, ns=(5, 5))
    touched = record_image(path, first)
    assert touched.digest == first.digest and touched.time_ns != first.time_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(first.time_ns, first.time_ns))  # an older date does not hide the change
    assert record_image(path, first).digest != first.digest
    with pytest.raises(ImageReadError, match="no such file"):
        record_image(tmp_path / "b.png")


@pytest.mark.parametrize("position", [0, 3 * 10**5, -1])
def test_any_byte_of_a_large_file_counts(tmp_path: Path, position: int) -> None:
    content = bytearray(5 * 2**20)
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    before = record_image(path)
    content[position] = 1
    path.write_bytes(content)
    assert record_image(path).digest != before.digest


def test_records_are_saved_and_merged(tmp_path: Path) -> None:
    assert not ImageRecords.load(tmp_path)
    path = tmp_path / "é.png"
    path.write_bytes(b"one")
    records, others = ImageRecords(), ImageRecords()
    records.set("ir", "a/é", record_image(path))
    others.set("vi", "a/é", record_image(path))
    records.update(others)
    records.save(tmp_path)
    read = ImageRecords.load(tmp_path)
    assert read.get("ir", "a/é") == read.get("vi", "a/é") == record_image(path)
    assert read.get("ir", "b") is None


def test_a_record_follows_the_infrared_image_too(tmp_path: Path) -> None:
    for name in ("ir", "vi"):
        (tmp_path / name).write_bytes(b"one")
    first = record_image(tmp_path / "vi", infrared=tmp_path / "ir")
    records = ImageRecords()
    records.set("vi", "a", first)
    records.save(tmp_path)
    read = ImageRecords.load(tmp_path).get("vi", "a")
    assert read == first and record_image(tmp_path / "vi", read, tmp_path / "ir") is read
    for name in ("ir", "vi"):
        wait_for_another_time(tmp_path / name)
    (tmp_path / "ir").write_bytes(b"two")
    assert not record_image(tmp_path / "vi", read, tmp_path / "ir").has_content_of(read)
    (tmp_path / "ir").unlink()
    (tmp_path / "vi").touch()
    for infrared in (tmp_path / "ir", None):  # not known, so nothing is said, and what was known is kept
        now = record_image(tmp_path / "vi", read, infrared)
        assert now.has_content_of(read) and now.infrared == read.infrared and now != read


def test_an_infrared_image_that_is_added_is_a_change(tmp_path: Path) -> None:
    for name in ("ir", "vi"):
        (tmp_path / name).write_bytes(b"one")
    first = record_image(tmp_path / "vi")
    assert not record_image(tmp_path / "vi", first, tmp_path / "ir").has_content_of(first)


@pytest.mark.parametrize("content", ["", "[]", '{"version": 2, "images": {}}', '{"version": 1, "images": {"ir": 3}}'])
def test_damaged_records_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / RECORDS_NAME).write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match="delete it"):
        ImageRecords.load(tmp_path)
